"""What is read from admitted files beyond whether they may be served: claims and peers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters.admission import PROVENANCE, SIGNATURE, Problem
from adapters.errors import InvalidAdapter, LoraryError
from adapters.lineage import MAX_BYTES, Lineage, parse_lineage
from adapters.names import AdapterRef
from adapters.spectra import Spectrum
from registry.errors import AdmissionRefused, UnknownAdapter
from registry.model.catalog import Catalog
from registry.signing import verify_signature

MAX_PEERS = 200
"""Adapters of the same base that a new one is compared with, the newest first."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a version declares: its origin, and who signed its bytes."""

    lineage: Lineage
    signer: str | None


def examine(catalog: Catalog, domain: str, files: Mapping[str, Path]) -> Claims:
    """The claims of admitted files; raises `AdmissionRefused` with all that is wrong with them."""
    policy = catalog.domain(domain).policy
    problems: list[Problem] = []
    lineage, signer = Lineage(), None
    if PROVENANCE in files:
        try:
            with files[PROVENANCE].open("rb") as file:
                lineage = parse_lineage(file.read(MAX_BYTES + 1))
            if lineage.parent is not None:
                try:
                    catalog.find(AdapterRef.parse(lineage.parent))
                except UnknownAdapter as error:  # which may name adapters of other domains
                    raise InvalidAdapter(f"There is no adapter {error.path!r}.") from error
            found = {name: catalog.reviews.get(name) for name in lineage.reviews}
            if unknown := {n for n, r in found.items() if r is None or r.domain != domain}:
                raise InvalidAdapter(f"There is no review {min(unknown)!r} in this domain.")
        except LoraryError as error:
            remedy = "Correct its lineage, or leave it out."
            problems.append(Problem(PROVENANCE, error.message, remedy))
    if SIGNATURE in files and policy.signers:
        try:
            signer = verify_signature(files, policy.signers)
        except InvalidAdapter as error:
            remedy = "Sign the directory again as it is: lorary push --sign KEY."
            problems.append(Problem(SIGNATURE, error.message, remedy))
    elif policy.signature_required:
        remedy = "Sign it: lorary push --sign KEY."
        problems.append(Problem(SIGNATURE, "The domain requires a signature.", remedy))
    if problems:
        raise AdmissionRefused(problems)
    return Claims(lineage, signer)


def peers(catalog: Catalog, base: str) -> Sequence[Spectrum]:
    """The newest version of each adapter that was made for the same base model."""
    newest = (adapter.versions[-1] for adapter in catalog.adapters.values() if adapter.versions)
    found = [v for v in newest if v.base == base and v.spectrum is not None]
    found.sort(key=lambda version: version.published, reverse=True)
    return [v.spectrum for v in found[:MAX_PEERS] if v.spectrum is not None]
