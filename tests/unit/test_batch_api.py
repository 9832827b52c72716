"""`/v1/files`, `/v1/batches` and `/v1/messages` through the gate."""

import asyncio
import functools
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.errors import StoreUnavailable
from registry.model.access import Secret
from registry.model.catalog import Grant
from registry.model.keys import IssueKey, RevokeKey
from serving import inflight
from serving.batch_lines import GatewayLines, worker
from serving.batches.files import DAY
from serving.batches.worker import Worker
from serving.gate import Gate
from serving.generation import BATCH_PRIORITY
from serving.telemetry.verdicts import VERDICTS
from serving.tiers.shares import BATCHES
from tests.support.asking import CHAT, into, scope_of, send_to, whole
from tests.support.relaying import pieces_of, relayed
from tests.support.replicas import BASE, Site, Upstream, answered, make_site

EDGE = "x-lorary-boundary"
ANSWER = (b'{"id": "chatcmpl-7", "choices": [], "usage": {"prompt_tokens": 3, ',
          b'"completion_tokens": 4, "total_tokens": 7}}')  # fmt: skip
BATCH = {"endpoint": CHAT, "completion_window": "24h"}


def form(data: bytes, **fields: str) -> bytes:
    """A multipart form with a file of this content."""
    parts = [
        f'--{EDGE}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = f'--{EDGE}\r\nContent-Disposition: form-data; name="file"; filename="a/in.jsonl"\r\n\r\n'
    return b"".join((*parts, head.encode(), data, f"\r\n--{EDGE}--\r\n".encode()))


def upload(site: Site, key: Secret | None, data: bytes, **fields: str) -> tuple[int, Any]:
    scope = scope_of("POST", "/v1/files", key,
                     content_type=f"multipart/form-data; boundary={EDGE}")  # fmt: skip
    body = form(data, **({"purpose": "batch"} | fields))
    status, _, shown = send_to(site, Upstream(), scope, body)
    return status, shown


def call(
    site: Site, key: Secret | None, method: str, path: str, body: Any = None
) -> tuple[int, Any]:
    path, _, query = path.partition("?")
    scope = {**scope_of(method, path, key), "query_string": query.encode()}
    data = b"" if body is None else json.dumps(body).encode()
    status, _, shown = send_to(site, Upstream(), scope, data)
    return status, shown


def lines(*models: str, **fields: Any) -> bytes:
    return b"\n".join(
        json.dumps(
            {"custom_id": str(n), "method": "POST", "url": CHAT,
             "body": {"model": model, "messages": [], **fields}}
        ).encode()
        for n, model in enumerate(models)
    )  # fmt: skip


def create(site: Site, key: Secret, data: bytes, **fields: Any) -> str:
    status, file = upload(site, key, data)
    assert status == 200, file
    status, batch = call(
        site, key, "POST", "/v1/batches", {"input_file_id": file["id"], **BATCH, **fields}
    )
    assert status == 200, batch
    return str(batch["id"])


def working(site: Site, upstream: ASGIApp) -> Worker:
    assert site.replica.batches is not None
    return worker(site.replica, site.replica.batches, GatewayLines(Gate(upstream, site.replica)))


def content(site: Site, key: Secret, file_id: str) -> list[dict[str, Any]]:
    sent: list[Message] = []
    scope = scope_of("GET", f"/v1/files/{file_id}/content", key)
    asyncio.run(Gate(Upstream(), site.replica)(scope, whole(b""), into(sent)))
    status, headers, data = answered(sent)
    assert (status, headers["content-disposition"]) == (200, "attachment")
    assert int(headers["content-length"]) == len(data)
    return [json.loads(row) for row in data.splitlines()]


def another(site: Site, *, name: str = "more", **fields: Any) -> Secret:
    """Another key that may infer in the medical domain."""
    secret = Secret.generate()
    grants = (Grant("infer", "medical"),)
    command = IssueKey(secret.id, name, secret.digest, grants, **fields)
    site.registry.execute(command, site.operator.id)
    site.replica.follower.refresh()
    return secret


def test_lines_reach_vllm_as_every_request_does_and_after_all_others(site: Site) -> None:
    upstream = Upstream(pieces=ANSWER)
    batch_id = create(site, site.medical, lines("medical", BASE, "legal", temperature=0))
    assert asyncio.run(working(site, upstream).step())
    _, shown = call(site, site.medical, "GET", f"/v1/batches/{batch_id}")
    assert (shown["status"], shown["request_counts"]) == (
        "completed", {"total": 3, "completed": 2, "failed": 1}
    )  # fmt: skip
    passed = [json.loads(body) for body in upstream.bodies]
    assert {body["model"] for body in passed} == {"medical/coder@1", BASE}
    assert all(
        body["priority"] > BATCH_PRIORITY and len(body["cache_salt"]) == 64 for body in passed
    )
    good = content(site, site.medical, shown["output_file_id"])
    assert [row["response"]["body"]["usage"]["total_tokens"] for row in good] == [7, 7]
    (bad,) = content(site, site.medical, shown["error_file_id"])
    assert bad["response"]["status_code"] == 403
    assert bad["response"]["body"]["error"]["code"] == "forbidden"


def test_lines_hold_the_places_of_batches_and_give_way_where_slots_are_wanted(
    tmp_path: Path,
) -> None:
    site = make_site(tmp_path, max_loras=1)
    site.publish("medical", "other", b"another")
    seen: list[Any] = []
    others: list[asyncio.Task[None]] = []

    async def vllm(scope: Scope, receive: Receive, send: Send) -> None:
        if not seen:
            seen.append(dict(site.replica.shares._held))
            seen.append(site.replica.is_crowded)
            body = b'{"model": "medical/other", "messages": []}'
            asked = scope_of("POST", CHAT, site.medical)
            gate = Gate(vllm, site.replica)
            others.append(asyncio.create_task(gate(asked, whole(body), into([]))))
            await asyncio.sleep(0.2)
            seen.append(site.replica.is_crowded)
        await Upstream(pieces=ANSWER)(scope, receive, send)

    async def work() -> None:
        await working(site, vllm).step()
        await asyncio.gather(*others)

    create(site, site.medical, lines("medical"))
    asyncio.run(work())
    assert seen == [{BATCHES: 1}, False, True]
    assert not site.replica.is_crowded
    site.registry.close()


def test_lines_are_charged_to_the_key_that_made_the_batch(tmp_path: Path) -> None:
    site = make_site(tmp_path, key_requests_per_minute=6)
    upstream = Upstream(pieces=ANSWER)
    batch_id = create(site, site.medical, lines(*["medical"] * 9))  # two requests so far
    work = working(site, upstream)
    assert asyncio.run(work.step())
    assert len(upstream.bodies) == 4
    _, shown = call(site, site.operator, "GET", f"/v1/batches/{batch_id}")
    assert shown["error"]["code"] in ("forbidden", "batch_not_found")
    assert not asyncio.run(work.step())  # its owner rests
    site.registry.close()


def test_a_revoked_keys_batch_ends_and_is_not_asked(site: Site) -> None:
    mine, mine_too = (another(site, person="dr@x.org") for _ in range(2))
    batch_id = create(site, mine, lines("medical"))
    site.registry.execute(RevokeKey(mine.id, "lost"), site.operator.id)
    site.replica.follower.refresh()
    upstream = Upstream(pieces=ANSWER)
    assert asyncio.run(working(site, upstream).step())
    _, shown = call(site, mine_too, "GET", f"/v1/batches/{batch_id}")
    assert (shown["status"], upstream.bodies) == ("failed", [])


def test_a_persons_and_a_services_keys_share_files_and_others_do_not(site: Site) -> None:
    doctor, doctor_too = (another(site, person="dr@x.org") for _ in range(2))
    service, service_too = (another(site, name="app", service=True) for _ in range(2))
    alone, alone_too = (another(site, name="app") for _ in range(2))
    owners = [{doctor, doctor_too}, {service, service_too}, {alone}, {alone_too}, {site.medical}]
    keys = [key for owner in owners for key in owner]
    for key in keys:
        _, file = upload(site, key, b"x")
        for other in keys:
            together = any({key, other} <= owner for owner in owners)
            for path in ("", "/content"):
                sent: list[Message] = []
                scope = scope_of("GET", f"/v1/files/{file['id']}{path}", other)
                asyncio.run(Gate(Upstream(), site.replica)(scope, whole(b""), into(sent)))
                assert answered(sent)[0] == (200 if together else 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/files"), ("GET", "/v1/files"), ("GET", "/v1/files/file-1"),
     ("DELETE", "/v1/files/file-1"), ("GET", "/v1/files/file-1/content"), ("POST", "/v1/batches"),
     ("GET", "/v1/batches"), ("GET", "/v1/batches/batch_1"),
     ("POST", "/v1/batches/batch_1/cancel")],
)  # fmt: skip
def test_files_and_batches_take_a_key_that_may_infer(site: Site, method: str, path: str) -> None:
    assert call(site, None, method, path, {})[0] == 401
    assert call(site, Secret.generate(), method, path, {})[0] == 401
    audit = Secret.generate()
    command = IssueKey(audit.id, "a", audit.digest, (Grant("audit", "*"),))
    site.registry.execute(command, site.operator.id)
    site.replica.follower.refresh()
    assert call(site, audit, method, path, {})[0] == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "/v1/files/file-1"), ("GET", "/v1/files/file-1/cancel"), ("GET", "/v1/filesx"),
     ("POST", "/v1/batches/batch_1"), ("GET", "/v1/files/a/b"), ("GET", "/v1/files/../x"),
     ("POST", "/v1/batches/batch_1/content"), ("DELETE", "/v1/batches/batch_1"),
     ("GET", "/v1/files//content")],
)  # fmt: skip
def test_other_routes_of_files_and_batches_do_not_exist(site: Site, method: str, path: str) -> None:
    status, shown = call(site, site.medical, method, path)
    assert (status, shown["error"]["code"]) == (404, "route_not_found")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"input_file_id": None}, "input_file_id"), ({"input_file_id": 7}, "input_file_id"),
        ({"endpoint": "/v1/messages"}, "endpoint"), ({"endpoint": "/metrics"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"), ({"metadata": {"a": 1}}, "metadata"),
        ({"completion_window": None}, "completion_window"), ({"x": 1}, "x"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, "output_expires_after"),
    ],
)  # fmt: skip
def test_a_batch_out_of_bounds_is_refused_by_the_fields_name(
    site: Site, fields: dict[str, Any], named: str
) -> None:
    asked = {"input_file_id": "file-1", **BATCH, **fields}
    status, shown = call(site, site.medical, "POST", "/v1/batches", asked)
    assert status == 400
    assert named in shown["error"]["message"]


