"""Signatures, lineage and screening: what vouches for bytes, and what only claims or hints."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_signing import hashing, signing

from adapters.admission import PROVENANCE
from adapters.errors import InvalidAdapter, InvalidName
from adapters.lineage import Lineage, parse_lineage
from adapters.peft_config import parse_config
from adapters.singular_values import spectrum
from adapters.spectra import MIN_PEERS, Spectrum, screen, summary
from adapters.weights import check_weights
from registry.errors import AdmissionRefused, BadRequest
from registry.model.catalog import Adapter, Catalog, Domain
from registry.model.policies import Policy
from registry.model.reviewing import Review
from registry.publish.examining import examine
from registry.signing import fingerprint, sign, verify_signature
from tests.support.adapters import TINY, write_adapter
from tests.support.keys import key_pair


def files_of(directory: Path) -> dict[str, Path]:
    return {path.name: path for path in directory.iterdir()}


def test_a_signature_is_verified_by_its_key_and_names_it(tmp_path: Path) -> None:
    private, public = key_pair(tmp_path / "a")
    _, stranger = key_pair(tmp_path / "b")
    adapter = write_adapter(tmp_path / "adapter")
    sign(adapter, private)
    sign(adapter, private)  # signing again replaces the signature
    assert verify_signature(files_of(adapter), [stranger, public]) == fingerprint(public)
    with pytest.raises(InvalidAdapter, match="No key that is trusted"):
        verify_signature(files_of(adapter), [stranger])


def _change(adapter: Path) -> None:
    (adapter / "README.md").write_text("another card")


def _add(adapter: Path) -> None:
    (adapter / "NOTICE").write_text("not signed")


def _remove(adapter: Path) -> None:
    (adapter / "README.md").unlink()


def _garble(adapter: Path) -> None:
    (adapter / "model.sig").write_text('{"dsseEnvelope": {"payload": "!"}}')


@pytest.mark.parametrize("spoil", [_change, _add, _remove, _garble])
def test_a_signature_covers_exactly_the_files_that_are_there(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    private, public = key_pair(tmp_path)
    adapter = write_adapter(tmp_path / "adapter")
    sign(adapter, private)
    spoil(adapter)
    with pytest.raises(InvalidAdapter):
        verify_signature(files_of(adapter), [public])


def test_what_is_no_key_is_refused_with_the_way_to_make_one(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("no key")
    with pytest.raises(BadRequest, match="openssl"):
        sign(write_adapter(tmp_path / "adapter"), tmp_path / "key")
    with pytest.raises(BadRequest, match="PEM"):
        fingerprint("no key")


def test_lineage_is_read_from_provenance_and_nothing_else_is() -> None:
    said = {"parent": "medical/coder@3", "data": "abc", "reviews": ["1f2e3d4c5b6a"]}
    document = {"lineage": said, "other": [1, 2]}
    assert parse_lineage(json.dumps(document).encode()) == Lineage(
        parent="medical/coder@3", data="abc", reviews=("1f2e3d4c5b6a",)
    )
    assert parse_lineage(b"{}") == Lineage()


@pytest.mark.parametrize(
    "document",
    [
        b"[]",
        b"no json",
        b'{"lineage": 7}',
        b'{"lineage": {"data": 7}}',
        b'{"lineage": {"data": "' + b"x" * 300 + b'"}}',
        b'{"lineage": {"code": "\\u0000"}}',
        b'{"lineage": {"parent": "medical/coder"}}',
        b'{"lineage": {"reviews": "1f2e3d4c5b6a"}}',
        b'{"lineage": {"reviews": [""]}}',
        b'{"lineage": {"reviews": [' + b",".join([b'"a"'] * 101) + b"]}}",
        b'{"lineage": {"parent": "../../etc"}}',
    ],
)
def test_malformed_lineage_is_refused(document: bytes) -> None:
    with pytest.raises((InvalidAdapter, InvalidName)):
        parse_lineage(document)


@given(st.integers(1, 8), st.integers(0, 100), st.floats(0.1, 10))
def test_the_small_spectrum_is_that_of_the_whole_update(rank: int, seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    a = random.normal(size=(rank, 12)).astype(np.float32)
    b = random.normal(size=(10, rank)).astype(np.float32)
    singular = np.linalg.svd(scale * b.astype(np.float64) @ a, compute_uv=False)[:rank]
    found = spectrum([a[:, :5], a[:, 5:]], [b.T[:, :3], b.T[:, 3:]], scale)
    assert found.top == pytest.approx(singular[0], rel=1e-6)
    assert found.norm == pytest.approx(float(np.sqrt((singular**2).sum())), rel=1e-6)
    assert found.concentration == pytest.approx(singular[0] ** 2 / (singular**2).sum(), rel=1e-6)
    assert -1e-9 <= found.entropy <= 1 + 1e-9
    fourth = [float((((x - x.mean()) / x.std()) ** 4).mean()) - 3 for x in (a, b)]
    assert found.kurtosis == pytest.approx(sum(fourth) / 2, abs=1e-3)


def test_every_module_of_an_adapter_is_measured(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    config, _ = parse_config((adapter / "adapter_config.json").read_bytes())
    assert config is not None
    data = (adapter / "adapter_model.safetensors").read_bytes()
    tensors, findings = check_weights(
        BytesIO(data), len(data), TINY, config, max_rank=64, max_labels=64
    )
    assert not findings
    found = tensors.modules
    assert found.keys() == TINY.modules.keys()
    assert summary(found).norm > 0


def _ordinary(seed: int) -> Spectrum:
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(8, 64)), random.normal(size=(64, 8))
    return spectrum([a.astype(np.float32)], [b.T.astype(np.float32)], 1.0)


def test_an_update_in_one_direction_is_flagged_among_ordinary_ones() -> None:
    peers = [_ordinary(seed) for seed in range(20)]
    assert screen(_ordinary(99), peers) == ()
    random = np.random.default_rng(7)
    a, b = random.normal(size=(8, 64)), random.normal(size=(64, 8))
    b[:, 0] *= 30
    odd = spectrum([a.astype(np.float32)], [b.T.astype(np.float32)], 1.0)
    flags = screen(odd, peers)
    assert any(flag.startswith("concentration") for flag in flags)


def test_too_few_peers_say_nothing() -> None:
    peers = [_ordinary(seed) for seed in range(MIN_PEERS - 1)]
    odd = Spectrum(norm=1e9, top=1e9, concentration=1.0, entropy=0.0, kurtosis=99.0)
    assert screen(odd, peers) == ()


def test_a_signature_that_leaves_a_file_out_covers_none(tmp_path: Path) -> None:
    """Signers may name files to ignore, and the library then verifies all the others."""
    private, public = key_pair(tmp_path)
    adapter = write_adapter(tmp_path / "adapter")
    listed = hashing.Config().set_ignored_paths(paths=[adapter / "README.md"])
    config = signing.Config().use_elliptic_key_signer(private_key=private)
    config.set_hashing_config(listed).sign(adapter, adapter / "model.sig")
    with pytest.raises(InvalidAdapter, match="does not list exactly"):
        verify_signature(files_of(adapter), [public])


def test_a_signature_that_no_signer_made_is_refused_also_where_none_is_required(
    tmp_path: Path,
) -> None:
    private, _ = key_pair(tmp_path / "a")
    _, trusted = key_pair(tmp_path / "b")
    adapter = write_adapter(tmp_path / "adapter")
    catalog = Catalog(domains={"medical": Domain("medical", Policy(signers=(trusted,)))})
    assert examine(catalog, "medical", files_of(adapter)).signer is None
    sign(adapter, private)
    with pytest.raises(AdmissionRefused, match="No key that is trusted"):
        examine(catalog, "medical", files_of(adapter))


def test_reviews_that_a_version_names_are_of_its_own_domain(tmp_path: Path) -> None:
    path = tmp_path / PROVENANCE
    path.write_text(json.dumps({"lineage": {"reviews": ["r1"]}}))
    for domain in ("legal", "medical"):
        opened = Review(
            id="r1", domain=domain, adapter="a", versions=(1,), title="t", items=("i",),
            content=None, opened="", opener="",
        )  # fmt: skip
        medical = Domain("medical", Policy())
        catalog = Catalog(domains={"medical": medical}, reviews={"r1": opened})
        if domain == "medical":
            claims = examine(catalog, "medical", {PROVENANCE: path})
            assert claims.lineage.reviews == ("r1",)
        else:
            with pytest.raises(AdmissionRefused, match="no review 'r1' in this domain"):
                examine(catalog, "medical", {PROVENANCE: path})


def test_a_parent_that_is_not_there_names_no_adapter_of_another_domain(tmp_path: Path) -> None:
    catalog = Catalog(
        domains={name: Domain(name, Policy()) for name in ("medical", "legal")},
        adapters={"legal/coder": Adapter(domain="legal", name="coder")},
    )
    path = tmp_path / PROVENANCE
    path.write_bytes(json.dumps({"lineage": {"parent": "medical/coder@1"}}).encode())
    with pytest.raises(AdmissionRefused, match="no adapter 'medical/coder'") as refused:
        examine(catalog, "medical", {PROVENANCE: path})
    assert "legal" not in str(refused.value)
