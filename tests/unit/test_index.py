"""What a change or a request reads does not grow with the versions and evaluations there are."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from msgspec.structs import replace

from registry.http import create_app
from registry.log.commits import CommitLog
from registry.model.access import Secret
from registry.model.aliases import MoveAlias
from registry.model.base import Command, Entry
from registry.model.catalog import File, Grant, Version
from registry.model.domains import CreateDomain
from registry.model.evaluations import EvaluationRecorded, RecordEvaluation
from registry.model.evidence import SuiteResult, Tally
from registry.model.feedback import GiveFeedback
from registry.model.keys import IssueKey
from registry.model.policies import Policy
from registry.model.recorded import Evaluation
from registry.model.reviews import CloseReview, EraseReview, JudgeItem, OpenReview
from registry.model.versions import ApproveVersion, RevokeVersion, VersionPublished
from registry.publish.publishing import publish, register_base
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from registry.store.blobs import Blobs, content_digest
from registry.times import utc_now
from tests.support.adapters import TINY, write_adapter
from tests.support.catalogs import FACTS

FEW, MANY = 20, 120
"""Versions of each of two adapters, each with an evaluation."""
NOW = 2_000_000_000
RESULT = SuiteResult(suite="s", digest="a" * 64, held_out="b" * 64, tallies={"right": Tally(1, 2)})


@dataclass
class Scene:
    """A service over a registry, and who uses it."""

    client: TestClient
    registry: Registry
    operator: str
    author: str
    expert: str
    files: list[File]
    """An adapter's, stored and not published yet."""
    newest: int
    """The number of each adapter's newest version, before anything is published."""

    def give(self, command: Command, actor: str) -> None:
        """Carry out a command that changes something."""
        assert self.registry.execute(command, actor)

    def get(self, path: str, **query: str) -> None:
        """Ask for something that there is."""
        reply = self.client.get(path, params=query)
        assert reply.status_code == 200, reply.text


def opened(folder: Path, size: int) -> Scene:
    """A registry with `size` versions of each adapter, each evaluated; production is the last."""
    store = LocalStore(folder / "store")
    operator = Registry.create(store, name="r", key_name="operator")
    registry, author, expert = Registry(store), Secret.generate(), Secret.generate()
    register_base(registry, TINY, operator.id)
    policy = Policy(guarded=("production",), approvals=1)
    registry.execute(CreateDomain("medical", policy), operator.id)
    for key, roles in ((author, ("publish", "serve")), (expert, ("approve", "review", "evaluate"))):
        grants = tuple(Grant(role, "medical") for role in roles)
        registry.execute(IssueKey(key.id, key.id, key.digest, grants), operator.id)
    entries = [
        Entry(actor, event)
        for adapter in ("coder", "other")
        for number in range(1, size + 1)
        for actor, event in zip((author.id, expert.id), grown(adapter, number), strict=True)
    ]
    CommitLog(store).append(registry.refresh(), entries, utc_now())
    registry.close()
    folder.joinpath("adapter").mkdir()
    paths = sorted(write_adapter(folder / "adapter").iterdir())
    files = [File(p.name, p.stat().st_size, Blobs(store).put_bytes(p.read_bytes())) for p in paths]
    app = create_app(RegistrySettings(store=str(store.root)))
    client = TestClient(app, base_url="http://testserver")
    client.headers |= {
        "Authorization": f"Bearer {operator.text}",
        "Origin": "http://testserver",
    }
    assert client.post("/login", data={"key": operator.text}).status_code == 200
    client.get("/metrics")  # it counts the versions of each adapter once
    return Scene(client, app.state.registry, operator.id, author.id, expert.id, files, size)


def grown(adapter: str, number: int) -> tuple[VersionPublished, EvaluationRecorded]:
    """A version with weights of its own, and an evaluation of it."""
    blob = content_digest((File(adapter, number, "0" * 64),))
    version = VersionPublished(
        domain="medical",
        adapter=adapter,
        version=number,
        digest=blob,
        base=TINY.name,
        files=(File("adapter_model.safetensors", number, blob), File("README.md", 7, "c" * 64)),
        facts=replace(FACTS, weights=content_digest((File("w", number, blob),))),
    )
    evaluation = EvaluationRecorded(
        domain="medical",
        adapter=adapter,
        version=number,
        digest=blob,
        report=content_digest((File("r", number, blob),)),
        results=(RESULT,),
    )
    return version, evaluation


def push(scene: Scene) -> None:
    publish(
        scene.registry,
        domain="medical",
        adapter="coder",
        base=TINY.name,
        files=scene.files,
        actor=scene.author,
    )


