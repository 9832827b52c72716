"""From uploaded bytes to a version: read again what is stored, judge it, then commit.

Blobs first, commit last: a publisher that dies anywhere leaves only blobs that nothing names.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from adapters.admission import DEFAULT_LIMITS, Limits, LocalFile, Problem, admit
from adapters.base_model import BaseModel, is_among
from adapters.names import AdapterRef, check_name
from adapters.spectra import screen, summary
from registry import errors
from registry.model.access import require
from registry.model.bases import RegisterBase
from registry.model.catalog import Catalog, File, Version
from registry.model.index import is_record
from registry.model.versions import PublishVersion
from registry.publish.examining import examine, peers
from registry.publish.stored import reading_back
from registry.registry import Registry
from registry.store.blobs import Blobs, content_digest


def register_base(registry: Registry, base: BaseModel, actor: str) -> BaseModel:
    """Make a base model known, its module shapes and norms kept as a blob; or, for the very same
    weights, add further names and norms to what is known. Returns what is known now."""
    catalog = registry.refresh()
    known = catalog.bases.get(base.name)
    if known is not None and known.digest == base.digest:
        before = base_model(registry, catalog, base.name)
        base = msgspec.structs.replace(
            base,
            known_as=tuple(dict.fromkeys((*before.known_as, *base.known_as))),
            norms=base.norms or before.norms,
        )
    shapes = Blobs(registry.store).put_bytes(msgspec.json.encode(base, order="sorted"))
    command = RegisterBase(base.name, base.digest, shapes, base.known_as, catalog.sequence)
    registry.execute(command, actor)
    return base


def publish(
    registry: Registry,
    *,
    domain: str,
    adapter: str,
    base: str,
    files: Sequence[File],
    actor: str,
    limits: Limits = DEFAULT_LIMITS,
    expected: int | None = None,
    message: str = "",
) -> Version:
    """Make the stored blobs that `files` name the adapter's next version.

    expected, message: as for `PublishVersion`.

    Publishing the newest version's bytes again returns that version. Raises `AdmissionRefused`
    with every problem, `ContentMissing` for files to upload (again), and what `decide` raises.
    """
    catalog = registry.refresh()
    check_name(adapter, "adapter")
    key = catalog.keys.get(actor)
    if key is None:
        raise errors.Unauthenticated("That key is not known here. Ask an operator for one.")
    require(key, "publish", domain)
    policy = catalog.domain(domain).policy
    described = base_model(registry, catalog, base)
    _check_listing(files, limits, catalog)
    with tempfile.TemporaryDirectory(prefix="lorary-admission-") as folder:
        local = _bring(Blobs(registry.store), files, Path(folder))
        readable = {name: LocalFile(path) for name, path in local.items()}
        admission = admit(readable, described, limits=limits, card_sections=policy.card_sections)
        if admission.facts is None:
            raise errors.AdmissionRefused(admission.problems)
        claims = examine(catalog, domain, local)
    spectrum = summary(admission.modules)
    analysis = msgspec.json.encode(admission.modules, order="sorted")
    command = PublishVersion(
        domain,
        adapter,
        content_digest(files),
        described.name,
        tuple(files),
        admission.facts,
        read_at=catalog.sequence,
        lineage=claims.lineage,
        signer=claims.signer,
        spectrum=spectrum,
        analysis=Blobs(registry.store).put_bytes(analysis),
        flags=screen(spectrum, peers(catalog, described.name)),
        expected=expected,
        message=message,
    )
    registry.execute(command, actor)
    versions = registry.catalog.adapter(AdapterRef(domain, adapter)).versions
    return next(v for v in reversed(versions) if v.digest == command.digest)


def base_model(registry: Registry, catalog: Catalog, name: str) -> BaseModel:
    """The registered base called `name`, in this or another case; raises `UnknownBase` with those
    there are."""
    bases = catalog.bases.values()
    exact = [base for base in bases if name in (base.name, *base.known_as)]
    for base in exact or bases:
        if is_among(name, (base.name, *base.known_as)):
            described = msgspec.json.decode(Blobs(registry.store).get(base.shapes), type=BaseModel)
            return msgspec.structs.replace(described, known_as=base.known_as)
    known = ", ".join(catalog.bases) or "none yet"
    raise errors.UnknownBase(
        f"Base model {name[:120]!r} is not registered (registered: {known}). "
        "Name a registered one, with lorary push --base NAME or as base_model_name_or_path in "
        "adapter_config.json; or let an operator register the model: lorary base add DIR"
    )


def _check_listing(files: Sequence[File], limits: Limits, catalog: Catalog) -> None:
    """Refuse a listing that should not even be read back, such as one with the registry's own
    records: a version that listed one would let everybody download it."""
    problems = [
        Problem(file.path[:100], f"It has {file.size} bytes, above the limit.", "Make it smaller.")
        for file in files
        if not 0 <= file.size <= limits.max_file_bytes
    ]
    problems += [
        Problem(file.path[:100], "It is a report or a review of this registry.", "Leave it out.")
        for file in files
        if is_record(catalog.index, file.sha256)
    ]
    if len(files) > limits.max_files:
        problems.append(Problem(".", f"There are {len(files)} files.", "Keep only the adapter's."))
    if len({file.path for file in files}) < len(files):
        problems.append(Problem(".", "A path is listed twice.", "List every file once."))
    if problems:
        raise errors.AdmissionRefused(problems)


def _bring(blobs: Blobs, files: Sequence[File], folder: Path) -> dict[str, Path]:
    """Every file as the store holds it, verified, under names of our own: what the publisher calls
    a file never meets our disk."""
    local = {}
    for index, file in enumerate(files):
        local[file.path] = folder / str(index)
        with reading_back(blobs, file):
            blobs.fetch(file.sha256, file.size, folder / str(index))
    return local
