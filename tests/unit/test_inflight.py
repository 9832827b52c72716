"""What may end a request before its answer is complete, and what its caller is then told."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from registry.model.domains import ChangePolicy
from registry.model.policies import Policy
from registry.model.versions import RevokeVersion
from serving.errors import DeadlineExceeded, ShuttingDown
from serving.gate import Gate
from serving.inflight import InFlight
from serving.shutdown import Shutdown
from tests.support.asking import CHAT, into, scope_of, whole
from tests.support.replicas import Site, Upstream, answered, make_site
from tests.support.tiers import settled


class Slow(Upstream):
    """An engine that answers when its caller has left; a stream's first piece it gives at once.

    It listens as vLLM does: the request runs beside a task that waits for the disconnect.
    """

    def __init__(self, *, streams: bool = False, stubborn: bool = False) -> None:
        super().__init__()
        self.streams, self.stubborn = streams, stubborn
        self.left = self.cancelled = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != CHAT:
            await super().__call__(scope, receive, send)
            return
        await receive()
        if self.streams:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
        self.scopes.append(scope)
        try:
            self.left = (await receive())["type"] == "http.disconnect"
            if self.streams or self.stubborn:
                await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"null"})


def ask(
    site: Site,
    engine: Upstream,
    meanwhile: Callable[[], Any] = lambda: None,
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    """One request for medical/coder; `meanwhile` is called while it is under way."""
    body = json.dumps({"model": "medical/coder", "messages": []}).encode()
    scope = scope_of("POST", CHAT, site.medical, **headers)
    sent: list[Message] = []

    async def run() -> None:
        handed_out = False

        async def receive() -> Message:
            nonlocal handed_out
            if handed_out:
                await asyncio.sleep(60)
            handed_out = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def act() -> None:
            for _ in range(3000):
                if engine.scopes or sent:
                    break
                await asyncio.sleep(0.01)
            meanwhile()

        await asyncio.gather(Gate(engine, site.replica)(scope, receive, into(sent)), act())

    asyncio.run(run())
    return answered(sent)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = make_site(tmp_path, request_seconds=60)
    ask(made, Upstream())  # so that what is timed is not the first load
    return made


def test_a_deadline_ends_the_request_in_the_engine_and_is_reported(site: Site) -> None:
    engine = Slow()
    status, _, body = ask(site, engine, X_Lorary_Timeout="0.5")
    assert (status, json.loads(body)["error"]["code"]) == (504, "deadline_exceeded")
    assert engine.left
    assert len(site.replica.inflight) == 0


def test_an_engine_that_does_not_notice_is_cancelled(site: Site) -> None:
    engine = Slow(stubborn=True)
    status, _, _ = ask(site, engine, X_Lorary_Timeout="0.5")
    assert status == 504
    assert engine.cancelled


def test_a_stream_tells_why_it_ends_as_its_last_event(site: Site) -> None:
    engine = Slow(streams=True)
    status, _, body = ask(site, engine, X_Lorary_Timeout="0.5")
    events = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line]
    assert status == 200
    assert events[0] == b"{}"
    assert json.loads(events[1])["error"]["code"] == "deadline_exceeded"
    assert engine.left or engine.cancelled


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf", ""])
def test_a_timeout_that_is_no_time_is_refused(site: Site, text: str) -> None:
    status, _, body = ask(site, Upstream(), X_Lorary_Timeout=text)
    assert (status, json.loads(body)["error"]["code"]) == (400, "invalid_request")


def test_nobody_may_ask_for_more_than_the_operator_allows(tmp_path: Path) -> None:
    site = make_site(tmp_path, request_seconds=0.2)
    status, _, _ = ask(site, Slow(), X_Lorary_Timeout="50")
    assert status == 504


@pytest.mark.parametrize("streams", [False, True])
def test_a_revoked_versions_answers_end_where_the_policy_says_so(site: Site, streams: bool) -> None:
    def revoke() -> None:
        site.registry.execute(
            RevokeVersion("medical", "coder", 1, "it invents codes"), site.operator.id
        )
        site.replica.inflight.end_revoked(site.replica.follower.refresh())

    status, _, body = ask(site, Slow(streams=streams), revoke)
    assert status == (200 if streams else 410)
    assert b"it invents codes" in body


def test_a_revoked_versions_answers_are_finished_where_the_policy_says_so(site: Site) -> None:
    site.registry.execute(
        ChangePolicy("medical", Policy(guarded=(), end_revoked=False), weaken=True),
        site.operator.id,
    )
    upstream = Upstream(pause=0.2)

    def revoke() -> None:
        site.registry.execute(RevokeVersion("medical", "coder", 1, "old"), site.operator.id)
        site.replica.inflight.end_revoked(site.replica.follower.refresh())

    status, _, body = ask(site, upstream, revoke)
    assert (status, body) == (200, b'{"ok": true}')


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happened to the server's process, which the tests need themselves."""
    happened: list[str] = []
    monkeypatch.setattr("serving.shutdown._stop", lambda: happened.append("stopped"))
    monkeypatch.setattr("serving.shutdown.LINGER_SECONDS", 0.0)
    monkeypatch.setattr("serving.shutdown.LAST_SECONDS", 0.2)
    return happened


