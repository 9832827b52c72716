"""What a caller may ask the registry to do. `decide` turns a command into events, or refuses."""

from dataclasses import dataclass
from typing import Annotated, TypeAlias

from annotated_types import Ge, Le, MaxLen, MinLen, Predicate

from adapters.admission import Facts
from adapters.confidence import Calibration
from adapters.fields import Comment, Count, Digest, Name, Reason, Word, is_text
from adapters.lineage import Lineage
from adapters.spectra import Spectrum
from registry.model.events import File, Grant, Policy
from registry.model.evidence import Engine, SuiteResult
from registry.model.opinions import Category, Rating
from registry.model.reviewing import MAX_ITEMS, Preference, Verdict
from registry.model.trials import BoundName, Bounds, Evidence

NO_LINEAGE = Lineage()
MAX_CONDEMNED = 10_000
"""Blobs in one commit of a collection, which makes as many commits as it takes."""


@dataclass(frozen=True, slots=True)
class CreateRegistry:
    """Begin the log: name the registry and issue its first operator's key."""

    registry: Name
    key: Name
    key_name: Name
    secret_sha256: Digest


@dataclass(frozen=True, slots=True)
class RegisterBase:
    """Make a base model known; `shapes` is the digest of a stored blob."""

    name: Name
    digest: Digest
    shapes: Digest
    known_as: Annotated[tuple[Name, ...], MaxLen(100)] = ()
    read_at: Count = 0
    """As for `PublishVersion`."""


@dataclass(frozen=True, slots=True)
class CreateDomain:
    """Open a domain under a policy."""

    domain: Name
    policy: Policy


@dataclass(frozen=True, slots=True)
class ChangePolicy:
    """Replace a domain's policy. With `expected`, only if that is the policy now."""

    domain: Name
    policy: Policy
    expected: Policy | None = None
    weaken: bool = False
    """Whether the new policy may protect less than the old one."""


@dataclass(frozen=True, slots=True)
class SetDefaultAdapter:
    """Let the bare domain name mean `adapter`."""

    domain: Name
    adapter: Name


@dataclass(frozen=True, slots=True)
class PublishVersion:
    """Make admitted bytes the adapter's next version. Its files are stored and verified already.

    Publishing again what is the newest version already changes nothing and succeeds: a publisher
    whose reply was lost just repeats its push.
    """

    domain: Name
    adapter: Name
    digest: Digest
    base: Name
    files: Annotated[tuple[File, ...], MaxLen(1000)]
    facts: Facts
    read_at: Count = 0
    """The commit after which the stored files were read back: a collection that ended later may
    have removed them since."""
    lineage: Lineage = NO_LINEAGE
    signer: Digest | None = None
    spectrum: Spectrum | None = None
    analysis: Digest | None = None
    flags: Annotated[tuple[Reason, ...], MaxLen(100)] = ()
    expected: Count | None = None
    """Only if this is the adapter's newest version now (0: it has none), given up or not."""


@dataclass(frozen=True, slots=True)
class MoveAlias:
    """Let an alias name `version`. With `expected`, only if it names that version now (0: none)."""

    domain: Name
    adapter: Name
    alias: Name
    version: Count
    expected: Count | None = None


@dataclass(frozen=True, slots=True)
class SplitAlias:
    """Let `percent` of an alias's callers get `candidate`; the others keep what it names."""

    domain: Name
    adapter: Name
    alias: Name
    candidate: Count
    percent: Annotated[int, Ge(0), Le(100)]
    bounds: Bounds | None = None
    """What the candidate must keep; None: only people end the split."""


@dataclass(frozen=True, slots=True)
class RollBackSplit:
    """End a split whose candidate crossed a bound, as the evidence shows. Repeating it is safe."""

    domain: Name
    adapter: Name
    alias: Name
    candidate: Count
    split: Count
    bound: BoundName
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class GiveFeedback:
    """Tell what a caller thought of one answer. The same again changes nothing."""

    domain: Name
    adapter: Name
    version: Count
    response: Annotated[str, MinLen(1), MaxLen(400), Predicate(is_text)]
    answered: Count
    asker: Name
    rating: Rating
    category: Category | None = None
    comment: Comment | None = None
    alias: Name | None = None
    split: Count = 0