def test_a_batch_of_a_file_that_is_not_the_callers_is_refused(site: Site) -> None:
    _, file = upload(site, site.legal, lines("legal"))
    asked = {"input_file_id": file["id"], **BATCH}
    status, shown = call(site, site.medical, "POST", "/v1/batches", asked)
    assert (status, shown["error"]["code"]) == (404, "file_not_found")


def test_a_file_out_of_bounds_is_refused(tmp_path: Path) -> None:
    site = make_site(tmp_path, batch_file_bytes=100_000, batch_owner_bytes=150_000)
    me = site.medical
    assert upload(site, me, b"x", purpose="assistants")[0] == 400
    assert upload(site, me, b"x", other="x")[0] == 400
    assert upload(site, me, b"x" * 200_000)[0] == 413
    kept = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    status, shown = upload(site, me, b"x" * 100_000, **kept)
    assert (status, shown["bytes"], shown["filename"]) == (200, 100_000, "in.jsonl")
    assert shown["expires_at"] == shown["created_at"] + 3_600
    assert upload(site, me, b"x", **{**kept, "expires_after[seconds]": "60"})[0] == 400
    status, shown = upload(site, me, b"x" * 60_000)
    assert (status, shown["error"]["code"]) == (403, "quota_exceeded")
    for kind, body in (("application/json", b"{}"), (f"multipart/form-data; boundary={EDGE}", b"x"),
                       ("application/x-www-form-urlencoded", b"file=x&purpose=batch")):  # fmt: skip
        scope = scope_of("POST", "/v1/files", me, content_type=kind)
        assert send_to(site, Upstream(), scope, body)[0] == 400
    site.registry.close()


