"""Two who publish at once: neither's bytes are lost, and neither overwrites the other unseen."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient

from registry import errors
from registry.http.app import create_app
from registry.hub.revisions import commit_id
from registry.log.commits import MAX_COMMIT
from registry.maintain.collection import collect
from registry.maintain.verify import verify
from registry.model.access import Secret
from registry.model.catalog import Catalog, File, Version
from registry.model.collection import MAX_CONDEMNED
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.model.versions import PublishVersion
from registry.publish.publishing import publish, register_base
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from registry.store.base import PutMode
from registry.store.blobs import DAMAGED, Blobs, blob_key, content_digest, part_key
from tests.support.adapters import TINY, write_adapter
from tests.support.catalogs import FACTS, files

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def operator(local_store: LocalStore) -> Secret:
    secret = Registry.create(local_store, name="test", key_name="operator")
    registry = Registry(local_store)
    register_base(registry, TINY, secret.id)
    registry.execute(CreateDomain("medical", Policy(guarded=())), secret.id)
    registry.close()
    return secret


def stored(store: LocalStore, directory: Path) -> list[File]:
    """The files of an adapter, uploaded."""
    blobs = Blobs(store)
    return [
        File(path.name, path.stat().st_size, blobs.put_bytes(path.read_bytes()))
        for path in sorted(directory.iterdir())
    ]


def publish_to(registry: Registry, files: list[File], who: Secret, **more: Any) -> Version:
    return publish(
        registry, domain="medical", adapter="coder", base="tiny", files=files, actor=who.id, **more
    )


class Interrupted(LocalStore):
    """Before its next write or removal of a blob or a mark, something else happens."""

    before: Callable[[], None] | None = None

    def put(self, key: str, data: bytes, mode: PutMode) -> None:
        self._interrupt(key)
        super().put(key, data, mode)

    def delete(self, key: str) -> None:
        self._interrupt(key)
        super().delete(key)

    def _interrupt(self, key: str) -> None:
        if self.before is not None and key.startswith(("blobs/", DAMAGED)):
            before, self.before = self.before, None
            before()


def damage(store: LocalStore, digest: str) -> None:
    data = bytearray(store.get(blob_key(digest)))
    data[-1] ^= 1
    store.put(blob_key(digest), bytes(data), "overwrite")


def test_a_slow_publisher_takes_nothing_from_a_quick_one_who_mended_the_same_blob(
    local_store: LocalStore, operator: Secret, tmp_path: Path
) -> None:
    files = stored(local_store, write_adapter(tmp_path / "a"))
    weights = next(file for file in files if file.path == WEIGHTS)
    damage(local_store, weights.sha256)
    slow, quick = Registry(Interrupted(local_store.root)), Registry(local_store)

    def mend_and_publish() -> None:
        # Both found the damage; the quick one uploads again and publishes before the slow one acts.
        Blobs(local_store).put_bytes((tmp_path / "a" / WEIGHTS).read_bytes())
        publish_to(quick, files, operator)

    slow.store.before = mend_and_publish  # type: ignore[attr-defined]
    with pytest.raises(errors.ContentMissing):
        publish_to(slow, files, operator)
    assert quick.catalog.adapters["medical/coder"].versions
    report = verify(local_store)
    assert report.sound, report.findings
    assert publish_to(slow, files, operator).number == 1
    for registry in (slow, quick):
        registry.close()


def test_a_damaged_blob_counts_as_missing_until_it_is_uploaded_again(
    local_store: LocalStore, operator: Secret, tmp_path: Path
) -> None:
    files = stored(local_store, write_adapter(tmp_path / "a"))
    digest = next(file.sha256 for file in files if file.path == WEIGHTS)
    damage(local_store, digest)
    registry, blobs = Registry(local_store), Blobs(local_store)
    assert blobs.missing([digest]) == set(), "nobody has looked yet"
    with pytest.raises(errors.ContentMissing, match="Upload it again"):
        publish_to(registry, files, operator)
    assert blobs.missing(file.sha256 for file in files) == {digest}
    blobs.put_file(tmp_path / "a" / WEIGHTS, digest)
    assert blobs.missing([digest]) == set()
    assert publish_to(registry, files, operator).number == 1
    assert verify(local_store).sound
    collect(registry, operator.id, apply=True, grace_seconds=0)
    assert list(local_store.list(DAMAGED)) == []
    registry.close()


def test_a_collection_leaves_alone_what_is_no_blob(
    local_store: LocalStore, operator: Secret
) -> None:
    """Copies and tools leave such files behind; one must not end every collection."""
    others = ("blobs/.DS_Store", f"blobs/sha256/ab/{'A' * 64}", "uploads/x", f"{DAMAGED}y.tmp")
    for key in others:
        (local_store.root / key).parent.mkdir(parents=True, exist_ok=True)
        (local_store.root / key).write_bytes(b"x")
    unused = Blobs(local_store).put_bytes(b"unused")
    registry = Registry(local_store)
    done = collect(registry, operator.id, apply=True, grace_seconds=-10)
    registry.close()
    assert (done.blobs, done.parts) == (1, 0)
    assert Blobs(local_store).missing([unused]) == {unused}
    assert all((local_store.root / key).exists() for key in others)


def test_a_collection_spares_the_parts_of_an_upload_under_way(
    local_store: LocalStore, operator: Secret
) -> None:
    digest = hashlib.sha256(b"part").hexdigest()
    local_store.put(part_key(digest), b"part", "overwrite")
    registry = Registry(local_store)
    assert collect(registry, operator.id, apply=True, grace_seconds=3600).parts == 0
    assert Blobs(local_store).missing_parts([digest]) == set()
    assert collect(registry, operator.id, apply=True, grace_seconds=-10).parts == 1
    assert Blobs(local_store).missing_parts([digest]) == {digest}
    registry.close()


def test_a_listing_that_names_a_path_twice_is_refused(
    local_store: LocalStore, operator: Secret, tmp_path: Path
) -> None:
    files = stored(local_store, write_adapter(tmp_path / "a"))
    registry = Registry(local_store)
    with pytest.raises(errors.AdmissionRefused, match="listed twice"):
        publish_to(registry, [*files, files[0]], operator)
    assert publish_to(registry, files, operator).number == 1
    registry.close()


def test_a_large_collection_is_made_of_commits_of_bounded_size(
    local_store: LocalStore, operator: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.maintain.collection.MAX_CONDEMNED", 10)
    for number in range(25):
        Blobs(local_store).put_bytes(str(number).encode())
    registry = Registry(local_store)
    before = registry.refresh().sequence
    done = collect(registry, operator.id, apply=True, grace_seconds=-10)
    assert done.blobs == 25
    assert registry.catalog.sequence == before + 6
    assert registry.catalog.condemned == ()
    registry.close()
    assert MAX_CONDEMNED * 70 < MAX_COMMIT, "a commit of so many digests can be written"


def test_whoever_saw_an_older_version_publishes_nothing_and_hears_who_was_first(
    local_store: LocalStore, operator: Secret, tmp_path: Path
) -> None:
    registry = Registry(local_store)
    first, second, third = (
        stored(local_store, write_adapter(tmp_path / str(seed), seed=seed)) for seed in range(3)
    )
    with pytest.raises(errors.VersionConflict, match="no version yet"):
        publish_to(registry, first, operator, expected=1)
    assert publish_to(registry, first, operator, expected=0).number == 1
    assert publish_to(registry, second, operator, expected=1).number == 2
    with pytest.raises(errors.VersionConflict, match=f"is 2, not 1: {operator.id} published it"):
        publish_to(registry, third, operator, expected=1)
    assert publish_to(registry, second, operator, expected=1).number == 2, "a repeat is no conflict"
    assert publish_to(registry, third, operator).number == 3, "nothing is expected by default"
    registry.close()


# The Hub's protocol


class Service:
    """The service in this process, asked with an operator's key."""

    def __init__(self, client: TestClient, registry: Registry) -> None:
        self.client, self.registry = client, registry

    def commit(self, parent: str | None, **files: bytes | None) -> Any:
        """A Hub commit of files by name (with `__` for a dot); None leaves one out."""
        lines = [{"key": "header", "value": {"summary": "x", "parentCommit": parent}}]
        for name, content in files.items():
            path = name.replace("__", ".")
            if content is None:
                lines.append({"key": "deletedFile", "value": {"path": path}})
                continue
            text = base64.b64encode(content).decode()
            value = {"path": path, "encoding": "base64", "content": text}
            lines.append({"key": "file", "value": value})
        body = "\n".join(json.dumps(line) for line in lines)
        return self.client.post("/api/models/medical/coder/commit/main", content=body)

    @property
    def catalog(self) -> Catalog:
        return self.registry.refresh()

    def card(self, number: int) -> bytes:
        version = self.catalog.adapters["medical/coder"].versions[number - 1]
        digest = next(file.sha256 for file in version.files if file.path == "README.md")
        return Blobs(self.registry.store).get(digest)


