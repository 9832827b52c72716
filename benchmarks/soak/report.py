"""What a soak showed: each promise, kept or broken, and the figures behind it."""

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.load import percentile
from benchmarks.soak.callers import Tally
from benchmarks.soak.greedy import SHORT_OF, Greedy
from benchmarks.soak.site import MEMORY, RECONCILE_SECONDS, Site
from benchmarks.soak.troubles import Happened
from benchmarks.soak.truth import GOOD, Truth
from benchmarks.soak.watching import Growth, Watch, growths

REVOKED_WITHIN = 2.0
MOST_OF_THEM = 0.8
"""The share of the comparisons that a busy machine must have made in time."""
FEWEST = 100
"""Answers below which a soak has shown nothing."""


@dataclass(frozen=True)
class Promise:
    """A promise, what was seen, and whether it was kept."""

    text: str
    seen: str
    kept: bool


@dataclass(frozen=True)
class Report:
    """A soak's outcome."""

    seconds: float
    began: float
    site: Site
    happened: Happened
    tally: Tally
    greedy: list[Greedy]
    watch: Watch
    truth: Truth
    alone: int
    """Versions that said their own word when asked alone."""

    @property
    def steady(self) -> str:
        """The replica that was never restarted."""
        return self.site.replicas[0].name

    @property
    def growths(self) -> list[Growth]:
        """What the replica that was never restarted took more of as time went by."""
        return growths(self.watch.samples[self.steady])

    @property
    def promises(self) -> list[Promise]:
        """All of them."""
        verdicts = self.tally.verdicts
        wrong = {v: n for v, n in verdicts.items() if v not in GOOD}
        versions = sum(n for v, n in wrong.items() if "undeclared" not in v and "lost" not in v)
        undeclared = sum(n for v, n in wrong.items() if "undeclared" in v)
        lost = sum(n for v, n in wrong.items() if v.startswith("lost")) + self.tally.lost
        return [
            Promise(
                "no answer by a wrong version, by header, digest and words",
                f"{versions} of {verdicts['right']:,} answers",
                versions == 0 and verdicts["right"] >= FEWEST,
            ),
            Promise("no undeclared error", f"{undeclared}", undeclared == 0),
            Promise("no request lost", f"{lost}", lost == 0),
            self._revocation(),
            *self._bounds(),
            self._residency(),
            Promise(
                "nothing is held for callers who left", f"{self.watch.held}", self.watch.held == 0
            ),
            *(self._limit(one) for one in self.greedy),
            *(
                Promise(f"no growth: {growth.what}", growth.text, not growth.grows)
                for growth in self.growths
                if growth.promised
            ),
        ]

    @property
    def kept(self) -> bool:
        """Whether every promise was."""
        return all(promise.kept for promise in self.promises)

    def _revocation(self) -> Promise:
        took = [s for replica in self.happened.revocation_seconds.values() for s in replica]
        text = f"a revoked version is refused everywhere within {REVOKED_WITHIN:g} s, p99"
        if not took:
            return Promise(text, "never measured", kept=False)
        p99 = percentile(took, 0.99)
        seen = f"p50 {median(took):.2f}, p99 {p99:.2f}, most {max(took):.2f} s of {len(took)}"
        return Promise(text, seen, p99 <= max(REVOKED_WITHIN, self.truth.bound))

    def _bounds(self) -> list[Promise]:
        """Bounds that hold at any time, on every replica."""
        samples = [s.values for s in self.watch.samples.values() if s.values]
        names = max(max(values["engine names"]) for values in samples)
        disk = max(max(values["disk, MB"]) for values in samples)
        # A load is on the disk before room is made for it: one that ends, and two that begin.
        bound = self.site.cache_bytes * 1.5 / 1e6
        return [
            Promise(f"at most {MEMORY} names in an engine", f"{names:.0f}", names <= MEMORY),
            Promise(f"at most {bound:.0f} MB on a disk", f"{disk:.1f} MB", disk <= bound),
        ]

    def _residency(self) -> Promise:
        """Compared every second, restarts left out."""
        checks, diverged = self.watch.checks[self.steady], sum(self.watch.diverged.values())
        return Promise(
            "what a replica believes its engine holds is what the engine lists, every second",
            f"{diverged} adapters differed; {checks:.0f} comparisons by {self.steady}",
            diverged == 0 and checks >= MOST_OF_THEM * self.seconds / RECONCILE_SECONDS,
        )

    def _limit(self, greedy: Greedy) -> Promise:
        what, got, most = greedy.got
        error = 0 if what == "requests" else greedy.tokens
        return Promise(
            f"a key that asks for more gets its {what} and no more",
            f"{got:,} of {most:,.0f}, {greedy.refused:,} times refused",
            got <= most + error and (got >= SHORT_OF * most or greedy.refused < greedy.answered),
        )

    def figures(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
        return {
            "seconds": self.seconds,
            "kept": self.kept,
            "promises": [asdict(promise) for promise in self.promises],
            "growths": [asdict(growth) for growth in self.growths],
            "verdicts": dict(self.tally.verdicts),
            "wrong": [{"verdict": v, **asdict(asked)} for v, asked in self.tally.broken],
            "right_by_replica": dict(self.tally.right_by),
            "left_early": self.tally.left,
            "repeats": self.tally.repeats,
            "said_their_word_alone": self.alone,
            "first_byte_seconds": {
                f"p{share:g}": percentile(self.tally.seconds, share / 100)
                for share in (50, 95, 99)
                if self.tally.seconds
            },
            "happened": asdict(self.happened),
        }

    def text(self) -> str:
        """The summary table."""
        h, tally = self.happened, self.tally
        lines = [
            "",
            f"{self.seconds:.0f} s; right answers by replica: "
            f"{', '.join(f'{name} {n:,}' for name, n in sorted(tally.right_by.items()))}",
            f"{tally.verdicts.total():,} requests judged, {tally.left:,} left early, "
            f"{tally.repeats:,} repeated elsewhere",
            f"{h.moves:,} alias moves, {h.published} versions published, {h.revoked} revoked, "
            f"{h.outages} outages of the store, {h.terminated} replicas ended by SIGTERM "
            f"(in {_span(h.ending_seconds)} s), {h.killed} by SIGKILL",
            "",
            *(f"  {verdict:<28} {count:>8,}" for verdict, count in tally.verdicts.most_common()),
            "",
            *(f"  {'kept  ' if p.kept else 'BROKEN'}  {p.text}: {p.seen}" for p in self.promises),
            *(f"  seen    {g.what}: {g.text}" for g in self.growths if not g.promised),
            *(f"  {verdict}: {asked}" for verdict, asked in tally.broken[:8]),
        ]
        return "\n".join(lines)


def _span(values: list[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f}" if values else "-"