def evaluate(scene: Scene) -> None:
    digest, read_at = grown("coder", scene.newest)[0].digest, scene.registry.catalog.sequence
    command = RecordEvaluation(
        "medical", "coder", scene.newest, digest, "d" * 64, (RESULT,), read_at=read_at
    )
    scene.give(command, scene.expert)


def promote(scene: Scene) -> None:
    digest = grown("coder", scene.newest)[0].digest
    scene.give(ApproveVersion("medical", "coder", scene.newest, digest), scene.expert)
    scene.give(MoveAlias("medical", "coder", "production", scene.newest), scene.operator)


def review(scene: Scene) -> None:
    read_at = scene.registry.catalog.sequence
    command = OpenReview(
        "r1", "medical", "coder", (scene.newest,), "t", ("i1",), "e" * 64, None, read_at
    )
    scene.give(command, scene.expert)
    said = JudgeItem("r1", "i1", ("correct",), 0, "neither", "f" * 64, read_at)
    scene.give(said, scene.expert)
    scene.give(CloseReview("r1"), scene.operator)
    scene.give(EraseReview("r1"), scene.operator)


def judge(scene: Scene) -> None:
    response = GiveFeedback("medical", "coder", scene.newest, "a", NOW, "app", "negative")
    scene.give(response, scene.author)


def revoke(scene: Scene) -> None:
    scene.give(RevokeVersion("medical", "coder", scene.newest, "harmful"), scene.operator)


def looking(path: str, **query: str) -> Callable[[Scene], None]:
    """A request for `path`, where N is the number of the newest version."""
    return lambda scene: scene.get(path.replace("@N", f"@{scene.newest}").replace(
        "/N", f"/{scene.newest}"), **query)  # fmt: skip


CODER = "/api/v1/adapters/medical/coder"
HUB = "/api/models/medical/coder"
OPERATIONS: dict[str, Callable[[Scene], None]] = {
    "resolve": looking("/api/v1/resolve/medical/coder@N"),
    "requirements": looking(f"{CODER}/versions/N/requirements"),
    "metrics": looking("/metrics"),
    "page of a version": looking("/adapters/medical/coder/versions/N"),
    "page of the catalogue": looking("/", q="coder"),
    "page that compares": looking("/adapters/medical/coder/compare", a="1", b="2"),
    "Hub: a model": looking(HUB),
    "Hub: a version": looking(f"{HUB}/revision/N"),
    "Hub: models": looking("/api/models", sort="lastModified", filter="peft"),
    "Hub: files": looking(f"{HUB}/tree/N"),
    "Hub: a page of commits": looking(f"{HUB}/commits/main", limit="5"),
    "feedback": judge,
    "evaluate": evaluate,
    "promote": promote,
    "review": review,
    "publish": push,
    "revoke": revoke,
}


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, int]]:
    """Of how many versions and evaluations each operation reads anything, by their number."""
    found: dict[int, dict[str, int]] = {}
    for size in (FEW, MANY):
        scene = opened(tmp_path_factory.mktemp(str(size)), size)
        found[size] = {name: reads(scene, OPERATIONS[name]) for name in OPERATIONS}
        scene.registry.close()
    return found


def reads(scene: Scene, operation: Callable[[Scene], object]) -> int:
    """Of how many versions and evaluations the operation reads anything."""
    read = set[tuple[str, ...]]()
    with pytest.MonkeyPatch.context() as patch:
        for kind, names in ((Version, ("adapter", "number")), (Evaluation, ("report",))):
            patch.setattr(kind, "__getattribute__", noting(names, read), raising=False)
        operation(scene)
    return len(read)


def noting(names: tuple[str, ...], read: set[tuple[str, ...]]) -> Callable[[Any, str], Any]:
    """Attribute access that notes whose attribute it was."""

    def access(one: Any, name: str) -> Any:
        if not name.startswith("__"):
            read.add(tuple(str(object.__getattribute__(one, n)) for n in names))
        return object.__getattribute__(one, name)

    return access


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_read_does_not_grow_with_the_versions_there_are(
    counts: dict[int, dict[str, int]], name: str
) -> None:
    assert counts[FEW][name] == counts[MANY][name] < FEW


def test_reads_are_counted(tmp_path: Path) -> None:
    scene = opened(tmp_path, FEW)
    scene.registry.catalog.__dict__.clear()
    assert reads(scene, lambda scene: None) == 0
    assert reads(scene, lambda scene: scene.registry.catalog.index) == 4 * FEW
    scene.registry.close()