@pytest.fixture
def service(local_store: LocalStore, operator: Secret, tmp_path: Path) -> Iterator[Service]:
    app = create_app(RegistrySettings(store=str(local_store.root)))
    headers = {"Authorization": f"Bearer {operator.text}"}
    with TestClient(app, headers=headers) as client:
        made = Service(client, app.state.registry)
        publish_to(app.state.registry, stored(local_store, write_adapter(tmp_path / "a")), operator)
        yield made


CARD = b"---\nlicense: apache-2.0\n---\n\n# Tiny\n\n## Intended use\n\n"


def test_a_commit_on_a_parent_that_is_no_longer_the_newest_is_refused_and_says_what_came_between(
    service: Service,
) -> None:
    parent = commit_id(service.catalog.adapters["medical/coder"].versions[0])
    assert service.commit(parent, README__md=CARD + b"First.\n").status_code == 200
    refused = service.commit(parent, README__md=CARD + b"Second.\n")
    assert refused.status_code == 412
    message = refused.json()["error"]
    assert "A commit has happened since" in message
    assert "medical/coder@2" in message
    assert refused.headers["x-error-message"].startswith("A commit has happened since")
    assert len(service.catalog.adapters["medical/coder"].versions) == 2
    assert service.card(2).endswith(b"First.\n")
    parent = commit_id(service.catalog.adapters["medical/coder"].versions[1])
    assert service.commit(parent, README__md=CARD + b"Both.\n").status_code == 200