def test_nobody_keeps_a_file_longer_than_the_operator_does(tmp_path: Path) -> None:
    site = make_site(tmp_path, batch_keep_days=2)
    wanted = {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(30 * DAY)}
    for fields in (dict[str, str](), wanted):
        status, shown = upload(site, site.medical, b"x", **fields)
        assert (status, shown["expires_at"]) == (200, shown["created_at"] + 2 * DAY)
    site.registry.close()


def test_an_owner_uploads_one_file_at_a_time_whichever_key_it_takes(site: Site) -> None:
    mine, other = Secret.generate(), Secret.generate()
    for secret in (mine, other):
        site.registry.execute(
            IssueKey(secret.id, secret.id, secret.digest, (Grant("infer", "medical"),),
                     person="ada@example.org"),
            site.operator.id,
        )  # fmt: skip
    site.replica.follower.refresh()

    async def hang() -> Message:
        await asyncio.Event().wait()
        return {}

    async def work() -> None:
        gate = Gate(Upstream(), site.replica)
        kind = f"multipart/form-data; boundary={EDGE}"
        scope = scope_of("POST", "/v1/files", mine, content_type=kind)
        first = asyncio.create_task(gate(scope, hang, into([])))
        await asyncio.sleep(0.2)
        for key, status in ((mine, 429), (other, 429), (site.legal, 200)):
            sent: list[Message] = []
            scope = scope_of("POST", "/v1/files", key, content_type=kind)
            await gate(scope, whole(form(b"x", purpose="batch")), into(sent))
            assert answered(sent)[0] == status
        first.cancel()

    asyncio.run(work())
    assert upload(site, other, b"x")[0] == 200


