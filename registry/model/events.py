"""What can happen in a registry: a closed vocabulary of immutable events, and the commit.

An event says what was decided, in full; folding it needs nothing but the state before.
Times are UTC, ISO 8601 with a `Z`. Digests are hexadecimal SHA-256.
"""

from typing import Annotated, Literal, TypeAlias

import msgspec
from annotated_types import Ge, Gt, Le, Lt, MaxLen

from adapters.admission import Facts
from adapters.confidence import Calibration
from adapters.fields import Count, Digest, Name, Number, Path, Pem
from adapters.lineage import Lineage
from adapters.spectra import Spectrum
from registry.model.evidence import Engine, SuiteResult, SuiteRule
from registry.model.opinions import Category, Rating
from registry.model.reviewing import Preference, Verdict
from registry.model.trials import BoundName, Bounds, Evidence

SCHEMA = 1
"""Version of the commit's own layout; a reader refuses a commit with a higher one."""


Days = Annotated[int, Ge(1), Le(10_000)]


class File(msgspec.Struct, frozen=True):
    """One file of a version: its path inside the adapter, size in bytes and digest."""

    path: Path
    size: Count
    sha256: Digest


PrefixCache = Literal["domain", "key"]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What a domain requires before a version may be served as production."""

    guarded: Annotated[tuple[Name, ...], MaxLen(100)] = ("production",)
    """Aliases that move only to a version which meets the requirements."""
    approvals: Annotated[int, Ge(0), Le(100)] = 1
    """How many experts, none of them the publisher, must approve the version's bytes."""
    card_sections: Annotated[tuple[Name, ...], MaxLen(100)] = ()
    """Headings that a model card must contain."""
    guarded_role: Name = "publish"
    """The role in the domain that moving a guarded alias takes."""
    keep: Number | None = None
    """How many of an adapter's newest versions `lorary gc` keeps, besides those that an alias
    names; None keeps all."""
    end_revoked: bool = True
    """Whether answers under way end when their version is revoked, or are finished."""
    signers: Annotated[tuple[Pem, ...], MaxLen(50)] = ()
    """Public keys (PEM) whose OpenSSF model signatures count."""
    signature_required: bool = False
    """Whether a version without the signature of one of `signers` is refused."""
    approvers: Annotated[dict[Name, Annotated[int, Ge(0), Le(100)]], MaxLen(20)] = {}
    """Of the approving experts, how many must also hold these roles in the domain."""
    suites: Annotated[tuple[SuiteRule, ...], MaxLen(100)] = ()
    """Evaluations that a version must have passed."""
    alpha: Annotated[float, Gt(0), Lt(0.5)] = 0.05
    """Chance, at most, that a version which breaks a suite's rule passes it, over all looks."""
    looks: Annotated[int, Ge(1), Le(1000)] = 10
    """How many recorded evaluations on one held-out set share `alpha`; later ones pass nothing."""
    max_report_days: Days | None = None
    """Age beyond which an evaluation no longer counts."""
    target_risk: Annotated[float, Gt(0), Lt(1)] | None = None
    """The share of wrong answers among those given that evaluations certify a threshold for."""
    reviewed_items: Annotated[int, Ge(0), Le(10_000)] = 0
    """How many of a version's answers experts must have settled, none of them as harmful."""
    abstain: bool = False
    """Whether servers withhold the answers that are less sure than that threshold."""
    prefix_cache: PrefixCache = "domain"
    """Whose requests share cached prompts: the whole domain's, or each key's alone."""


class Grant(msgspec.Struct, frozen=True):
    """A role in one domain, or in all (`*`)."""

    role: Name
    domain: Name


class Event(msgspec.Struct, frozen=True, tag_field="type", kw_only=True):
    """The common root; `type` names the class."""


class RegistryCreated(Event, frozen=True, tag="RegistryCreated"):
    """The first event of every log."""

    registry: str


