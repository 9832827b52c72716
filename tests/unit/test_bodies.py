"""Bodies: whose they are is known before a byte is read, and they share bounded memory."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message

from registry.errors import Overloaded
from registry.http import bodies
from registry.http.app import create_app
from registry.model.access import Secret
from registry.model.catalog import Grant
from registry.model.domains import CreateDomain
from registry.model.keys import IssueKey
from registry.model.policies import Policy
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from registry.times import utc_now

MIB = 1 << 20


class Service:
    """The service in this process, and keys for it."""

    def __init__(self, folder: Path) -> None:
        store = LocalStore(folder / "store")
        self.operator = Registry.create(store, name="test", key_name="operator")
        self.app: FastAPI = create_app(RegistrySettings(store=str(store.root)))
        self.registry: Registry = self.app.state.registry
        self.registry.execute(CreateDomain("medical", Policy()), self.operator.id)

    def key(self, role: str) -> Secret:
        secret = Secret.generate()
        grants = (Grant(role, "medical"),)
        command = IssueKey(secret.id, role, secret.digest, grants)
        self.registry.execute(command, self.operator.id)
        return secret


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("bodies"))
    yield made
    made.registry.close()


class Sender:
    """A client that sends a request's head, then its body as it is told."""

    def __init__(
        self, method: str, path: str, key: Secret | None = None, declared: int | None = None
    ) -> None:
        headers = [(b"host", b"testserver"), (b"content-type", b"application/json")]
        if key is not None:
            headers.append((b"authorization", f"Bearer {key.text}".encode()))
        if declared is None:
            headers.append((b"transfer-encoding", b"chunked"))
        else:
            headers.append((b"content-length", str(declared).encode()))
        self.scope: dict[str, Any] = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
            "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers,
            "scheme": "http", "server": ("testserver", 80), "client": ("127.0.0.1", 1),
            "root_path": "", "state": {},
        }  # fmt: skip
        self.pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self.asked = 0
        """How often the service wanted a piece."""
        self.status = 0
        self.headers: dict[str, str] = {}
        self.answer = b""

    async def receive(self) -> Message:
        self.asked += 1
        return {"type": "http.request", "body": await self.pieces.get(), "more_body": True}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            self.answer += message.get("body", b"")

    async def to(self, app: ASGIApp) -> None:
        await asyncio.wait_for(app(self.scope, self.receive, self.send), 30)


OPEN = ("/login", "/api/validate-yaml")
PATHS = [
    ("POST", "/api/v1/keys", 401),
    ("POST", "/api/v1/adapters/medical/x/versions/1/evaluations", 401),
    ("PUT", f"/api/v1/blobs/{'0' * 64}", 401),
    ("POST", "/api/v1/nothing", 401),
    ("POST", "/api/models/medical/x/commit/main", 401),
    ("POST", "/api/models/medical/x/preupload/main", 401),
    ("POST", "/medical/x.git/info/lfs/objects/batch", 401),
    ("PUT", "/lfs/a.b.1.c", 401),
    ("POST", "/api/validate-yaml", 401),
    ("POST", "/upload", 303),
    ("POST", "/reviews/1/judge", 303),
    ("POST", "/login", 303),
    ("GET", "/api/v1/adapters", 401),
]


@pytest.mark.parametrize(
    ("method", "path", "status", "declared"),
    [
        (*case, declared)
        for case in PATHS
        for declared in (200 * MIB, None)
        if declared or case[1] not in OPEN  # open ones are bounded as they come
    ],
)
def test_not_a_byte_is_read_of_a_caller_who_is_not_known(
    service: Service, method: str, path: str, status: int, declared: int | None
) -> None:
    sender = Sender(method, path, declared=declared)
    asyncio.run(sender.to(service.app))
    assert (sender.status, sender.asked) == (status, 0)
    assert sender.headers["connection"] == "close"
    if status == 401:
        assert b'"error"' in sender.answer