def test_files_and_batches_are_listed_in_pages_and_deleted(site: Site) -> None:
    me = site.medical
    ids = [upload(site, me, b"x")[1]["id"] for _ in range(3)]
    _, page = call(site, me, "GET", "/v1/files?limit=2&order=asc&purpose=batch")
    assert ([file["id"] for file in page["data"]], page["has_more"]) == (ids[:2], True)
    _, rest = call(site, me, "GET", f"/v1/files?limit=2&order=asc&after={page['last_id']}")
    assert ([file["id"] for file in rest["data"]], rest["has_more"]) == (ids[2:], False)
    assert call(site, me, "DELETE", f"/v1/files/{ids[0]}") == (
        200, {"id": ids[0], "object": "file", "deleted": True}
    )  # fmt: skip
    assert call(site, me, "GET", f"/v1/files/{ids[0]}")[0] == 404
    first, second = create(site, me, lines("medical")), create(site, me, lines("medical"))
    _, page = call(site, me, "GET", "/v1/batches?limit=1")
    assert ([one["id"] for one in page["data"]], page["has_more"]) == ([second], True)
    _, page = call(site, me, "GET", f"/v1/batches?limit=1&after={second}")
    assert [one["id"] for one in page["data"]] == [first]
    for query in ("limit=0", "limit=x", "order=up", "after=../x", "purpose=%00"):
        assert call(site, me, "GET", f"/v1/files?{query}")[0] == 400
    _, shown = call(site, me, "POST", f"/v1/batches/{first}/cancel")
    assert shown["status"] == "cancelling"


@pytest.mark.parametrize(("seconds", "whole_file"), [(0.2, True), (60, False)])
def test_a_file_is_sent_to_whoever_reads_on_however_long_that_takes(
    site: Site, monkeypatch: pytest.MonkeyPatch, seconds: float, whole_file: bool
) -> None:
    _, file = upload(site, site.medical, b"x" * (6 << 20))
    monkeypatch.setattr(inflight, "READER_SECONDS", 1.0)
    read = 0

    async def slow(message: Message) -> None:
        nonlocal read
        await asyncio.sleep(seconds if message["type"] == "http.response.body" else 0)
        read += len(message.get("body", b""))

    scope = scope_of("GET", f"/v1/files/{file['id']}/content", site.medical)
    gate = Gate(Upstream(), site.replica)
    asyncio.run(asyncio.wait_for(gate(scope, whole(b""), slow), 20))
    assert (read == 6 << 20) == whole_file
    assert len(site.replica.inflight) == 0