class BaseModelRegistered(Event, frozen=True, tag="BaseModelRegistered"):
    """A base model that adapters may be declared against."""

    name: str
    digest: str
    shapes: str
    """Digest of the blob that holds the module shapes as JSON."""
    known_as: tuple[str, ...] = ()


class DomainCreated(Event, frozen=True, tag="DomainCreated"):
    """A domain and its policy."""

    domain: str
    policy: Policy


class PolicyChanged(Event, frozen=True, tag="PolicyChanged"):
    """A domain's policy from here on; versions already promoted stay."""

    domain: str
    policy: Policy
    weakened: tuple[str, ...] = ()
    """The fields that protect less than before."""


class DefaultAdapterSet(Event, frozen=True, tag="DefaultAdapterSet"):
    """Which adapter the bare domain name means."""

    domain: str
    adapter: str


class VersionPublished(Event, frozen=True, tag="VersionPublished"):
    """An admitted version: these bytes, for ever."""

    domain: str
    adapter: str
    version: int
    digest: str
    base: str
    files: tuple[File, ...]
    facts: Facts
    lineage: Lineage = Lineage()
    signer: str | None = None
    """SHA-256 of the public key (DER) whose signature was verified."""
    spectrum: Spectrum | None = None
    """Means over the modules' updates."""
    analysis: str | None = None
    """Digest of the blob with the spectrum of each module's update, as JSON."""
    flags: tuple[str, ...] = ()
    """What screening found unusual: for reviewers, no verdict."""


class AliasMoved(Event, frozen=True, tag="AliasMoved"):
    """An alias names another version from here on."""

    domain: str
    adapter: str
    alias: str
    version: int
    previous: int | None


class AliasSplit(Event, frozen=True, tag="AliasSplit"):
    """A share of an alias's callers gets a candidate from here on; 0 percent ends it."""

    domain: str
    adapter: str
    alias: str
    candidate: int
    percent: int
    bounds: Bounds | None = None
    """What the candidate must keep; None: nothing ends the split but people."""


class SplitRolledBack(Event, frozen=True, tag="SplitRolledBack"):
    """A candidate crossed a bound, so its split is over: everybody gets the stable version."""

    domain: str
    adapter: str
    alias: str
    candidate: int
    split: int
    """Which of the adapter's splits."""
    bound: BoundName
    limit: float
    """What the bound was."""
    evidence: Evidence


class FeedbackGiven(Event, frozen=True, tag="FeedbackGiven"):
    """A caller's opinion about one answer of a version; a later one about the same replaces it."""

    domain: str
    adapter: str
    version: int
    response: str
    """The answer's id, as the app got it."""
    answered: int
    """When it was asked for, seconds since 1970."""
    asker: str
    """The key that asked."""
    rating: Rating
    category: Category | None = None
    comment: str | None = None
    """The caller's words, where the operator had them kept."""
    alias: str | None = None
    """The split alias that was asked for; None where a version was named, or nothing was split."""
    split: int = 0
    """Which of the adapter's splits chose the version; 0 where none did."""


class VersionApproved(Event, frozen=True, tag="VersionApproved"):
    """An expert approved exactly these bytes."""

    domain: str
    adapter: str
    version: int
    digest: str


class EvaluationRecorded(Event, frozen=True, tag="EvaluationRecorded"):
    """What an evaluation of exactly these bytes found; the actor is who measured it."""

    domain: str
    adapter: str
    version: int
    digest: str
    report: str
    """Digest of the blob that holds the whole report, as JSON."""
    results: tuple[SuiteResult, ...]
    calibration: Calibration | None = None
    """Fitted on items that no suite counts."""
    engine: Engine | None = None
    """What answered; None in evaluations recorded before it was told."""
    answered: str | None = None
    """When the oldest of the answers was given; None as above."""


