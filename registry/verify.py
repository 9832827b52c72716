"""Whether a registry is whole: every link of the chain, and every byte of every version."""

from collections.abc import Callable, Iterable

import msgspec

from registry import checkpoints
from registry.blobs import Blobs, content_digest
from registry.catalog import Catalog, Version
from registry.errors import BrokenChain, ObjectNotFound, StoreError
from registry.log import CommitLog, follow
from registry.store.base import ObjectStore


class Report(msgspec.Struct, frozen=True):
    """What was checked, and everything that was found wrong."""

    commits: int
    versions: int
    blobs: int
    bytes: int
    findings: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


Progress = Callable[[str, int, int], None]
"""Called with what is being checked, how much is done, and how much there is (0: unknown)."""


def verify(store: ObjectStore, progress: Progress = lambda _what, _done, _total: None) -> Report:
    """Read the whole log and every blob of every version.

    Raises `StoreUnavailable`; anything else that is wrong becomes a finding.
    """
    findings: list[str] = []
    catalog = _check_chain(store, findings, progress)
    versions = [
        version
        for adapter in catalog.adapters.values()
        for version in adapter.versions
        if version.tombstone is None
    ]
    blobs = _check_blobs(store, catalog, versions, findings, progress)
    _check_checkpoint(store, catalog, findings)
    return Report(
        commits=catalog.sequence,
        versions=len(versions),
        blobs=len(blobs),
        bytes=sum(blobs.values()),
        findings=tuple(findings),
    )


def _check_chain(store: ObjectStore, findings: list[str], progress: Progress) -> Catalog:
    log, catalog, ids = CommitLog(store), Catalog(), set[str]()
    while True:
        try:
            stored = log.read(catalog.sequence + 1)
            if stored is None:
                break
            if stored.commit.id in ids:
                findings.append(f"commit {stored.commit.sequence} repeats an earlier commit's id")
            ids.add(stored.commit.id)
            catalog = follow(catalog, stored)
        except BrokenChain as broken:
            findings.append(broken.message)
            break
        except (LookupError, TypeError) as error:
            findings.append(f"commit {catalog.sequence + 1} contradicts the state: {error!r}")
            break
        progress("commits", catalog.sequence, 0)
    beyond = sum(1 for info in store.list("log/") if _number(info.key) > catalog.sequence)
    if catalog.sequence == 0 and not findings:
        findings.append("the store holds no registry")
    elif beyond and not findings:
        findings.append(
            f"commit {catalog.sequence + 1} is missing, but {beyond} commit(s) lie after it"
        )
    return catalog


def _number(key: str) -> int:
    name = key.removeprefix("log/").removesuffix(".json")
    return int(name) if name.isdigit() else 0


def _check_blobs(
    store: ObjectStore,
    catalog: Catalog,
    versions: Iterable[Version],
    findings: list[str],
    progress: Progress,
) -> dict[str, int]:
    """Re-hash each blob once; digests and sizes of all that a version or a base needs."""
    needed: dict[str, tuple[int | None, str]] = {
        base.shapes: (None, f"base model {base.name}") for base in catalog.bases.values()
    }
    for version in versions:
        if content_digest(version.files) != version.digest:
            findings.append(f"{version.ref}: its digest is not that of its list of files")
        if version.analysis is not None:
            needed.setdefault(version.analysis, (None, f"{version.ref} analysis"))
        for file in version.files:
            needed.setdefault(file.sha256, (file.size, f"{version.ref} {file.path}"))
    blobs = Blobs(store)
    sizes: dict[str, int] = {}
    for done, (digest, (size, where)) in enumerate(needed.items(), start=1):
        try:
            sizes[digest] = sum(len(piece) for piece in blobs.stream(digest, size))
        except ObjectNotFound:
            findings.append(f"{where}: blob {digest[:12]} is missing")
        except StoreError as error:
            findings.append(f"{where}: {error.message}")
        progress("blobs", done, len(needed))
    return sizes


def _check_checkpoint(store: ObjectStore, catalog: Catalog, findings: list[str]) -> None:
    """What a start would load must be what the whole log says."""
    try:
        loaded = checkpoints.load(store)
    except BrokenChain:
        return
    if loaded.sequence == catalog.sequence and loaded != catalog:
        findings.append("the newest checkpoint does not say what the log says: delete checkpoints/")