def test_a_download_that_cannot_go_on_breaks_off(site: Site) -> None:
    """Else the client would take half a file for the whole."""
    _, file = upload(site, site.medical, b"x" * (3 << 20))
    assert site.replica.batches is not None
    files = site.replica.batches.files

    def away(owner: str, file_id: str) -> Iterator[bytes]:
        yield b"x"
        raise StoreUnavailable("the store is away")

    files.content = away  # type: ignore[method-assign]
    sent: list[Message] = []
    scope = scope_of("GET", f"/v1/files/{file['id']}/content", site.medical)
    with pytest.raises(StoreUnavailable):
        asyncio.run(Gate(Upstream(), site.replica)(scope, whole(b""), into(sent)))
    assert [one["type"] for one in sent] == ["http.response.start"]


def test_on_s3_nothing_is_kept_unless_the_operator_names_a_place(site: Site) -> None:
    settings = site.replica.settings
    assert settings.deployment_name == "default"
    assert settings.model_copy(update={"store": "s3://b/p"}).deployment_name == ""
    site.replica.batches = None
    status, shown = call(site, site.medical, "GET", "/v1/batches")
    assert (status, shown["error"]["code"]) == (404, "route_not_found")
    assert "LORARY_DEPLOYMENT" in shown["error"]["message"]


def test_no_caller_can_act_for_another_key(site: Site, upstream: Upstream) -> None:
    """A line's key stands where no header or query of a request gets."""
    scope = scope_of("POST", CHAT, None, lorary_batch_key=site.medical.id,
                     x_lorary_batch_key=site.medical.id)  # fmt: skip
    assert send_to(site, upstream, scope, b'{"model": "medical"}')[0] == 401


def test_every_answer_has_a_request_id_and_keeps_a_usable_one(
    site: Site, upstream: Upstream
) -> None:
    def asked(**headers: str) -> tuple[int, dict[str, str], Any]:
        body = json.dumps({"model": "medical", "messages": []}).encode()
        return send_to(site, upstream, scope_of("POST", CHAT, site.medical, **headers), body)

    assert len(asked()[1]["x-request-id"]) == 16
    assert asked(x_request_id="from-the-client")[1]["x-request-id"] == "from-the-client"
    assert len(asked(x_request_id="no spaces")[1]["x-request-id"]) == 16
    refused = send_to(site, upstream, scope_of("GET", "/v1/models", None))
    assert (refused[0], len(refused[1]["x-request-id"])) == (401, 16)


MESSAGE = {"model": "medical", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}


def message(
    site: Site, upstream: Any, key: str | None, **fields: Any
) -> tuple[int, dict[str, str], bytes]:
    headers = {} if key is None else {"x_api_key": key, "anthropic_version": "2023-06-01"}
    scope = scope_of("POST", "/v1/messages", None, **headers)
    sent: list[Message] = []
    body = json.dumps(MESSAGE | fields).encode()
    asyncio.run(Gate(upstream, site.replica)(scope, whole(body), into(sent)))
    return answered(sent)


def test_messages_reach_vllm_pinned_salted_and_in_the_keys_order(site: Site) -> None:
    upstream = Upstream(pieces=(b'{"usage": {"input_tokens": 3, "output_tokens": 4}}',))
    status, headers, _ = message(site, upstream, site.medical.text, metadata={"user_id": "u"})
    assert (status, headers["x-lorary-adapter"]) == (200, "medical/coder@1")
    assert headers["request-id"] == headers["x-request-id"]
    passed = json.loads(upstream.bodies[0])
    assert len(passed.pop("cache_salt")) == 64
    assert passed == {**MESSAGE, "model": "medical/coder@1", "metadata": {"user_id": "u"}}
    inside = dict(upstream.scopes[0]["headers"])
    assert inside[b"x-vllm-priority"] == b"1"
    assert b"x-api-key" not in inside
    assert b"anthropic-version" not in inside


