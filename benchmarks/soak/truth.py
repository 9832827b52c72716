"""What was told to the registry and when, and so what any replica may have answered. Pure.

Replicas learn of a commit within a staleness bound. While the object store is away they cannot
learn, and nothing can be committed either; they catch up within the bound once it is back. An
answer is right if some state that the replica may have known while it had the request in hand
gives it. Times are of one monotonic clock, in seconds.
"""

import math
from dataclasses import dataclass, field

CLOSED = ("ReadError", "RemoteProtocolError", "WriteError")
"""What a client calls the closing of a connection on which it had just sent a request."""
AT_ONCE = 0.25
"""Seconds within which that shows; a request that was being answered is lost later than that."""


@dataclass(frozen=True, slots=True)
class Told:
    """A command: when it was sent and when it was acknowledged."""

    began: float
    acknowledged: float


@dataclass(frozen=True, slots=True)
class Span:
    """A time from `began` to `ended`, which is infinite while it lasts."""

    began: float
    ended: float = math.inf

    def meets(self, began: float, ended: float) -> bool:
        """Whether the two times have a moment in common."""
        return self.began <= ended and began <= self.ended


@dataclass
class Truth:
    """The story so far."""

    bound: float
    """Seconds within which a replica that can read the store knows what was committed."""
    patience: float
    """Seconds for which a moved alias may go on answering until its new target is warm."""
    moves: dict[str, list[tuple[Told, str]]] = field(default_factory=dict)
    """By an alias's full name, the pinned names it was moved to."""
    revoked: dict[str, Told] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    outages: list[Span] = field(default_factory=list)
    """When the object store was away."""

    def known_by(self, moment: float) -> float:
        """When every replica knows what was acknowledged at `moment`."""
        known = moment + self.bound
        for outage in self.outages:
            if outage.meets(moment, known):
                known = outage.ended + self.bound
        return known

    def versions(self, name: str, sent: float, answered: float) -> set[str]:
        """The pinned names that `name` may have meant to whoever had the request in hand."""
        moves = self.moves.get(name)
        if moves is None:
            return {name}
        allowed = set()
        over = math.inf
        for told, version in reversed(moves):
            if told.began <= answered and over > sent:
                allowed.add(version)
            # A move that was never acknowledged may have happened, or not.
            over = min(over, self.known_by(told.acknowledged) + self.patience)
        return allowed

    def may_serve(self, version: str, sent: float) -> bool:
        """Whether a request sent then may still be served by the version."""
        told = self.revoked.get(version)
        return told is None or self.known_by(told.acknowledged) > sent

    def may_refuse(self, version: str, answered: float) -> bool:
        """Whether a request answered then may be refused since the version is revoked."""
        told = self.revoked.get(version)
        return told is not None and told.began <= answered

    def store_is_away(self, began: float, ended: float) -> bool:
        """Whether a load may have failed because of the store; it is not repeated for a moment."""
        return any(
            Span(o.began, o.ended + self.bound + 1).meets(began, ended) for o in self.outages
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request and what came of it."""

    replica: str
    name: str
    sent: float
    answered: float
    """When its first byte came, or it failed."""
    ended: float = 0.0
    """When its last byte came, or the answer broke off; 0 if it never began."""
    status: int = 0
    """0 if there was no answer."""
    code: str = ""
    """Our error code, or the name of the client's error where there was no answer."""
    retry_after: bool = False
    version: str = ""
    digest: str = ""
    right_words: bool = True
    """Whether what came of the text is what that version says."""
    broke_off: bool = False
    """Whether an answer that had begun did not end."""


@dataclass
class Life:
    """One replica's comings and goings."""

    told_to_end: list[Span] = field(default_factory=list)
    """From SIGTERM until its successor is ready."""
    killed: list[Span] = field(default_factory=list)
    """From SIGKILL until its successor is ready."""

    def away(self, began: float, ended: float) -> bool:
        """Whether it was away at some moment."""
        return any(s.meets(began, ended) for s in (*self.told_to_end, *self.killed))


GOOD = frozenset(
    ("right", "revoked", "held back", "store away", "shutting_down", "starting", "no answer")
)
"""Verdicts that break no promise; the others say which one is broken."""


def judge(truth: Truth, life: Life, asked: Asked) -> str:
    """The verdict on one request: one of `GOOD`, or what is wrong with it."""
    allowed = truth.versions(asked.name, asked.sent, asked.answered)
    match asked.status:
        case 0:
            return _judge_silence(life, asked)
        case 200:
            return _judge_answer(truth, life, asked, allowed)
        case 410:
            refused = any(truth.may_refuse(v, asked.answered) for v in allowed)
            return "revoked" if refused else "refused as revoked, though it is not"
        case 429 if asked.retry_after:
            return "held back"
        case 503 if asked.retry_after:
            return _judge_unavailable(truth, life, asked)
        case _:
            return f"undeclared: {asked.status} {asked.code}"


def _judge_answer(truth: Truth, life: Life, asked: Asked, allowed: set[str]) -> str:
    if asked.version not in allowed:
        return "wrong version"
    if asked.digest != truth.digests[asked.version]:
        return "wrong digest"
    if not asked.right_words:
        return "another version's words"
    if not truth.may_serve(asked.version, asked.sent):
        return "revoked version served"
    if asked.broke_off:
        killed = any(s.meets(asked.sent, max(asked.answered, asked.ended)) for s in life.killed)
        return "no answer" if killed else "answer broke off"
    return "right"


def _judge_silence(life: Life, asked: Asked) -> str:
    """Nothing came back: right only from a process that was not there, or on an idle connection
    that it closed at that very moment, as every client must expect (RFC 9112, section 9.3.1)."""
    if any(span.meets(asked.sent, asked.answered) for span in life.killed):
        return "no answer"
    away = life.away(asked.sent, asked.answered)
    closed = asked.code in CLOSED and asked.answered - asked.sent < AT_ONCE
    return (
        "no answer" if away and (asked.code == "ConnectError" or closed) else f"lost: {asked.code}"
    )


def _judge_unavailable(truth: Truth, life: Life, asked: Asked) -> str:
    match asked.code:
        case "cold_load_failed" if truth.store_is_away(asked.sent, asked.answered):
            return "store away"
        case "shutting_down" if life.away(asked.sent, asked.answered):
            return "shutting_down"
        case "registry_unavailable" if life.away(asked.sent, asked.answered):
            return "starting"
        case _:
            return f"undeclared: 503 {asked.code}"