@dataclass(frozen=True, slots=True)
class ApproveVersion:
    """Vouch, as an expert, for exactly the bytes with `digest`."""

    domain: Name
    adapter: Name
    version: Count
    digest: Digest


@dataclass(frozen=True, slots=True)
class RecordEvaluation:
    """Record what an evaluation of exactly the bytes with `digest` found.

    Its report is stored already. Recording the same report again changes nothing.
    """

    domain: Name
    adapter: Name
    version: Count
    digest: Digest
    report: Digest
    results: Annotated[tuple[SuiteResult, ...], MinLen(1), MaxLen(100)]
    calibration: Calibration | None = None
    read_at: Count = 0
    """As for `PublishVersion`."""
    engine: Engine | None = None
    answered: Word | None = None


@dataclass(frozen=True, slots=True)
class OpenReview:
    """Ask experts about answers of one version, or of two side by side.

    `content` is the digest of a stored blob with the items, whose ids are `items`.
    """

    review: Name
    domain: Name
    adapter: Name
    versions: Annotated[tuple[Count, ...], MinLen(1), MaxLen(2)]
    title: Name
    items: Annotated[tuple[Name, ...], MinLen(1), MaxLen(MAX_ITEMS)]
    content: Digest
    keep_days: Annotated[int, Ge(0), Le(10_000)] | None = None
    read_at: Count = 0
    """As for `PublishVersion`."""


@dataclass(frozen=True, slots=True)
class JudgeItem:
    """Say, finally, what an item's answers are; verdicts in the order of the versions."""

    review: Name
    item: Name
    verdicts: Annotated[tuple[Verdict, ...], MinLen(1), MaxLen(2)]
    severity: Annotated[int, Ge(0), Le(3)] = 0
    preferred: Preference = "neither"
    notes: Digest | None = None
    read_at: Count = 0
    """As for `PublishVersion`."""


@dataclass(frozen=True, slots=True)
class CloseReview:
    """Let nobody judge it any more."""

    review: Name


@dataclass(frozen=True, slots=True)
class EraseReview:
    """Give up the texts of a review that has ended."""

    review: Name


@dataclass(frozen=True, slots=True)
class RevokeVersion:
    """Let nobody be served this version any more."""

    domain: Name
    adapter: Name
    version: Count
    reason: Reason


@dataclass(frozen=True, slots=True)
class TombstoneVersion:
    """Give up a version's bytes for good."""

    domain: Name
    adapter: Name
    version: Count
    reason: Reason


@dataclass(frozen=True, slots=True)
class CondemnBlobs:
    """Announce the removal of blobs. Those that something names by now are spared."""

    digests: Annotated[tuple[Digest, ...], MaxLen(MAX_CONDEMNED)]


@dataclass(frozen=True, slots=True)
class SweepBlobs:
    """Report that every condemned blob is removed."""


@dataclass(frozen=True, slots=True)
class IssueKey:
    """Make a key known; the caller generated the secret and shows it once."""

    key: Name
    name: Name
    secret_sha256: Digest
    grants: Annotated[tuple[Grant, ...], MaxLen(100)]
    expires: Word | None = None


@dataclass(frozen=True, slots=True)
class RevokeKey:
    """Let a key open nothing any more."""

    key: Name
    reason: Reason


Command: TypeAlias = (
    CreateRegistry
    | RegisterBase
    | CreateDomain
    | ChangePolicy
    | SetDefaultAdapter
    | PublishVersion
    | MoveAlias
    | SplitAlias
    | RollBackSplit
    | GiveFeedback
    | ApproveVersion
    | RecordEvaluation
    | OpenReview
    | JudgeItem
    | CloseReview
    | EraseReview
    | RevokeVersion
    | TombstoneVersion
    | CondemnBlobs
    | SweepBlobs
    | IssueKey
    | RevokeKey
)
