"""Costly work of one key leaves threads and turns to everybody else."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from registry.errors import Overloaded
from registry.http.app import create_app
from registry.http.turns import Turns
from registry.model.access import Secret
from registry.model.bases import RegisterBase
from registry.model.catalog import Grant
from registry.model.domains import CreateDomain
from registry.model.keys import IssueKey
from registry.model.policies import Policy
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore

pytestmark = pytest.mark.anyio
AT_ONCE, OF_ONE, WAITING = 3, 2, 5


class Work:
    """Something that takes until it is released, and who began it."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._ends = threading.Semaphore(0)

    def do(self, who: str) -> str:
        self.begun.append(who)
        assert self._ends.acquire(timeout=20)
        return who

    def end(self, count: int = 1000) -> None:
        """Let so many of those that run, or will, come to their end."""
        self._ends.release(count)


class Asking:
    """As much of a request as turns read: its key, and whether its caller left."""

    def __init__(self, key: str, *, left: bool = False) -> None:
        self.state, self._left = type("State", (), {"actor": key})(), left

    async def is_disconnected(self) -> bool:
        return self._left


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def work() -> Iterator[Work]:
    made = Work()
    yield made
    made.end()


def asked(turns: Turns, work: Work, key: str, *, left: bool = False) -> "asyncio.Task[str]":
    request: Any = Asking(key, left=left)
    return asyncio.create_task(turns.take(request, work.do, key))


async def settled(good: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not good():  # noqa: ASYNC110 # threads change it
            await asyncio.sleep(0.01)


async def test_one_key_has_few_turns_at_once_and_others_need_not_wait_for_its_queue(
    work: Work,
) -> None:
    turns = Turns(AT_ONCE, OF_ONE, waiting=WAITING)
    many = [asked(turns, work, "flood") for _ in range(OF_ONE + WAITING)]
    await settled(lambda: len(work.begun) == OF_ONE)
    other = asked(turns, work, "other")
    await settled(lambda: "other" in work.begun)
    third = asked(turns, work, "third")
    await asyncio.sleep(0.05)
    assert work.begun == ["flood"] * OF_ONE + ["other"], "no more than fit run at once"
    work.end(1)
    await settled(lambda: len(work.begun) > AT_ONCE)
    assert work.begun[-1] == "third", "it need not wait for the rest of the flood"
    work.end()
    assert set(await asyncio.gather(*many, other, third)) == {"flood", "other", "third"}


async def test_more_than_may_wait_are_refused_and_keys_that_ended_are_forgotten(work: Work) -> None:
    turns = Turns(AT_ONCE, OF_ONE, waiting=WAITING)
    many = [asked(turns, work, "flood") for _ in range(OF_ONE + WAITING)]
    await settled(lambda: len(work.begun) == OF_ONE)
    with pytest.raises(Overloaded, match="Too many"):
        await asked(turns, work, "flood")
    work.end()
    await asyncio.gather(*many)
    assert not vars(turns)["_own"]


async def test_nothing_is_done_for_a_caller_who_left_while_waiting(work: Work) -> None:
    turns = Turns(AT_ONCE, OF_ONE, waiting=WAITING)
    first = [asked(turns, work, "key") for _ in range(OF_ONE)]
    await settled(lambda: len(work.begun) == OF_ONE)
    gone = asked(turns, work, "key", left=True)
    work.end()
    await asyncio.gather(*first)
    with pytest.raises(Overloaded, match="left"):
        await gone
    assert work.begun == ["key"] * OF_ONE


class Refusing(Turns):
    """It notes who asks for a turn, and gives none."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.asked: list[str] = []

    async def take(self, request: Request, work: Any, *given: Any, **named: Any) -> Any:
        self.asked.append(getattr(request.state, "actor", ""))
        raise Overloaded("No turn.")


@pytest.fixture
def service(tmp_path: Path) -> tuple[FastAPI, Secret]:
    """A registry with a domain, and a key that may publish adapters and tasks."""
    store = LocalStore(tmp_path / "store")
    operator = Registry.create(store, name="turns", key_name="operator")
    registry = Registry(store)
    registry.execute(RegisterBase("tiny", "0" * 64, "1" * 64), operator.id)
    registry.execute(CreateDomain("medical", Policy(guarded=())), operator.id)
    key = Secret.generate()
    grants = (Grant("publish", "medical"), Grant("evaluate", "medical"))
    registry.execute(IssueKey(key.id, "team", key.digest, grants), operator.id)
    registry.close()
    return create_app(RegistrySettings(store=str(store.root))), key


@pytest.fixture
async def client(service: tuple[FastAPI, Secret]) -> AsyncIterator[httpx.AsyncClient]:
    app, key = service
    headers = {"Authorization": f"Bearer {key.text}", "Origin": "http://service"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://service", headers=headers
    ) as made:
        assert (await made.post("/login", data={"key": key.text})).status_code == 303
        yield made


FILE = {"path": "README.md", "size": 1, "sha256": "0" * 64}
SUITE = {"suite": "x", "digest": "0" * 64, "held_out": "0" * 64}
COSTLY: dict[str, dict[str, Any]] = {
    "/api/v1/adapters/medical/x/versions": {"json": {"base": "tiny", "files": [FILE]}},
    "/api/v1/domains/medical/tasks/x/versions": {"json": {"files": [FILE], "suites": [SUITE]}},
    "/api/models/medical/x/commit/main": {"content": b"not read before its turn"},
    "/api/validate-yaml": {"json": {"content": "# A"}},
    "/upload": {"data": {"domain": "medical", "adapter": "x"}, "files": {"files": b"x"}},
    "/api/v1/uploads": {"json": {"files": []}},
    f"/api/v1/uploads/{'0' * 64}/assembly": {"json": {"parts": ["0" * 64]}},
}
EMPTY = hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize("path", COSTLY)
async def test_what_takes_long_waits_for_the_turn_of_its_key(
    path: str, service: tuple[FastAPI, Secret], client: httpx.AsyncClient
) -> None:
    app, key = service
    refusing = Refusing()
    app.state.turns = {"examine": refusing, "store": refusing}
    answer = await client.post(path, **COSTLY[path])
    assert answer.status_code == 503, answer.text
    assert refusing.asked == [key.id]


@pytest.mark.parametrize("kind", ["blobs", "parts"])
async def test_content_is_stored_in_the_turn_of_its_key(
    kind: str, service: tuple[FastAPI, Secret], client: httpx.AsyncClient
) -> None:
    app, key = service
    refusing = Refusing()
    app.state.turns["store"] = refusing
    answer = await client.put(f"/api/v1/{kind}/{EMPTY}", headers={"Content-Length": "0"})
    assert answer.status_code == 503, answer.text
    assert refusing.asked == [key.id]


async def test_a_flood_of_costly_uploads_keeps_no_thread_from_other_routes(
    service: tuple[FastAPI, Secret],
    client: httpx.AsyncClient,
    work: Work,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("registry.hub.writing._validate", work.do)
    flood = [
        asyncio.create_task(client.post("/api/validate-yaml", json={"content": "# A"}))
        for _ in range(60)
    ]
    await settled(lambda: len(work.begun) == 2)
    answers = await asyncio.wait_for(
        asyncio.gather(*(client.get("/api/v1/domains") for _ in range(20))), 10
    )
    assert {answer.status_code for answer in answers} == {200}
    assert len(work.begun) == 2
    work.end()
    await asyncio.gather(*flood, return_exceptions=True)
