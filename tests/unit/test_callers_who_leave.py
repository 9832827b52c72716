"""A caller that disconnects gives back at once whatever its request held, wherever it waited."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from registry.model.access import Secret
from serving import inflight
from serving.errors import DeadlineExceeded
from serving.gate import Gate
from tests.support.asking import CHAT, into, leaving_after, scope_of, whole
from tests.support.replicas import BASE, Site, Upstream, answered, make_site
from tests.support.tiers import settled, versions


def body_for(model: str) -> bytes:
    return json.dumps({"model": model, "messages": []}).encode()


class Held(Upstream):
    """An engine whose chat answers wait until they may go on, and which notices a disconnect."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != CHAT:
            await super().__call__(scope, receive, send)
            return
        self.bodies.append((await receive())["body"])
        self.scopes.append(scope)
        left = asyncio.ensure_future(receive())
        going = asyncio.ensure_future(self.go_on.wait())
        await asyncio.wait((left, going), return_when=asyncio.FIRST_COMPLETED)
        left.cancel()
        going.cancel()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"ok": true}'})


async def begun(gate: Gate, receive: Receive, key: Secret, path: str = CHAT) -> Any:
    """A request on its way, and what it was sent."""
    sent: list[Message] = []
    task = asyncio.create_task(gate(scope_of("POST", path, key), receive, into(sent)))
    return task, sent


def given_back(site: Site) -> Callable[[], bool]:
    replica = site.replica
    return lambda: not replica.limits.running.key.total() and not len(replica.inflight)


def test_callers_who_left_the_queue_for_a_slot_hold_no_limit_and_load_nothing(
    tmp_path: Path,
) -> None:
    async def work(site: Site) -> None:
        engine = Held()
        gate = Gate(engine, site.replica)
        other, _ = await begun(gate, whole(body_for("legal/clauses")), site.legal)
        await settled(lambda: len(engine.scopes) == 1)
        leave = asyncio.Event()
        gone = [
            await begun(gate, leaving_after(body_for("medical/coder"), leave), site.medical)
            for _ in range(2)
        ]
        await settled(lambda: site.replica.limits.running.key[site.medical.id] == 2)
        refused, sent = await begun(gate, whole(body_for("medical/coder")), site.medical)
        await refused
        assert answered(sent)[0] == 429, "the limit holds while they wait"
        leave.set()
        await settled(lambda: not site.replica.limits.running.key[site.medical.id])
        assert not any(sent for _, sent in gone), "nobody is there to be answered"
        live, sent = await begun(gate, whole(body_for(BASE)), site.medical)
        engine.go_on.set()
        await asyncio.gather(other, live, *(task for task, _ in gone))
        assert answered(sent)[0] == 200
        assert "medical/coder@1" not in site.engine.loads, "an adapter was loaded for nobody"

    site = make_site(tmp_path, max_loras=1, key_concurrency=2)
    asyncio.run(work(site))
    site.registry.close()


@pytest.mark.parametrize("where", ["body", "cold load", "engine", "another load of its key"])
def test_whatever_it_waits_for_a_caller_who_leaves_frees_its_place(
    tmp_path: Path, where: str
) -> None:
    async def work(site: Site) -> None:
        engine = Held()
        gate = Gate(engine, site.replica)
        leave = asyncio.Event()
        receive = leaving_after(body_for("medical/coder"), leave)
        if where == "body":

            async def receive() -> Message:
                await leave.wait()
                return {"type": "http.disconnect"}

        elif where != "engine":
            site.engine.stuck = asyncio.Event()
        if where == "another load of its key":
            (many,) = versions(site, 1)
            await begun(gate, whole(body_for(str(many.ref))), site.medical)
            await settled(lambda: len(site.replica.inflight) == 1)
        others = len(site.replica.inflight)
        task, sent = await begun(gate, receive, site.medical)
        await settled(lambda: len(site.replica.inflight) == others + 1)
        if where == "engine":
            await settled(lambda: bool(engine.scopes))
        else:
            await asyncio.sleep(0.05)
        leave.set()
        await asyncio.wait_for(task, 2)
        assert sent == []
        assert site.replica.limits.running.key.total() == others
        assert len(site.replica.inflight) == others
        if site.engine.stuck is not None:
            site.engine.stuck.set()
        engine.go_on.set()
        await settled(given_back(site))

    site = make_site(tmp_path, key_cold_loads=1)
    asyncio.run(work(site))
    site.registry.close()


def test_a_caller_who_leaves_while_its_feedback_is_stored_frees_its_place(tmp_path: Path) -> None:
    async def work() -> None:
        hung = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{hung.sockets[0].getsockname()[1]}"
        site = make_site(tmp_path, serving_key=Secret.generate().text, registry_url=url)
        version = site.registry.catalog.adapters["medical/coder"].versions[0]
        answer = "chatcmpl-" + site.replica.response_ids.issue(CHAT, version, site.medical.id)
        leave = asyncio.Event()
        data = json.dumps({"id": answer, "rating": "negative"}).encode()
        gate = Gate(Upstream(), site.replica)
        receive = leaving_after(data, leave)
        task, sent = await begun(gate, receive, site.medical, "/v1/feedback")
        await settled(lambda: site.replica.limits.running.key.total() == 1)
        await asyncio.sleep(0.05)
        leave.set()
        await asyncio.wait_for(task, 1)
        assert sent == []
        assert given_back(site)()
        hung.close()
        site.registry.close()

    asyncio.run(work())


