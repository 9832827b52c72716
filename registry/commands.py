"""What a caller may ask the registry to do. `decide` turns a command into events, or refuses."""

from dataclasses import dataclass
from typing import TypeAlias

from adapters.admission import Facts
from adapters.confidence import Calibration
from adapters.lineage import Lineage
from adapters.spectra import Spectrum
from registry.events import File, Grant, Policy
from registry.evidence import SuiteResult
from registry.opinions import Category, Rating
from registry.reviewing import Preference, Verdict
from registry.trials import BoundName, Bounds, Evidence

NO_LINEAGE = Lineage()


@dataclass(frozen=True, slots=True)
class CreateRegistry:
    """Begin the log: name the registry and issue its first operator's key."""

    registry: str
    key: str
    key_name: str
    secret_sha256: str


@dataclass(frozen=True, slots=True)
class RegisterBase:
    """Make a base model known; `shapes` is the digest of a stored blob."""

    name: str
    digest: str
    shapes: str
    known_as: tuple[str, ...] = ()
    read_at: int = 0
    """As for `PublishVersion`."""


@dataclass(frozen=True, slots=True)
class CreateDomain:
    """Open a domain under a policy."""

    domain: str
    policy: Policy


@dataclass(frozen=True, slots=True)
class ChangePolicy:
    """Replace a domain's policy. With `expected`, only if that is the policy now."""

    domain: str
    policy: Policy
    expected: Policy | None = None
    weaken: bool = False
    """Whether the new policy may protect less than the old one."""


@dataclass(frozen=True, slots=True)
class SetDefaultAdapter:
    """Let the bare domain name mean `adapter`."""

    domain: str
    adapter: str


@dataclass(frozen=True, slots=True)
class PublishVersion:
    """Make admitted bytes the adapter's next version. Its files are stored and verified already.

    Publishing again what is the newest version already changes nothing and succeeds: a publisher
    whose reply was lost just repeats its push.
    """

    domain: str
    adapter: str
    digest: str
    base: str
    files: tuple[File, ...]
    facts: Facts
    read_at: int = 0
    """The commit after which the stored files were read back: a collection that ended later may
    have removed them since."""
    lineage: Lineage = NO_LINEAGE
    signer: str | None = None
    spectrum: Spectrum | None = None
    analysis: str | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MoveAlias:
    """Let an alias name `version`. With `expected`, only if it names that version now (0: none)."""

    domain: str
    adapter: str
    alias: str
    version: int
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class SplitAlias:
    """Let `percent` of an alias's callers get `candidate`; the others keep what it names."""

    domain: str
    adapter: str
    alias: str
    candidate: int
    percent: int
    bounds: Bounds | None = None
    """What the candidate must keep; None: only people end the split."""


@dataclass(frozen=True, slots=True)
class RollBackSplit:
    """End a split whose candidate crossed a bound, as the evidence shows. Repeating it is safe."""

    domain: str
    adapter: str
    alias: str
    candidate: int
    split: int
    bound: BoundName
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class GiveFeedback:
    """Tell what a caller thought of one answer. The same again changes nothing."""

    domain: str
    adapter: str
    version: int
    response: str
    answered: int
    asker: str
    rating: Rating
    category: Category | None = None
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class ApproveVersion:
    """Vouch, as an expert, for exactly the bytes with `digest`."""

    domain: str
    adapter: str
    version: int
    digest: str


@dataclass(frozen=True, slots=True)
class RecordEvaluation:
    """Record what an evaluation of exactly the bytes with `digest` found.

    Its report is stored already. Recording the same report again changes nothing.
    """

    domain: str
    adapter: str
    version: int
    digest: str
    report: str
    results: tuple[SuiteResult, ...]
    calibration: Calibration | None = None
    read_at: int = 0
    """As for `PublishVersion`."""


@dataclass(frozen=True, slots=True)
class OpenReview:
    """Ask experts about answers of one version, or of two side by side.

    `content` is the digest of a stored blob with the items, whose ids are `items`.
    """

    review: str
    domain: str
    adapter: str
    versions: tuple[int, ...]
    title: str
    items: tuple[str, ...]
    content: str
    keep_days: int | None = None
    read_at: int = 0
    """As for `PublishVersion`."""


@dataclass(frozen=True, slots=True)
class JudgeItem:
    """Say, finally, what an item's answers are; verdicts in the order of the versions."""

    review: str
    item: str
    verdicts: tuple[Verdict, ...]
    severity: int = 0
    preferred: Preference = "neither"
    notes: str | None = None
    read_at: int = 0
    """As for `PublishVersion`."""


@dataclass(frozen=True, slots=True)
class CloseReview:
    """Let nobody judge it any more."""

    review: str


@dataclass(frozen=True, slots=True)
class EraseReview:
    """Give up the texts of a review that has ended."""

    review: str


@dataclass(frozen=True, slots=True)
class RevokeVersion:
    """Let nobody be served this version any more."""

    domain: str
    adapter: str
    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class TombstoneVersion:
    """Give up a version's bytes for good."""

    domain: str
    adapter: str
    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class CondemnBlobs:
    """Announce the removal of blobs. Those that something names by now are spared."""

    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SweepBlobs:
    """Report that every condemned blob is removed."""


@dataclass(frozen=True, slots=True)
class IssueKey:
    """Make a key known; the caller generated the secret and shows it once."""

    key: str
    name: str
    secret_sha256: str
    grants: tuple[Grant, ...]
    expires: str | None = None


@dataclass(frozen=True, slots=True)
class RevokeKey:
    """Let a key open nothing any more."""

    key: str
    reason: str


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