class Held(Upstream):
    """An engine that answers once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == CHAT:
            self.scopes.append(scope)
            await self.may_answer.wait()
        await super().__call__(scope, receive, send)


async def leave(
    site: Site, engine: Held, patience: float, meanwhile: Callable[[], None]
) -> tuple[tuple[int, dict[str, str], bytes], tuple[int, dict[str, str], bytes]]:
    """A server that is told to end while it answers: that answer, and one asked for after."""
    shutdown = Shutdown(site.replica.inflight, notice=0.0, patience=patience)
    site.replica.shutdown = shutdown
    body = json.dumps({"model": "medical/coder", "messages": []}).encode()
    gate = Gate(engine, site.replica)

    def request(sent: list[Message]) -> Coroutine[Any, Any, None]:
        return gate(scope_of("POST", CHAT, site.medical), whole(body), into(sent))

    first: list[Message] = []
    second: list[Message] = []
    begun = asyncio.create_task(request(first))
    await settled(lambda: bool(engine.scopes))
    shutdown.begin()
    await settled(lambda: shutdown._closed)
    await request(second)
    meanwhile()
    await begun
    assert shutdown._leaving is not None
    await shutdown._leaving
    return answered(first), answered(second)


def test_a_stopping_server_finishes_what_it_began_refuses_the_rest_and_then_ends(
    site: Site, stopped: list[str]
) -> None:
    async def run() -> None:
        engine = Held()

        def go_on() -> None:
            assert stopped == [], "it waits for what it began"
            engine.may_answer.set()

        first, (status, headers, body) = await leave(site, engine, 60, go_on)
        assert (first[0], first[2]) == (200, b'{"ok": true}')
        assert (status, json.loads(body)["error"]["code"]) == (503, "shutting_down")
        assert headers["connection"] == "close"
        assert headers["retry-after"] == "1"

    asyncio.run(run())
    assert stopped == ["stopped"]


def test_a_stopping_servers_grace_period_ends_and_callers_are_answered(
    site: Site, stopped: list[str]
) -> None:
    async def run() -> None:
        first, _ = await leave(site, Held(), 0.1, lambda: None)
        assert (first[0], json.loads(first[2])["error"]["code"]) == (503, "shutting_down")

    asyncio.run(run())
    assert stopped == ["stopped"]


def test_callers_are_answered_before_the_process_of_a_stopping_server_ends(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    inflight, left = site.replica.inflight, list[int]()
    monkeypatch.setattr("serving.shutdown._stop", lambda: left.append(len(inflight)))
    monkeypatch.setattr("serving.shutdown.LINGER_SECONDS", 0.0)

    async def run() -> None:
        async def slow(message: Message) -> None:
            await asyncio.sleep(0.2)

        engine = Slow()
        gate, body = Gate(engine, site.replica), b'{"model": "medical/coder", "messages": []}'
        request = gate(scope_of("POST", CHAT, site.medical), whole(body), slow)
        asking = asyncio.create_task(request)
        await settled(lambda: bool(engine.scopes))
        shutdown = Shutdown(inflight, notice=0.0, patience=0.0)
        shutdown.begin()
        await settled(lambda: bool(left))
        await asking

    asyncio.run(run())
    assert left == [0]


def test_a_second_signal_ends_the_server_at_once(site: Site, stopped: list[str]) -> None:
    async def run() -> None:
        shutdown = Shutdown(site.replica.inflight, notice=60, patience=60)
        shutdown.begin()
        assert stopped == []
        shutdown.begin()

    asyncio.run(run())
    assert stopped == ["stopped"]


def test_connections_close_after_the_answers_of_a_stopping_server(site: Site) -> None:
    site.replica.inflight.closing = True
    _, headers, _ = ask(site, Upstream())
    assert headers["connection"] == "close"


def test_an_engines_own_timeout_is_not_taken_for_a_deadline(site: Site) -> None:
    class Broken(Upstream):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == CHAT:
                raise TimeoutError("the engine's own")
            await super().__call__(scope, receive, send)

    status, _, body = ask(site, Broken())
    assert (status, json.loads(body)["error"]["code"]) == (500, "internal_error"), "no deadline"


def test_waiting_for_the_last_request_takes_no_longer_than_allowed() -> None:
    async def run() -> int:
        flights = InFlight()
        async with flights.follow(whole(b""), _nowhere):
            await flights.drained(0.05)
            left = len(flights)
        await flights.drained(0.05)
        return left

    assert asyncio.run(run()) == 1


def test_a_reason_that_comes_too_late_changes_nothing() -> None:
    sent: list[Message] = []

    async def run() -> None:
        flights = InFlight()
        async with flights.follow(whole(b""), into(sent)) as exchange:
            await exchange.send({"type": "http.response.start", "status": 200, "headers": []})
            exchange.end(DeadlineExceeded(1))
            await asyncio.sleep(0)
            await exchange.send({"type": "http.response.body", "body": b"null"})
        exchange.end(ShuttingDown("too late"))
        assert exchange.reason is None

    asyncio.run(run())
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


async def _nowhere(_: Message) -> None:
    pass
