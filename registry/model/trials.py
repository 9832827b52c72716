"""Whether what was seen of a candidate crosses a bound that its split declared. Pure.

Whoever watches a candidate looks after every request, and may stop at any. A confidence interval
that is right for one look is then wrong many times over, so the rule here is a test that holds for
all looks together. Let `hits` of `n` requests have failed while the bound allows the share `rate`.
The likelihood ratio of a higher rate against `rate` is a supermartingale as long as the true rate
is at most `rate`, whatever it is, and so is a mixture of such ratios. By Ville's inequality it ever
reaches 1/ALPHA with a probability of at most ALPHA, however long and however often one looks.

Sources: J. Ville, "Étude critique de la notion de collectif" (1939); H. Robbins, "Statistical
methods related to the law of the iterated logarithm", Ann. Math. Stat. 41 (1970); S. Howard,
A. Ramdas, J. McAuliffe, J. Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence
sequences", Ann. Stat. 49 (2021); R. Johari, P. Koomen, L. Pekelis, D. Walsh, "Always valid
inference", Operations Research 70 (2022).
"""

import hashlib
import math
from typing import Annotated, Literal

import msgspec
from annotated_types import Ge, Le

from adapters.fields import Count, Number, Share
from registry.model.ratings import Tally

BoundName = Literal["error_rate", "latency_ratio", "negative_share"]
ALPHA = 0.01
"""The highest probability that a split ever ends because of a bound that its candidate keeps."""
ODDS = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
"""The alternatives that are mixed: odds of a hit so many times those of the bound."""
PEERS = 19
"""A candidate's time is compared with the slowest of so many of the stable version's, taken for
this comparison alone. If both are alike it is slower with a probability of 1 in `PEERS` + 1, by
symmetry and whatever the distribution: 1 in 20, which is what a 95th percentile means."""

FEW = 20
"""Requests from which on the stable version's failures are compared with the candidate's."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a candidate must keep. None where nothing is asked."""

    max_error_rate: Share | None = 0.05
    """The highest share of its requests that may fail, in 0..1."""
    max_latency_ratio: Annotated[float, Ge(1), Le(1000)] | None = 2.0
    """How many times as slow as the version it is compared with it may be, at the 95th percentile
    of the time to a stream's first token, or of a whole answer's time for each token."""
    max_negative_share: Share | None = 0.5
    """The highest share of negative ratings among all, in 0..1."""
    min_requests: Number = 50
    """How many requests it must have had before errors or times are judged."""
    min_askers: Number = 2
    """How many persons' keys feedback must come from before it is judged. From 2 on it must cross
    the bound without any one of them, too; 1 is for an app whose one key serves all its users."""

    def limit(self, bound: BoundName) -> float | None:
        """What is declared for `bound`."""
        limits = {
            "error_rate": self.max_error_rate,
            "latency_ratio": self.max_latency_ratio,
            "negative_share": self.max_negative_share,
        }
        return limits[bound]


class Canary(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody set an alias's split to; 0 percent ended it."""

    alias: str
    candidate: int
    percent: int
    actor: str
    time: str


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of one of two versions since the split began."""

    requests: Count = 0
    """Those that succeeded or failed; what a caller did wrong counts as neither."""
    errors: Count = 0
    first_token_p95: Annotated[float, Ge(0), Le(1e9)] | None = None
    """Seconds, over the latest streams: for people, it decides nothing."""
    positive: Count = 0
    negative: Count = 0


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of both, and how often the candidate lost a comparison of times."""

    candidate: Arm
    stable: Arm
    compared: Count = 0
    """Comparisons of a candidate's time with those of `PEERS` others."""
    slower: Count = 0
    """In how many of them the candidate was slower than the bound allows."""


class Split(msgspec.Struct, frozen=True):
    """A candidate that a share of an alias's callers gets."""

    candidate: int
    percent: int
    bounds: Bounds | None = None
    number: int = 0
    """Which of the adapter's splits: what was seen of another says nothing about this one."""
    since: int = 0
    """When it began, seconds since 1970."""
    opinions: Tally = Tally()
    """About the candidate's answers to requests for the alias."""
    stable_opinions: Tally = Tally()
    """About those of the version it is compared with."""
    askers: dict[str, Tally] = {}
    """`ratings` by the person whose keys asked."""


class Rollback(msgspec.Struct, frozen=True, kw_only=True):
    """A split that ended because its candidate crossed a bound."""

    alias: str
    candidate: int
    split: int
    bound: BoundName
    limit: float
    evidence: Evidence
    actor: str
    time: str


def e_value(hits: int, n: int, rate: float) -> float:
    """How strongly `hits` of `n` speak against a true rate of at most `rate`, both 0..1.

    Its expectation is at most 1 if that is the true rate, at any moment that one may choose to
    look. 0 for a rate that cannot be exceeded.
    """
    if rate >= 1:
        return 0.0
    ratios = (hits * math.log(odds) - n * math.log1p((odds - 1) * rate) for odds in ODDS)
    return sum(math.exp(min(700.0, ratio)) for ratio in ratios) / len(ODDS)


def crosses(bound: BoundName, bounds: Bounds, seen: Evidence, *, replicas: int = 1) -> bool:
    """Whether the evidence is enough to say that the candidate crosses `bound`.

    replicas: how many judge independently. Each takes an equal part of ALPHA, so that it holds for
    all of them together.
    """
    limit = bounds.limit(bound)
    if limit is None:
        return False
    enough, candidate, stable = replicas / ALPHA, seen.candidate, seen.stable
    if bound == "negative_share":
        opinions = candidate.positive + candidate.negative
        return e_value(candidate.negative, opinions, limit) >= enough
    if candidate.requests < bounds.min_requests:
        return False
    if bound == "latency_ratio":
        return e_value(seen.slower, seen.compared, 1 / (PEERS + 1)) >= enough
    if e_value(candidate.errors, candidate.requests, limit) < enough:
        return False
    if stable.requests < FEW:
        return True
    # Where everybody's requests fail, something else is broken. Of failures that neither causes in
    # particular, the candidate has its share of the requests, however many fail and whenever.
    share = candidate.requests / (candidate.requests + stable.requests)
    return e_value(candidate.errors, candidate.errors + stable.errors, share) >= enough


def in_words(bound: BoundName, limit: float, seen: Evidence) -> str:
    """The evidence as a sentence."""
    candidate, stable = seen.candidate, seen.stable
    match bound:
        case "error_rate":
            return (
                f"{candidate.errors} of {candidate.requests} requests failed "
                f"(allowed: {100 * limit:g} %); of the stable version's {stable.errors} of "
                f"{stable.requests}"
            )
        case "latency_ratio":
            return (
                f"{seen.slower} of {seen.compared} times it took more than {limit:g} times as long "
                f"as the slowest of {PEERS} answers of the stable version "
                f"(allowed: 1 in {PEERS + 1})"
            )
        case "negative_share":
            return (
                f"{candidate.negative} of {candidate.positive + candidate.negative} answers were "
                f"judged negative (allowed: {100 * limit:g} %); of the stable version's "
                f"{stable.negative} of {stable.positive + stable.negative}"
            )


def bucket(split: str, caller: str) -> int:
    """Where, from 0 to 99, a caller falls in a split: evenly, and the same in every process."""
    digest = hashlib.sha256(f"{split}\n{caller}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100
