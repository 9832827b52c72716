"""Weights are known again by their tensors, whatever else stands in their file."""

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from safetensors.numpy import save

from adapters.admission import admit, files_in
from registry import errors
from registry.model.access import Secret
from registry.model.aliases import MoveAlias
from registry.model.catalog import File, Grant, Version
from registry.model.domains import CreateDomain
from registry.model.harm import about
from registry.model.keys import IssueKey
from registry.model.policies import Policy
from registry.model.reviews import CloseReview, JudgeItem, OpenReview
from registry.model.versions import ApproveVersion
from registry.publish.publishing import publish, register_base
from registry.registry import Registry
from registry.store import LocalStore
from registry.store.blobs import Blobs
from tests.support.adapters import TINY, tensors, write_described

MADE = tensors()
FIRST = next(iter(MADE))
PLAIN = save(MADE)


def weights(folder: Path, data: bytes, name: str = "a") -> str:
    """The digest of the tensors in an admitted adapter."""
    admission = admit(files_in(write_described(folder / name, TINY, data)), TINY)
    assert admission.problems == ()
    assert admission.facts is not None
    assert admission.facts.weights is not None
    return admission.facts.weights


def test_what_changes_no_tensor_changes_no_digest(tmp_path: Path) -> None:
    length = int.from_bytes(PLAIN[:8], "little")
    header, rest = PLAIN[8 : 8 + length], PLAIN[8 + length :]
    padded = (length + 16).to_bytes(8, "little") + header + b" " * 16 + rest
    assert weights(tmp_path, PLAIN) == weights(tmp_path, padded, "b")
    assert weights(tmp_path, PLAIN) == weights(tmp_path, save(MADE, {"a": "b"}), "c")


def test_every_change_of_a_tensor_changes_the_digest(tmp_path: Path) -> None:
    other = {**MADE, FIRST: np.nextafter(MADE[FIRST], 1, dtype=np.float32)}
    narrow = {name: value.astype(np.float16) for name, value in MADE.items()}
    a, b = (n for n in list(MADE)[:3:2])  # two of one shape exchange their values
    assert MADE[a].shape == MADE[b].shape
    exchanged = {**MADE, a: MADE[b], b: MADE[a]}
    found = {
        weights(tmp_path, save(made), str(number))
        for number, made in enumerate((MADE, other, narrow, exchanged))
    }
    assert len(found) == 4


@pytest.fixture
def registry(local_store: LocalStore) -> Registry:
    operator = Registry.create(local_store, name="r", key_name="operator")
    registry = Registry(local_store)
    registry.execute(CreateDomain("medical", Policy(approvals=0)), operator.id)
    register_base(registry, TINY, operator.id)
    for name in ("alice", "bob", "dora", "emil"):
        grants = tuple(
            Grant(role, "medical") for role in ("publish", "approve", "review", "evaluate")
        )
        registry.execute(IssueKey(name, name, Secret.generate().digest, grants), operator.id)
    return registry


def push(registry: Registry, folder: Path, data: bytes, actor: str, adapter: str) -> Version:
    directory = write_described(folder / adapter, TINY, data)
    listed = []
    for path in sorted(directory.iterdir()):
        content = path.read_bytes()
        digest = Blobs(registry.store).put_bytes(content)
        listed.append(File(path.name, len(content), digest))
    return publish(
        registry, domain="medical", adapter=adapter, base="tiny", files=listed, actor=actor
    )


def test_metadata_in_the_file_hides_neither_its_harm_nor_its_author(
    registry: Registry, tmp_path: Path
) -> None:
    push(registry, tmp_path, PLAIN, "alice", "coder")
    content = Blobs(registry.store).put_bytes(b'[{"id":"i"}]')
    opened = OpenReview("r1", "medical", "coder", (1,), "t", ("i",), content, None, 1 << 40)
    registry.execute(opened, "bob")
    for expert in ("dora", "emil"):
        registry.execute(JudgeItem("r1", "i", ("harmful",), severity=3), expert)
    again = push(registry, tmp_path, save(MADE, {"a": "b"}), "bob", "other")
    assert [review.id for review, _ in about(again, registry.catalog)] == ["r1"]
    with pytest.raises(errors.Forbidden, match="published the weights"):
        registry.execute(ApproveVersion("medical", "other", 1, again.digest), "alice")
    registry.execute(CloseReview("r1"), "bob")
    with pytest.raises(errors.PromotionNotEarned, match="harm"):
        registry.execute(MoveAlias("medical", "other", "production", 1), "bob")


def test_versions_of_earlier_logs_are_compared_by_their_file(
    registry: Registry, tmp_path: Path
) -> None:
    new = push(registry, tmp_path, PLAIN, "alice", "coder")
    changed = push(registry, tmp_path, save(MADE, {"a": "b"}), "alice", "again")
    old = without_digest(new)
    assert old.same_weights(new)
    assert old.same_weights(old)
    assert new.same_weights(changed)
    assert not without_digest(changed).same_weights(old), "only the tensors tell"


def without_digest(version: Version) -> Version:
    facts = replace(version.facts, weights=None)
    return replace(version, facts=facts)