class ReviewOpened(Event, frozen=True, tag="ReviewOpened"):
    """Experts are asked about answers of one version, or of two side by side."""

    review: str
    domain: str
    adapter: str
    versions: tuple[int, ...]
    title: str
    items: tuple[str, ...]
    """Ids; what is asked and answered stands in the content."""
    content: str
    """Digest of the blob with the items."""
    keep_days: int | None = None


class ItemJudged(Event, frozen=True, tag="ItemJudged"):
    """An expert's final word on one item; verdicts in the order of the review's versions."""

    review: str
    item: str
    verdicts: tuple[Verdict, ...]
    severity: int = 0
    preferred: Preference = "neither"
    notes: str | None = None
    """Digest of the blob with what the expert wrote."""


class ReviewClosed(Event, frozen=True, tag="ReviewClosed"):
    """Nobody judges it any more."""

    review: str


class ReviewErased(Event, frozen=True, tag="ReviewErased"):
    """Its texts were given up; the verdicts stay."""

    review: str


class VersionRevoked(Event, frozen=True, tag="VersionRevoked"):
    """A version that nobody may be served any more."""

    domain: str
    adapter: str
    version: int
    reason: str


class VersionTombstoned(Event, frozen=True, tag="VersionTombstoned"):
    """A version whose bytes were given up; its place and its history stay."""

    domain: str
    adapter: str
    version: int
    reason: str


class BlobsCondemned(Event, frozen=True, tag="BlobsCondemned"):
    """Blobs that nothing names and that are about to be removed: nothing may name them now."""

    digests: tuple[str, ...]


class BlobsSwept(Event, frozen=True, tag="BlobsSwept"):
    """The condemned blobs are gone; their contents may be uploaded again."""


class KeyIssued(Event, frozen=True, tag="KeyIssued"):
    """An API key; only a digest of its secret is kept."""

    key: str
    name: str
    secret_sha256: str
    grants: tuple[Grant, ...]
    expires: str | None = None


class KeyRevoked(Event, frozen=True, tag="KeyRevoked"):
    """A key that opens nothing any more."""

    key: str
    reason: str


AnyEvent: TypeAlias = (
    RegistryCreated
    | BaseModelRegistered
    | DomainCreated
    | PolicyChanged
    | DefaultAdapterSet
    | VersionPublished
    | AliasMoved
    | AliasSplit
    | SplitRolledBack
    | FeedbackGiven
    | VersionApproved
    | EvaluationRecorded
    | ReviewOpened
    | ItemJudged
    | ReviewClosed
    | ReviewErased
    | VersionRevoked
    | VersionTombstoned
    | BlobsCondemned
    | BlobsSwept
    | KeyIssued
    | KeyRevoked
)


OPTIONAL: frozenset[type[Event]] = frozenset(
    (FeedbackGiven, ReviewOpened, ItemJudged, ReviewClosed, ReviewErased)
)
"""Events that a reader which does not know them may pass over: what is served, to whom and on what
terms does not follow from them. See docs/design/009."""


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event and who caused it. Commits are written for several actors at once."""

    actor: str
    event: AnyEvent
    optional: bool = False
    """Whether a reader that does not know the event may pass over it."""


class Confirmation(msgspec.Struct, frozen=True):
    """What a commit says of the checkpoint of the state before it."""

    layout: str
    """Which fields that state's writer knew (`registry.log.layout`)."""
    sha256: str
    """Of the checkpoint's bytes."""


class Commit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """One link of the chain, stored as `log/<sequence>.json`, written once."""

    schema: int = SCHEMA
    sequence: int
    id: str
    """Random, so that a writer whose reply was lost knows its own commit when it reads it."""
    time: str
    previous: str | None
    """SHA-256 of the previous commit's bytes; None only for commit 1."""
    entries: tuple[Entry, ...]
    checkpoint: Confirmation | msgspec.UnsetType = msgspec.UNSET
    """Of the state before this commit, where a checkpoint of it was due."""