def test_anthropics_header_opens_no_other_route(site: Site, upstream: Upstream) -> None:
    for path in (CHAT, "/v1/models", "/v1/messagesx"):
        scope = scope_of("POST", path, None, x_api_key=site.medical.text)
        assert send_to(site, upstream, scope, b"{}")[0] in (401, 404)
    assert message(site, upstream, None)[0] == 401
    assert upstream.scopes == []


@pytest.mark.parametrize(
    ("key", "fields", "status", "kind"),
    [
        (None, {}, 401, "authentication_error"),
        ("medical", {"model": "legal"}, 403, "permission_error"),
        ("medical", {"model": "medical/codr"}, 404, "not_found_error"),
        ("medical", {"max_tokens": 0}, 400, "invalid_request_error"),
        ("medical", {"mcp_servers": [{}]}, 400, "invalid_request_error"),
    ],
)
def test_refusals_of_messages_are_in_anthropics_envelope(
    site: Site, upstream: Upstream, key: str | None, fields: Any, status: int, kind: str
) -> None:
    given = site.medical.text if key else None
    got, _, data = message(site, upstream, given, **fields)
    shown = json.loads(data)
    assert (got, shown["type"], shown["error"]["type"]) == (status, "error", kind)
    assert upstream.scopes == []


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    """vLLM, which finds a fault that the gate does not look for."""
    told = b'{"object": "error", "error": {"message": "too long", "type": "BadRequestError"}}'
    length = (b"content-length", str(len(told)).encode())
    await send({"type": "http.response.start", "status": 400, "headers": [length]})
    await send({"type": "http.response.body", "body": told})


def test_vllms_refusals_of_messages_are_in_anthropics_envelope(site: Site) -> None:
    status, headers, data = message(site, failing, site.medical.text)
    assert status == 400
    assert json.loads(data)["error"] == {"type": "invalid_request_error", "message": "too long"}
    assert int(headers["content-length"]) == len(data)


def events(*named: tuple[str, dict[str, Any]]) -> tuple[bytes, ...]:
    """A stream as vLLM writes it."""
    return tuple(
        f"event: {name}\ndata: {json.dumps({'type': name, **data}, separators=(',', ':'))}\n\n"
        .encode()
        for name, data in named
    )  # fmt: skip


STREAM = events(
    ("message_start", {"message": {"id": "chatcmpl-1",
                                   "usage": {"input_tokens": 30, "output_tokens": 0}}}),
    ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "event: error"}}),
    ("message_delta", {"delta": {"stop_reason": "end_turn"},
                       "usage": {"input_tokens": 20, "output_tokens": 7,
                                 "cache_read_input_tokens": 10}}),
    ("message_stop", {}),
)  # fmt: skip


