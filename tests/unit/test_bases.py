"""Registering a base model again: names and norms are added, other weights are refused."""

from pathlib import Path

import msgspec
import pytest

from adapters.base_model import BaseModel
from registry import errors
from registry.maintain.verify import verify
from registry.model.bases import RegisterBase
from registry.model.catalog import File
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.publish.publishing import base_model, publish, register_base
from registry.registry import Registry
from registry.store import LocalStore
from registry.store.blobs import Blobs
from tests.support.adapters import TINY, write_adapter

PLAIN = msgspec.structs.replace(TINY, known_as=())
NORMS = dict.fromkeys(TINY.modules, 1e-3)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    store = LocalStore(tmp_path / "store")
    key = Registry.create(store, name="bases", key_name="operator")
    opened = Registry(store)
    opened.execute(CreateDomain("medical", Policy()), key.id)
    return opened


def operator(registry: Registry) -> str:
    return next(iter(registry.refresh().keys))


def known(registry: Registry, name: str = "tiny") -> BaseModel:
    return base_model(registry, registry.refresh(), name)


def upload(registry: Registry, folder: Path, base: str = "tiny") -> str:
    blobs, listed = Blobs(registry.store), []
    for path in write_adapter(folder).iterdir():
        digest = blobs.put_bytes(path.read_bytes())
        listed.append(File(path.name, path.stat().st_size, digest))
    version = publish(
        registry,
        domain="medical",
        adapter="coder",
        base=base,
        files=listed,
        actor=operator(registry),
    )
    return str(version.ref)


def test_another_name_is_added_later(registry: Registry, tmp_path: Path) -> None:
    register_base(registry, PLAIN, operator(registry))
    with pytest.raises(errors.UnknownBase, match="--base NAME"):
        known(registry, "unsloth/tiny")
    more = msgspec.structs.replace(PLAIN, known_as=("unsloth/tiny",))
    register_base(registry, more, operator(registry))
    register_base(registry, msgspec.structs.replace(PLAIN, known_as=("org/t",)), operator(registry))
    assert known(registry, "unsloth/tiny").known_as == ("unsloth/tiny", "org/t")
    assert upload(registry, tmp_path / "a", base="org/t") == "medical/coder@1"
    assert verify(registry.store).sound


def test_a_name_is_the_same_in_upper_and_lower_case(registry: Registry, tmp_path: Path) -> None:
    """The Hub takes both, and Unsloth writes lower case."""
    register_base(registry, msgspec.structs.replace(TINY, name="Tiny"), operator(registry))
    assert upload(registry, tmp_path / "a", base="ORG/tiny") == "medical/coder@1"
    register_base(registry, msgspec.structs.replace(TINY, known_as=()), operator(registry))
    assert known(registry, "tiny").name == "tiny"
    assert known(registry, "Tiny").name == "Tiny"


def test_the_same_again_changes_nothing(registry: Registry) -> None:
    measured = msgspec.structs.replace(TINY, norms=NORMS)
    register_base(registry, measured, operator(registry))
    before = registry.refresh().sequence
    for again in (measured, PLAIN, TINY):
        register_base(registry, again, operator(registry))
    assert registry.refresh().sequence == before
    assert known(registry) == measured


def test_norms_are_added_to_a_base_that_was_registered_without(
    registry: Registry, tmp_path: Path
) -> None:
    register_base(registry, TINY, operator(registry))
    assert upload(registry, tmp_path / "a") == "medical/coder@1"
    register_base(registry, msgspec.structs.replace(PLAIN, norms=NORMS), operator(registry))
    assert known(registry).norms == NORMS
    assert known(registry).known_as == ("org/tiny",)
    with pytest.raises(errors.AdmissionRefused, match="above the bound"):
        upload(registry, tmp_path / "b")


def test_other_weights_under_a_known_name_are_refused(registry: Registry) -> None:
    register_base(registry, TINY, operator(registry))
    other = msgspec.structs.replace(TINY, digest="1" * 64, known_as=("org/other",))
    with pytest.raises(errors.Conflict, match="other weights"):
        register_base(registry, other, operator(registry))
    assert known(registry) == TINY


def test_names_are_those_of_the_log_also_where_the_stored_shapes_are_older(
    registry: Registry,
) -> None:
    """Two operators add names at once: each wrote shapes without the other's name."""
    register_base(registry, PLAIN, operator(registry))
    shapes = registry.refresh().bases["tiny"].shapes
    for name in ("org/a", "org/b"):
        registry.execute(
            RegisterBase("tiny", TINY.digest, shapes, (name,), registry.refresh().sequence),
            operator(registry),
        )
    assert known(registry, "org/a").is_called("org/b")


def test_a_name_means_one_base_only(registry: Registry) -> None:
    register_base(registry, TINY, operator(registry))
    taken = msgspec.structs.replace(PLAIN, name="other", digest="1" * 64, known_as=("org/tiny",))
    with pytest.raises(errors.Conflict, match="already names base model 'tiny'"):
        register_base(registry, taken, operator(registry))
    named = msgspec.structs.replace(PLAIN, name="org/tiny", digest="1" * 64)
    with pytest.raises(errors.Conflict, match="already names base model 'tiny'"):
        register_base(registry, named, operator(registry))
    assert known(registry, "org/tiny").digest == TINY.digest
