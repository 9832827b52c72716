"""The state of a registry, folded from its log. Pure: no clock, no store, no socket."""

import difflib
import heapq
import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import msgspec

from adapters.admission import WEIGHTS, Facts
from adapters.fields import Name
from adapters.lineage import Lineage
from adapters.names import DEFAULT_ALIAS, AdapterRef
from adapters.spectra import Spectrum
from registry import errors
from registry.model.comparisons import Shadow
from registry.model.evidence import Approval
from registry.model.index import Index
from registry.model.policies import Policy
from registry.model.ratings import Feedback
from registry.model.recorded import Begun, Calibrated, Evaluation
from registry.model.reviewing import Review
from registry.model.task_versions import File as File
from registry.model.task_versions import Task
from registry.model.trials import Canary, Rollback, Split, bucket

MAX_COMPARED = 200
"""Names that an unknown one is compared with."""


class Grant(msgspec.Struct, frozen=True):
    """A role in one domain, or in all (`*`)."""

    role: Name
    domain: Name


class Base(msgspec.Struct, frozen=True):
    """A registered base model."""

    name: str
    digest: str
    shapes: str
    known_as: tuple[str, ...]


class Version(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One immutable version of an adapter."""

    domain: str
    adapter: str
    number: int
    digest: str
    base: str
    files: tuple[File, ...]
    facts: Facts
    publisher: str
    published: str
    approvers: tuple[str, ...] = ()
    approved: tuple[Approval, ...] = ()
    """When each of the approvers approved, and their statements."""
    revoked: str | None = None
    """Why it was revoked; None while it may be served."""
    revoker: str | None = None
    revoked_at: str | None = None
    tombstone: str | None = None
    """Why its bytes were given up; None while they are kept."""
    lineage: Lineage = Lineage()
    signer: str | None = None
    spectrum: Spectrum | None = None
    analysis: str | None = None
    flags: tuple[str, ...] = ()
    message: str = ""
    """A summary in the first line, then a description; empty if the publisher gave none."""
    evaluations: tuple[Evaluation, ...] = ()
    """In the order of their recording."""
    begun: tuple[Begun, ...] = ()
    """Evaluations that were begun and are not recorded yet, or never will be."""
    calibrations: tuple[Calibrated, ...] = ()
    """The newest of each evaluator's key, in the order of their recording;
    `registry.model.standing` decides which of them counts."""
    feedback: Feedback = Feedback()

    @property
    def ref(self) -> AdapterRef:
        """The pinned name, the only one vLLM ever sees."""
        return AdapterRef(self.domain, self.adapter, version=self.number)

    def same_weights(self, other: "Version") -> bool:
        """Whether the two hold the same tensors, whatever else their files say.

        Versions of earlier logs have no digest of their tensors; their weights' files are compared.
        """
        return not self.weights.isdisjoint(other.weights)

    @property
    def weights(self) -> frozenset[str]:
        """Digests that any version with the same tensors has one of."""
        file = next((file.sha256 for file in self.files if file.path == WEIGHTS), self.digest)
        return frozenset((file, self.facts.weights or file))

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)

    @property
    def state(self) -> str:
        """`kept`, `revoked`, or `given up` with its files."""
        if self.tombstone is not None:
            return "given up"
        return "revoked" if self.revoked is not None else "kept"


class Move(msgspec.Struct, frozen=True):
    """One move of an alias: who, when, from what, to what."""

    alias: str
    version: int
    """0 where the alias was removed."""
    previous: int | None
    actor: str
    time: str
    earned: bool = False
    """Whether the alias was guarded, and its policy asked for something, when it moved. The move
    then met what was asked."""


class Adapter(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """An adapter: its versions in order, its aliases, and how they moved."""

    domain: str
    name: str
    versions: tuple[Version, ...] = ()
    aliases: dict[str, int] = {}
    splits: dict[str, Split] = {}
    moves: tuple[Move, ...] = ()
    splits_begun: int = 0
    rollbacks: tuple[Rollback, ...] = ()
    canaries: tuple[Canary, ...] = ()
    shadows: tuple[Shadow, ...] = ()
    """Those that run, and the latest that have ended, in the order of their beginning."""
    shadows_begun: int = 0

    @cached_property
    def shadowed(self) -> dict[str, Shadow]:
        """By alias: the shadow that runs."""
        return {shadow.alias: shadow for shadow in self.shadows if shadow.ended is None}

    @cached_property
    def states(self) -> Counter[str]:
        """How many of its versions there are in each state."""
        return Counter(version.state for version in self.versions)

    @property
    def outages(self) -> dict[str, str]:
        """By alias: why the version that it points to is not served, `revoked: REASON` or
        `deleted: REASON`. Callers of these aliases get 410 until somebody moves them."""
        found = {}
        for alias, number in self.aliases.items():
            version = self.versions[number - 1]
            if version.revoked is not None:
                found[alias] = f"revoked: {version.revoked}"
            elif version.tombstone is not None:
                found[alias] = f"deleted: {version.tombstone}"
        return found


class Domain(msgspec.Struct, frozen=True):
    """A domain: its policy and the adapter that its bare name means."""

    name: str
    policy: Policy
    default: str | None = None
    looks: dict[str, int] = {}
    """By digest of a held-out set: how many evaluations on it were begun or recorded."""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """An API key as the log knows it."""

    id: str
    name: str
    secret_sha256: str
    grants: tuple[Grant, ...]
    issued: str
    issuer: str = ""
    """The key by which it was issued."""
    person: str | None = None
    """Who holds it, such as an e-mail address; None: whom the name names."""
    service: bool = False
    """Whether a program holds it."""
    expires: str | None = None
    revoked: str | None = None


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """An address to which public events are sent."""

    id: str
    url: str
    domain: str
    """`*`: all domains."""
    types: tuple[str, ...]
    """Empty: all types."""
    after: int
    """The commit after which its events begin."""
    added: str
    added_by: str
    resent: int = 0
    """Dead letters that were given up at this commit or before are sent again."""


class Catalog(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Everything the log says up to one commit. Never mutated: a fold makes a new one."""

    registry: str = ""
    sequence: int = 0
    head: str | None = None
    """SHA-256 of the bytes of commit `sequence`."""
    time: str = ""
    bases: dict[str, Base] = {}
    domains: dict[str, Domain] = {}
    adapters: dict[str, Adapter] = {}
    """By path, `domain/adapter`."""
    keys: dict[str, Key] = {}
    reviews: dict[str, Review] = {}
    webhooks: dict[str, Webhook] = {}
    tasks: dict[str, Task] = {}
    """By path, `domain/task`."""
    condemned: tuple[str, ...] = ()
    """Blobs that are being removed: nothing may name them."""
    swept: int = 0
    """The commit by which the last collection ended."""
    confirmed: int = 0
    """The newest state whose checkpoint the log confirms."""
    passed_over: int = 0
    """Events that a newer Lorary wrote and this one does not know."""

    @cached_property
    def index(self) -> Index:
        """What the catalog holds, by digest and name; made at its first use, which reads all."""
        return Index.of(self)

    def changed(self, **changes: Any) -> "Catalog":
        """With other fields and, if it was made, the same index: for changes that add nothing to
        it. What the index names and the catalog lacks then is to be passed over."""
        changed = msgspec.structs.replace(self, **changes)
        changed.__dict__.update(self.__dict__)
        return changed

    def adapter(self, ref: AdapterRef) -> Adapter:
        """The adapter that `ref` means, the domain's default if it names none.

        Raises `UnknownDomain`, `NoDefaultAdapter` or `UnknownAdapter` with the nearest names.
        """
        path = ref.path
        if ref.adapter is None:
            domain = self.domain(ref.domain)
            if domain.default is None:
                raise errors.NoDefaultAdapter(ref.domain, self._paths_in(ref.domain))
            path = f"{ref.domain}/{domain.default}"
        found = self.adapters.get(path)
        if found is None:
            raise errors.UnknownAdapter(path, self.near(path))
        return found

    def domain(self, name: str) -> Domain:
        """The domain called `name`; raises `UnknownDomain`."""
        found = self.domains.get(name)
        if found is None:
            raise errors.UnknownDomain(name, difflib.get_close_matches(name, self.domains, n=3))
        return found

    def resolve(self, ref: AdapterRef) -> Version:
        """The version that `ref` names now.

        Raises what `adapter` raises, `UnknownVersion`, `UnknownAlias`, or `VersionRevoked`.
        """
        version = self.find(ref)
        if version.revoked is not None:
            raise errors.VersionRevoked(str(version.ref), version.revoked)
        if version.tombstone is not None:
            raise errors.VersionGone(str(version.ref), version.tombstone)
        return version

    def choose(self, ref: AdapterRef, caller: str) -> Version:
        """As `resolve`, but where the alias is split, the version that `caller` gets.

        The same caller gets the same version as long as the split stays as it is, and keeps its
        candidate when the share grows. A revoked candidate is served to nobody.
        """
        version = self.resolve(ref)
        if ref.version is not None:
            return version
        path, alias = f"{version.domain}/{version.adapter}", ref.alias or DEFAULT_ALIAS
        adapter = self.adapters[path]
        split = adapter.splits.get(alias)
        if split is None or bucket(f"{path}@{alias}:{split.candidate}", caller) >= split.percent:
            return version
        candidate = adapter.versions[split.candidate - 1]
        gone = candidate.revoked is not None or candidate.tombstone is not None
        return version if gone else candidate

    def find(self, ref: AdapterRef) -> Version:
        """As `resolve`, but a revoked version is found, too: for people who look, not callers."""
        adapter = self.adapter(ref)
        number = ref.version
        if number is None:
            alias = ref.alias or DEFAULT_ALIAS
            number = adapter.aliases.get(alias)
            if number is None:
                path = f"{adapter.domain}/{adapter.name}"
                raise errors.UnknownAlias(path, alias, sorted(adapter.aliases))
        if not 1 <= number <= len(adapter.versions):
            path = f"{adapter.domain}/{adapter.name}"
            raise errors.UnknownVersion(path, number, len(adapter.versions))
        return adapter.versions[number - 1]

    def in_another_case(self, path: str) -> str | None:
        """The adapter's path that differs from `path` in case only, if there is one."""
        lower = path.lower()
        return next((p for p in self.adapters if p != path and p.lower() == lower), None)

    def near(self, path: str) -> list[str]:
        """Up to three adapter paths that a person may have meant by `path`.

        Compares a bounded number of names, those of similar length: it is asked on every 404.
        """
        domain, _, name = path.rpartition("/")
        same_name = [p for p in self.adapters if p.endswith(f"/{name}")]
        inside = [p for p in self.adapters if p.startswith(f"{domain}/")]
        alike = heapq.nsmallest(
            MAX_COMPARED, inside or self.adapters, key=lambda p: abs(len(p) - len(path))
        )
        by_path = difflib.get_close_matches(path, alike, n=3, cutoff=0.5)
        same = [p for p in (self.in_another_case(path),) if p is not None]
        return list(dict.fromkeys([*same, *same_name, *by_path]))[:3]

    def _paths_in(self, domain: str) -> list[str]:
        return sorted(path for path in self.adapters if path.startswith(f"{domain}/"))


def person(keys: Mapping[str, Key], key: str) -> str:
    """Who holds a key: keys of one person are one vote, however many there are.

    Without a person, keys of one name are one person's. An unknown key is its own holder.
    """
    known = keys.get(key)
    if known is None:
        return key
    return " ".join(unicodedata.normalize("NFKC", known.person or known.name).casefold().split())


def in_good_standing(keys: Mapping[str, Key], key: str) -> bool:
    """Whether approvals, evaluations and judgements by `key` count: it was never revoked.

    Whoever holds a stolen key can approve with it, and the log cannot tell since when it was
    stolen. A key that expired was its owner's until then, so what it did still counts.
    """
    known = keys.get(key)
    return known is not None and known.revoked is None