def test_a_stream_of_messages_is_passed_on_as_it_is_and_charged_by_its_usage(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    upstream = Upstream(pieces=STREAM, kind=b"text/event-stream; charset=utf-8")
    with caplog.at_level(logging.INFO, logger="lorary.serving"):
        status, _, data = message(site, upstream, site.medical.text, stream=True)
    assert (status, data) == (200, b"".join(STREAM))
    logged = json.loads(caplog.records[-1].message)
    assert (logged["prompt_tokens"], logged["tokens"]) == (30, 7)


def test_nothing_of_a_batchs_prompts_answers_or_names_is_logged(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    secret = {"role": "user", "content": "SECRET"}
    with caplog.at_level(logging.DEBUG):
        asked = lines("medical", "medical/codr", messages=[secret])
        create(site, site.medical, asked.replace(b'"custom_id": "', b'"custom_id": "SECRET'))
        create(site, site.medical, b"SECRET")
        answer = b'{"choices": [{"message": {"content": "SECRET"}}]}'
        work = working(site, Upstream(pieces=(answer,)))
        for _ in range(2):
            assert asyncio.run(work.step())
    logged = [r.message for r in caplog.records if r.name.startswith("lorary")]
    assert [json.loads(line)["event"] for line in logged].count("batch") == 2
    assert [json.loads(line).get("key") for line in logged] == [site.medical.id] * 4
    assert "SECRET" not in caplog.text


def test_a_stream_of_messages_that_must_end_says_so_in_anthropics_words(site: Site) -> None:
    upstream = Upstream(pieces=STREAM[:2], pause=5.0, kind=b"text/event-stream")
    scope = scope_of("POST", "/v1/messages", site.medical, x_lorary_timeout="0.2")
    sent: list[Message] = []
    body = json.dumps(MESSAGE | {"stream": True}).encode()
    asyncio.run(Gate(upstream, site.replica)(scope, whole(body), into(sent)))
    last = answered(sent)[2].split(b"\n\n")[-2]
    assert last.startswith(b"event: error\ndata: ")
    assert json.loads(last.partition(b"data: ")[2])["error"]["type"] == "timeout_error"


def test_an_error_inside_a_stream_of_messages_counts_as_a_failure() -> None:
    failing = events(("error", {"error": {"type": "internal_error", "message": "x"}}))
    said = events(("content_block_delta", {"delta": {"text": '{"type":"error"'}}))
    for pieces, failed in ((failing, True), (said, False)):
        relay, _ = relayed(pieces_of(b"text/event-stream", pieces), None, path="/v1/messages")
        assert relay.failed is failed


def test_a_stream_of_messages_made_of_nan_never_says_that_it_is_complete(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's statistics come a moment after the last piece."""
    monkeypatch.setattr(VERDICTS, "reported", True)

    async def vllm(scope: Scope, receive: Receive, send: Send) -> None:
        request_id = dict(scope["headers"])[b"x-request-id"].decode()
        kind = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        for piece in STREAM:
            if b"message_delta" in piece:
                note = functools.partial(VERDICTS.note, corrupted=True)
                asyncio.get_running_loop().call_later(0.05, note, f"chatcmpl-{request_id}")
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    _, _, data = message(site, vllm, site.medical.text, stream=True)
    assert b"end_turn" not in data
    assert b"message_stop" not in data
    assert data.split(b"\n\n")[-2].startswith(b"event: error\n")


def test_tokens_are_counted_for_who_may_ask_the_model(site: Site) -> None:
    upstream = Upstream(pieces=(b'{"input_tokens": 7}',))

    def count(**fields: Any) -> tuple[int, Any]:
        asked = {"model": "medical", "messages": MESSAGE["messages"]} | fields
        scope = scope_of("POST", "/v1/messages/count_tokens", None, x_api_key=site.medical.text)
        status, _, shown = send_to(site, upstream, scope, json.dumps(asked).encode())
        return status, shown

    assert count() == (200, {"input_tokens": 7})
    assert json.loads(upstream.bodies[0]) == {"model": BASE, "messages": MESSAGE["messages"]}
    for fields, status in (({"model": "legal"}, 403), ({"messages": None}, 400),
                           ({"max_tokens": 5}, 400), ({"model": "medical/codr"}, 404)):  # fmt: skip
        got, shown = count(**fields)
        assert (got, shown["type"]) == (status, "error")
    assert len(upstream.bodies) == 1
    scope = scope_of("POST", "/v1/messages/count_tokens", site.medical)
    asked = {"model": "medical", "messages": MESSAGE["messages"]}
    status, _, shown = send_to(site, failing, scope, json.dumps(asked).encode())  # type: ignore[arg-type]
    assert (status, shown["error"]["message"]) == (400, "too long")


def test_confidence_is_not_given_for_messages(site: Site, upstream: Upstream) -> None:
    scope = scope_of("POST", "/v1/messages", site.medical, x_lorary_confidence="true")
    status, _, shown = send_to(site, upstream, scope, json.dumps(MESSAGE).encode())
    assert (status, shown["type"]) == (400, "error")
    assert upstream.scopes == []