@pytest.mark.parametrize("with_parent", [True, False])
def test_a_commit_overtaken_while_it_is_admitted_drops_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch, with_parent: bool
) -> None:
    """The other commit lands between the look at the newest version and the decision."""
    parent = commit_id(service.catalog.adapters["medical/coder"].versions[0])
    overtaken: list[int] = []

    def overtaking(registry: Registry, **named: Any) -> Version:
        if not overtaken:
            overtaken.append(0)
            overtaken[0] = service.commit(None, README__md=CARD + b"Added.\n").status_code
        return publish(registry, **named)

    monkeypatch.setattr("registry.hub.committing.publish", overtaking)
    provenance = json.dumps({"lineage": {"code": "v2"}}).encode()
    answer = service.commit(parent if with_parent else None, provenance__json=provenance)
    assert overtaken == [200]
    assert answer.status_code == (412 if with_parent else 200), answer.text
    newest = len(service.catalog.adapters["medical/coder"].versions)
    assert newest == (2 if with_parent else 3)
    assert service.card(newest).endswith(b"Added.\n")


def test_the_api_answers_a_conflict_with_412(
    service: Service, local_store: LocalStore, tmp_path: Path
) -> None:
    files = stored(local_store, write_adapter(tmp_path / "b", seed=7))
    body: dict[str, Any] = {
        "base": "tiny",
        "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in files],
        "expected": 0,
    }
    refused = service.client.post("/api/v1/adapters/medical/coder/versions", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (412, "version_conflict")
    body["expected"] = 1
    done = service.client.post("/api/v1/adapters/medical/coder/versions", json=body)
    assert (done.status_code, done.json()["version"]) == (201, 2)


def test_what_was_read_back_before_a_collection_ended_is_not_published_after_it(
    local_store: LocalStore, operator: Secret
) -> None:
    """The collection may have removed it in between: the file is asked for again."""
    registry = Registry(local_store)
    before = registry.refresh().sequence
    Blobs(local_store).put_bytes(b"garbage")
    collect(registry, operator.id, apply=True, grace_seconds=-1)
    assert registry.catalog.swept > before
    listed = files(1)
    command = PublishVersion("medical", "coder", content_digest(listed), "tiny", listed, FACTS)
    late = msgspec.structs.replace(command, read_at=before)
    with pytest.raises(errors.BeingCollected):
        registry.execute(late, operator.id)
    again = msgspec.structs.replace(command, read_at=registry.catalog.sequence)
    assert registry.execute(again, operator.id)
    registry.close()