@pytest.mark.parametrize("path", OPEN)
def test_an_open_route_reads_a_few_kilobytes_of_a_chunked_body(service: Service, path: str) -> None:
    async def send() -> Sender:
        sender = Sender("POST", path)
        if path == "/login":
            form = (b"content-type", b"application/x-www-form-urlencoded")
            sender.scope["headers"].append(form)
            sender.scope["headers"].remove((b"content-type", b"application/json"))
        for _ in range(100):
            sender.pieces.put_nowait(b" " * 8000)
        await sender.to(service.app)
        return sender

    sender = asyncio.run(send())
    assert sender.status == 413
    assert sender.asked <= 10


def test_a_known_caller_sends_as_much_as_the_route_and_the_role_allow(service: Service) -> None:
    infer, evaluator = service.key("infer"), service.key("evaluate")
    evaluations = "/api/v1/adapters/medical/x/versions/1/evaluations"
    cases = [
        ("/api/v1/keys", service.operator, 2 * MIB, 413),
        (evaluations, evaluator, 41 * MIB, 413),
        (evaluations, infer, 1 * MIB, 403),
        ("/api/v1/bases", evaluator, 1 * MIB, 403),
        ("/api/models/medical/x/commit/main", infer, 1 * MIB, 403),
    ]
    for path, key, declared, status in cases:
        sender = Sender("POST", path, key, declared)
        asyncio.run(sender.to(service.app))
        assert (sender.status, sender.asked) == (status, 0), path


