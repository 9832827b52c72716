"""Shadows: what is counted when a candidate answers requests whose answers nobody gets. Pure.

Each replica counts by itself and reports its totals, so a report that arrives twice, or after a
later one, changes nothing. Counts only: no prompt, no answer and nothing of a caller.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec
from annotated_types import Ge, Le

from adapters.fields import Count
from adapters.names import DEFAULT_ALIAS, AdapterRef
from registry.model.evidence import Tally, interval

KEPT = 20
"""Shadows that have ended and that an adapter remembers, the latest."""
MAX_REPORTERS = 1000
"""Processes that may report about one shadow: a replica that is started again is another."""

Seconds = Annotated[float, Ge(0), Le(1e12)]


class Comparison(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was seen of a candidate and the version that callers got, request by request."""

    compared: Count = 0
    """Requests that both answered."""
    failed: Count = 0
    """Requests that the candidate failed to answer."""
    dropped: Count = 0
    """Requests that were chosen and that the candidate was not asked: nothing was free for it."""
    texts: Count = 0
    """Of those compared: asked at temperature 0, where equal models give equal texts."""
    same_text: Count = 0
    same_first: Count = 0
    """Answers whose first words are the same: of a label or a choice, all that counts."""
    tokens: Count = 0
    """Of the answers that callers got, where both answered."""
    candidate_tokens: Count = 0
    timed: Count = 0
    """Of those compared: the engine reported the times of both, their waiting left out."""
    first_seconds: Seconds = 0.0
    """Of the answers that callers got, to the first token, summed."""
    candidate_first_seconds: Seconds = 0.0
    first_slower: Count = 0
    """How often the candidate took longer to its first token."""
    token_seconds: Seconds = 0.0
    """Mean seconds for each further token of the answers that callers got, summed."""
    candidate_token_seconds: Seconds = 0.0
    token_slower: Count = 0
    scored: Count = 0
    """Of those compared: the caller sent the expected answer."""
    correct: Count = 0
    """Expected answers that callers got."""
    gained: Count = 0
    """Those that the candidate alone gave."""
    lost: Count = 0
    """Those that it alone did not give."""

    def plus(self, other: "Comparison") -> "Comparison":
        """The sums of both."""
        names = Comparison.__struct_fields__
        return Comparison(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def covers(self, other: "Comparison") -> bool:
        """Whether this is a later total than `other`, or the same: no count is lower."""
        return all(getattr(self, name) >= getattr(other, name) for name in self.__struct_fields__)

    @property
    def consistent(self) -> bool:
        """Whether no part is above the whole that it belongs to."""
        chains = (
            (self.same_text, self.same_first, self.texts, self.compared),
            (self.first_slower, self.timed, self.compared),
            (self.token_slower, self.timed),
            (self.lost, self.correct, self.scored, self.compared),
            (self.correct + self.gained, self.scored),
        )
        return all(list(chain) == sorted(chain) for chain in chains)

    @property
    def candidate_correct(self) -> int:
        """Expected answers that the candidate gave."""
        return self.correct + self.gained - self.lost


class Shadow(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate that answers a share of an alias's requests, whose answers nobody gets."""

    alias: str
    stable: int
    """The version that the alias named, and with which the candidate is compared."""
    candidate: int
    share: float
    """Of the alias's requests, 0..1."""
    number: int
    """Which of the adapter's shadows: what was seen of another says nothing about this one."""
    actor: str
    time: str
    ended: str | None = None
    """When; None while it runs."""
    reason: str | None = None
    """Why it ended."""
    reports: dict[str, Comparison] = {}
    """By replica's process, its totals."""

    @property
    def seen(self) -> Comparison:
        """All reports together."""
        total = Comparison()
        for report in self.reports.values():
            total = total.plus(report)
        return total


def shadow_of(running: Mapping[str, Shadow], ref: AdapterRef, number: int) -> Shadow | None:
    """The shadow of the alias by which `ref` asked for version `number`, if that is the version
    which the candidate is compared with; None where a version was named.

    running: the adapter's shadows by alias.
    """
    if not running or ref.version is not None:
        return None
    found = running.get(ref.alias or DEFAULT_ALIAS)
    return found if found is not None and found.stable == number else None


def ended(
    shadows: tuple[Shadow, ...],
    at: str,
    reason: str,
    *,
    alias: str | None = None,
    version: int | None = None,
) -> tuple[Shadow, ...]:
    """`shadows` after those of `alias`, or with `version` on a side, ended; the latest are kept."""
    after = tuple(
        msgspec.structs.replace(shadow, ended=at, reason=reason)
        if shadow.ended is None
        and (shadow.alias == alias or version in (shadow.candidate, shadow.stable))
        else shadow
        for shadow in shadows
    )
    over = [shadow.number for shadow in after if shadow.ended is not None][:-KEPT]
    return tuple(shadow for shadow in after if shadow.number not in over) if over else after


def view(shadow: Shadow) -> dict[str, Any]:
    """A shadow as plain JSON, with the sums of its reports."""
    shown: dict[str, Any] = msgspec.to_builtins(shadow)
    del shown["reports"]
    seen = shadow.seen
    counts = {name: getattr(seen, name) for name in seen.__struct_fields__}
    return {**shown, "replicas": len(shadow.reports), "seen": counts}


def summary(seen: Comparison) -> Iterator[tuple[str, str]]:
    """What was seen, each with its name; shares with their 95 % interval (Clopper and Pearson)."""
    asked = seen.compared + seen.failed
    yield "compared", f"{seen.compared} requests; {seen.dropped} more were not asked"
    if asked:
        yield "candidate failed", _share(seen.failed, asked)
    if seen.texts:
        yield "same text", _share(seen.same_text, seen.texts)
        yield "same first word", _share(seen.same_first, seen.texts)
    if seen.compared:
        yield "tokens", f"{seen.candidate_tokens}, of the answers given {seen.tokens}"
    if seen.timed:
        first = _times(seen.candidate_first_seconds, seen.first_seconds, seen.timed)
        each = _times(seen.candidate_token_seconds, seen.token_seconds, seen.timed)
        yield "to the first token", f"{first}; slower: {_share(seen.first_slower, seen.timed)}"
        yield "for each token", f"{each}; slower: {_share(seen.token_slower, seen.timed)}"
    if seen.scored:
        yield "correct", _share(seen.candidate_correct, seen.scored)
        yield "correct answers given", _share(seen.correct, seen.scored)
        yield "differ", f"{seen.gained} only the candidate's correct, {seen.lost} only the other's"


def _share(hits: int, n: int) -> str:
    low, high = interval(Tally(hits=hits, n=n))
    return f"{hits} of {n} ({100 * low:.1f} to {100 * high:.1f} %)"


def _times(candidate: float, stable: float, n: int) -> str:
    return f"{1000 * candidate / n:.3g} ms, of the answers given {1000 * stable / n:.3g} ms"