def test_a_download_that_everybody_left_before_it_began_is_given_up(tmp_path: Path) -> None:
    async def work(site: Site) -> None:
        first, second = versions(site, 2)
        cache = site.replica.cache
        async with cache._turn:  # as if another download ran
            waiting = [asyncio.create_task(cache.ensure(v)) for v in (first, first, second)]
            await settled(lambda: len(cache._loads) == 2)
            await asyncio.sleep(0.05)
            for task in waiting[:2]:
                task.cancel()
            await settled(lambda: len(cache._loads) == 1)
        await waiting[2]
        assert not cache.holds(first)
        await cache.ensure(first)
        assert cache.holds(first)

    site = make_site(tmp_path, cold_loads=1)
    asyncio.run(work(site))
    site.registry.close()


@pytest.mark.parametrize("streams", [False, True])
def test_a_caller_who_does_not_read_holds_its_places_for_a_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streams: bool
) -> None:
    monkeypatch.setattr(inflight, "READER_SECONDS", 0.05)
    taken: list[Message] = []

    async def stuck(message: Message) -> None:
        taken.append(message)
        if message["type"] == "http.response.body":
            await asyncio.sleep(60)

    kind = b"text/event-stream" if streams else b"application/json"
    upstream = Upstream(pieces=(b'data: {"choices": []}\n\n',) * 3, kind=kind)
    site = make_site(tmp_path)

    async def work() -> None:
        gate = Gate(upstream, site.replica)
        receive = whole(body_for("medical/coder"))
        await asyncio.wait_for(gate(scope_of("POST", CHAT, site.medical), receive, stuck), 5)

    asyncio.run(work())
    assert len(taken) == 2, "the connection is closed, and nothing more is sent on it"
    assert given_back(site)()
    site.registry.close()


def test_a_caller_who_reads_slowly_is_waited_for_no_longer_in_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inflight, "READER_SECONDS", 0.3)
    taken: list[Message] = []

    async def slow(message: Message) -> None:
        taken.append(message)
        await asyncio.sleep(0.05)

    upstream = Upstream(pieces=(b'data: {"choices": []}\n\n',) * 40, kind=b"text/event-stream")
    site = make_site(tmp_path)
    receive = whole(body_for("medical/coder"))
    asyncio.run(Gate(upstream, site.replica)(scope_of("POST", CHAT, site.medical), receive, slow))
    assert 2 < len(taken) < 20
    assert given_back(site)()
    site.registry.close()


def test_a_stream_that_is_ended_waits_for_its_reader_no_longer_than_the_engine_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last event says why it ended; nobody may hold its place by not reading that one."""
    monkeypatch.setattr(inflight, "LEAVE_SECONDS", 0.05)
    told = asyncio.Event()

    async def stuck(message: Message) -> None:
        if b"deadline_exceeded" in message.get("body", b""):
            told.set()
            await asyncio.sleep(60)

    pieces = (b'data: {"choices": []}\n\n',) * 40
    upstream = Upstream(pieces=pieces, kind=b"text/event-stream", pause=0.05)
    site = make_site(tmp_path, request_seconds=0.5)

    async def work() -> None:
        gate = Gate(upstream, site.replica)
        receive = whole(body_for("medical/coder"))
        await asyncio.wait_for(gate(scope_of("POST", CHAT, site.medical), receive, stuck), 5)

    asyncio.run(work())
    assert told.is_set()
    assert given_back(site)()
    site.registry.close()


def test_a_body_is_read_only_for_a_key_that_may_send_it(tmp_path: Path) -> None:
    read = False

    async def receive() -> Message:
        nonlocal read
        read = True
        return {"type": "http.request", "body": body_for("medical/coder"), "more_body": False}

    site = make_site(tmp_path, key_requests_per_minute=1)
    gate = Gate(Upstream(), site.replica)
    sent: list[Message] = []
    asyncio.run(gate(scope_of("POST", CHAT, site.medical), whole(b"{}"), into(sent)))
    sent.clear()
    asyncio.run(gate(scope_of("POST", CHAT, site.medical), receive, into(sent)))
    site.registry.close()
    assert answered(sent)[0] == 429
    assert not read


def test_nothing_is_sent_after_a_streams_last_chunk(tmp_path: Path) -> None:
    site = make_site(tmp_path, request_seconds=60)
    sent: list[Message] = []

    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        await Upstream(pieces=(b"data: [DONE]\n\n",), kind=b"text/event-stream")(
            scope, receive, send
        )
        site.replica.inflight.end_all(DeadlineExceeded(1))

    async def work() -> None:
        scope = scope_of("POST", CHAT, site.medical)
        await Gate(late, site.replica)(scope, whole(body_for("medical/coder")), into(sent))

    asyncio.run(work())
    site.registry.close()
    assert answered(sent)[2] == b"data: [DONE]\n\n"
    assert not sent[-1].get("more_body", False)
    assert sum(not message.get("more_body", False) for message in sent[1:]) == 1