@pytest.mark.parametrize(
    ("path", "role", "values", "before", "after"),
    [
        ("/api/v1/uploads", "publish", 500_000, '{"files":[', "[]]}"),
        ("/api/v1/reviews", "evaluate", 500_000, '{"items":[', "[]]}"),
        ("/api/v1/adapters/medical/x/versions/1/evaluations", "evaluate", 1_000_000,
         '{"report":[', "[]]}"),
        ("/api/v1/keys", "publish", 100_000, "[", "[]]"),
    ],
)  # fmt: skip
def test_a_body_of_millions_of_values_is_not_parsed(
    service: Service, path: str, role: str, values: int, before: str, after: str
) -> None:
    body = before + "[]," * (values // 2) + after
    client = TestClient(service.app, headers={
        "Authorization": f"Bearer {service.key(role).text}", "Content-Type": "application/json",
    })  # fmt: skip
    refused = client.post(path, content=body)
    assert refused.status_code == 413
    assert f"more than {values:,} values" in refused.text
    fewer = before + "[]," * (values // 2 - 2) + after
    assert "values" not in client.post(path, content=fewer[:-1] + "x").text


def test_a_chunked_body_is_cut_off_at_its_limit_in_the_envelope(service: Service) -> None:
    async def send() -> Sender:
        sender = Sender("POST", "/api/v1/keys", service.operator)
        for _ in range(20):
            sender.pieces.put_nowait(b" " * 100_000)
        await sender.to(service.app)
        return sender

    sender = asyncio.run(send())
    assert sender.status == 413
    assert b'"code":"too_large"' in sender.answer
    assert sender.asked == 11


def test_a_slow_body_is_cut_off(service: Service) -> None:
    hasty = bodies.BodyLimits(service.app, service.app.state.settings, grace=0.2)

    async def send(path: str) -> Sender:
        sender = Sender("POST", path, service.operator, 1000)
        sender.scope["app"] = service.app
        sender.pieces.put_nowait(b"{")
        await sender.to(hasty)
        return sender

    for path in ("/api/v1/keys", "/api/models/medical/x/commit/main"):
        sender = asyncio.run(send(path))
        assert sender.status == 408
        assert b"in time" in sender.answer


def test_unfinished_bodies_share_a_bounded_memory(service: Service) -> None:
    async def send() -> list[Sender]:
        senders = [
            Sender("POST", "/api/v1/keys", service.operator, MIB if one % 2 else None)
            for one in range(500)
        ]
        running = [asyncio.ensure_future(sender.to(service.app)) for sender in senders]
        for sender in senders:
            sender.pieces.put_nowait(b" " * (MIB // 2))
        await asyncio.sleep(1)
        held = sum(not task.done() for task in running)
        assert 0 < held * MIB / 2 <= bodies.SHARE
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        return senders

    senders = asyncio.run(send())
    refused = [sender for sender in senders if sender.status]
    assert {sender.status for sender in refused} == {503}
    assert all(b'"code":"overloaded"' in sender.answer for sender in refused)
    assert len(refused) > 300
    with TestClient(service.app) as client:  # all of it was given back
        headers = {"Authorization": f"Bearer {service.operator.text}"}
        body = {"name": "n", "grants": [{"role": "infer", "domain": "medical"}]}
        assert client.post("/api/v1/keys", json=body, headers=headers).status_code == 201


def test_one_key_cannot_hold_the_memory_of_all() -> None:
    memory = bodies.Memory(total=10, share=6, open_share=2)
    memory.take("a", 6)
    for holder, size in (("a", 1), ("", 3), ("b", 5)):
        with pytest.raises(Overloaded):
            memory.take(holder, size)
    memory.take("b", 4)
    memory.free("a", 6)
    memory.take("b", 2)


def test_the_upload_form_takes_a_bounded_number_of_files(service: Service) -> None:
    headers = {"Origin": "http://testserver"}
    with TestClient(service.app, headers=headers) as client:
        client.post("/login", data={"key": service.operator.text})
        files = [("files", (f"{n}", b"x")) for n in range(100)]
        refused = client.post("/upload", data={"domain": "medical", "adapter": "x"}, files=files)
        assert refused.status_code == 400
        assert "text/html" in refused.headers["content-type"]
        assert "Too many files" in refused.text


def test_a_key_that_another_process_issued_sends_bodies_at_once(service: Service) -> None:
    other, secret = Registry(service.registry.store), Secret.generate()
    command = IssueKey(secret.id, "new", secret.digest, (Grant("publish", "medical"),))
    other.execute(command, service.operator.id)
    other.close()
    headers = {"Authorization": f"Bearer {secret.text}"}
    with TestClient(service.app) as client:
        path = f"/api/v1/blobs/{hashlib.sha256(b'x').hexdigest()}"
        assert client.put(path, content=b"x", headers=headers).status_code == 204


def test_a_card_is_validated_without_a_key(service: Service) -> None:
    with TestClient(service.app) as client:
        good = {"repoType": "model", "content": "---\nlicense: mit\n---\n# A card\n"}
        assert client.post("/api/validate-yaml", json=good).status_code == 200
        bad = {"content": "---\nlicense: [\n---\n"}
        assert client.post("/api/validate-yaml", json=bad).status_code == 400


async def _pieces() -> AsyncIterator[bytes]:
    yield b"x"


def test_a_body_of_pieces_is_taken(service: Service) -> None:
    transport = httpx.ASGITransport(service.app)

    async def send() -> int:
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            headers = {"Authorization": f"Bearer {service.operator.text}"}
            answer = await client.post("/api/v1/keys", content=_pieces(), headers=headers)
            return answer.status_code

    assert asyncio.run(send()) == 400


def test_every_answer_and_every_refusal_in_the_log_has_a_request_id(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    with TestClient(service.app) as client:
        assert len(client.get("/live").headers["x-request-id"]) == 16
        headers = {"X-Request-Id": "from-the-client"}
        refused = client.post("/api/v1/keys", json={}, headers=headers)
        assert refused.headers["x-request-id"] == "from-the-client"
        assert '"request": "from-the-client"' in caplog.text
        assert f'"time": "{utc_now()[:11]}' in caplog.text
        made_up = client.get("/live", headers={"X-Request-Id": "x" * 129})
        assert len(made_up.headers["x-request-id"]) == 16
