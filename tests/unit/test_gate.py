"""What gets through the gate, in which form, and what never does."""

import asyncio
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from starlette.types import Message, Receive, Scope, Send

from adapters.confidence import Calibration
from registry.access import Secret
from registry.commands import (
    ChangePolicy,
    IssueKey,
    MoveAlias,
    RecordEvaluation,
    RevokeKey,
    RevokeVersion,
    SplitAlias,
)
from registry.events import Grant, Policy
from registry.evidence import SuiteResult
from serving.gate import GENERATION, Gate
from serving.request.body import FIELDS, parse_body
from serving.telemetry.metrics import TOKENS, Series
from tests.support.replicas import BASE, Site, Upstream, answered, make_site

CHAT = "/v1/chat/completions"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = make_site(tmp_path, max_body_bytes=1 << 16)
    yield made
    made.registry.close()


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


def scope_of(method: str, path: str, key: Secret | None, **extra: str) -> Scope:
    headers = [(name.lower().replace("_", "-").encode(), v.encode()) for name, v in extra.items()]
    if key is not None:
        headers.append((b"authorization", f"Bearer {key.text}".encode()))
    return {"type": "http", "method": method, "path": path, "raw_path": path.encode(),
            "root_path": "", "query_string": b"x=1", "headers": headers}  # fmt: skip


def send_to(
    site: Site, upstream: Upstream, scope: Scope, body: bytes = b""
) -> tuple[int, dict[str, str], Any]:
    """One request through the gate; status, headers and the parsed answer."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(Gate(upstream, site.replica)(scope, receive, send))
    status, headers, data = answered(sent)
    return status, headers, json.loads(data)


def chat(
    site: Site, upstream: Upstream, model: Any, key: Secret | None, **fields: Any
) -> tuple[int, dict[str, str], Any]:
    body = json.dumps({"model": model, "messages": [], **fields}).encode()
    return send_to(site, upstream, scope_of("POST", CHAT, key), body)


@pytest.mark.parametrize(
    "model", ["medical", "medical/coder", "medical/coder@production", "medical/coder@1"]
)
def test_every_form_of_a_name_reaches_vllm_as_the_pinned_version(
    site: Site, upstream: Upstream, model: str
) -> None:
    status, headers, _ = chat(site, upstream, model, site.medical, temperature=0)
    assert status == 200
    assert headers["x-lorary-adapter"] == "medical/coder@1"
    version = site.registry.catalog.adapters["medical/coder"].versions[0]
    assert headers["x-lorary-digest"] == version.digest
    passed = json.loads(upstream.bodies[0])
    assert passed == {"model": "medical/coder@1", "messages": [], "temperature": 0}
    assert (site.replica.cache.path(version) / "adapter_model.safetensors").read_bytes()


def test_the_base_model_is_served_by_its_own_name(site: Site, upstream: Upstream) -> None:
    status, headers, _ = chat(site, upstream, BASE, site.medical)
    assert status == 200
    assert headers["x-lorary-base"] == BASE
    assert "x-lorary-adapter" not in headers


def test_a_moved_alias_is_followed(site: Site, upstream: Upstream) -> None:
    site.publish("medical", "coder", b"medical two")
    _, headers, _ = chat(site, upstream, "medical", site.medical)
    assert headers["x-lorary-adapter"] == "medical/coder@2"


@pytest.mark.parametrize(
    ("model", "who", "status", "code"),
    [
        ("medical", None, 401, "invalid_api_key"),
        ("medical", "stranger", 401, "invalid_api_key"),
        ("medical", "legal", 403, "forbidden"),
        ("medical/nothing", "legal", 403, "forbidden"),
        ("nowhere/x", "legal", 403, "forbidden"),
        ("medical/codr", "medical", 404, "adapter_not_found"),
        ("medical/coder@9", "medical", 404, "version_not_found"),
        ("medical/coder@beta", "medical", 404, "alias_not_found"),
        ("legal", "legal", 404, "no_default_adapter"),
        ("medical/Coder", "medical", 400, "invalid_name"),
        ("medical/coder@1/../x", "medical", 400, "invalid_name"),
        (7, "medical", 400, "invalid_request"),
        (None, "medical", 400, "invalid_request"),
    ],
)
def test_refused_in_openais_envelope_and_unseen_by_vllm(
    site: Site, upstream: Upstream, model: Any, who: str | None, status: int, code: str
) -> None:
    keys = {None: None, "stranger": Secret.generate(), "medical": site.medical, "legal": site.legal}
    got, headers, body = chat(site, upstream, model, keys[who])
    assert (got, body["error"]["code"]) == (status, code)
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert ("www-authenticate" in headers) == (status == 401)
    assert upstream.scopes == []


def test_near_names_are_told_but_not_those_of_other_domains(site: Site, upstream: Upstream) -> None:
    site.publish("legal", "coder", b"legal coder")
    _, _, body = chat(site, upstream, "medical/codr", site.medical)
    assert "medical/coder?" in body["error"]["message"]
    assert "legal" not in body["error"]["message"]


def test_a_revoked_version_is_gone_with_its_reason(site: Site, upstream: Upstream) -> None:
    site.registry.execute(
        RevokeVersion("medical", "coder", 1, "wrong for sepsis"), site.operator.id
    )
    site.replica.follower.refresh()
    status, _, body = chat(site, upstream, "medical/coder@1", site.medical)
    assert status == 410
    assert "wrong for sepsis" in body["error"]["message"]


def test_a_revoked_key_opens_nothing(site: Site, upstream: Upstream) -> None:
    site.registry.execute(RevokeKey(site.medical.id, "lost"), site.operator.id)
    site.replica.follower.refresh()
    assert chat(site, upstream, "medical", site.medical)[0] == 401


def test_another_base_models_adapter_is_refused(site: Site, upstream: Upstream) -> None:
    site.publish("medical", "large", b"for another base", base="other")
    status, _, body = chat(site, upstream, "medical/large", site.medical)
    assert (status, body["error"]["code"]) == (409, "base_mismatch")


def test_before_the_registry_was_read_nothing_is_served(tmp_path: Path, upstream: Upstream) -> None:
    made = make_site(tmp_path)
    made.registry.close()
    made.replica.follower.catalog = type(made.replica.follower.catalog)()
    status, headers, _ = chat(made, upstream, "medical", made.medical)
    assert status == 503
    assert headers["retry-after"] == "1"


def test_an_adapter_whose_bytes_are_damaged_is_not_served(site: Site, upstream: Upstream) -> None:
    version = site.registry.catalog.adapters["medical/coder"].versions[0]
    weights = next(f for f in version.files if f.path.endswith(".safetensors"))
    blob = site.folder / "store" / "blobs/sha256" / weights.sha256[:2] / weights.sha256
    blob.write_bytes(b"medical 0ne")
    status, _, body = chat(site, upstream, "medical", site.medical)
    assert (status, body["error"]["code"]) == (503, "cold_load_failed")
    assert upstream.scopes == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/load_lora_adapter"), ("POST", "/v1/unload_lora_adapter"),
     ("POST", "/invocations"),
     ("GET", "/ping"), ("POST", "/tokenize"), ("GET", "/docs"), ("GET", "/openapi.json"),
     ("POST", "/adapters"), ("POST", "/collective_rpc"), ("POST", "/scale_elastic_ep"),
     ("GET", "/version"), ("OPTIONS", CHAT), ("GET", CHAT), ("PUT", CHAT), ("HEAD", "/health"),
     ("POST", "/health"), ("POST", CHAT + "/"), ("POST", "/" + CHAT), ("POST", "/v1//completions"),
     ("POST", "/V1/completions"), ("POST", "/v1/completions%2f"), ("POST", "/x/../v1/completions"),
     ("GET", "/v1/modelsx")],
)  # fmt: skip
def test_what_is_not_on_the_list_does_not_exist(
    site: Site, upstream: Upstream, method: str, path: str
) -> None:
    status, _, body = send_to(site, upstream, scope_of(method, path, site.operator), b"{}")
    assert (status, body["error"]["code"]) == (404, "route_not_found")
    assert upstream.scopes == []


@given(path=st.text(alphabet="/v1chatompleinsbdgu.%", max_size=30))
def test_no_other_path_is_ever_passed_on(
    path: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    upstream = Upstream()
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    if path in GENERATION:
        return
    gate = Gate(upstream, replica=object())  # type: ignore[arg-type] # it must not be asked
    asyncio.run(gate(scope_of("POST", path, None), receive, send))
    assert upstream.scopes == []
    assert sent[0]["status"] == 404


def test_websockets_are_closed(site: Site, upstream: Upstream) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    scope = {**scope_of("GET", "/v1/realtime", site.operator), "type": "websocket"}
    asyncio.run(Gate(upstream, site.replica)(scope, receive, send))
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_headers_that_could_choose_a_model_or_tell_the_key_stay_outside(
    site: Site, upstream: Upstream
) -> None:
    scope = scope_of(
        "POST", CHAT, site.medical, X_Amzn_SageMaker_Adapter_Identifier="legal/clauses@1",
        X_data_parallel_rank="3", Content_Type="application/json", Cookie="a=b",
        X_Request_Id="mine",
    )  # fmt: skip
    body = json.dumps({"model": "medical", "messages": []}).encode()
    assert send_to(site, upstream, scope, body)[0] == 200
    passed = dict(upstream.scopes[0]["headers"])
    assert passed.keys() == {b"content-type", b"content-length", b"x-request-id"}
    assert passed[b"x-request-id"] != b"mine", "the id of an answer is the gate's to choose"
    assert int(passed[b"content-length"]) == len(upstream.bodies[0])
    assert upstream.scopes[0]["query_string"] == b""


@pytest.mark.parametrize(
    "fields",
    [{"chat_template": "{{ 1 }}"}, {"prompt_embeds": "AA=="}, {"kv_transfer_params": {}},
     {"vllm_xargs": {}}, {"mm_processor_kwargs": {}}, {"request_id": "x"}, {"priority": -1},
     {"lora_request": {}}, {"cache_salt": "x"}, {"documents": []}, {"n": 1000}, {"n": True},
     {"messages": [{"role": "user", "content": [{"type": "image_url",
                    "image_url": {"url": "http://127.0.0.1/"}}]}]}],
)  # fmt: skip
def test_fields_that_reach_beyond_this_request_are_refused(
    site: Site, upstream: Upstream, fields: dict[str, Any]
) -> None:
    status, _, body = chat(site, upstream, "medical", site.medical, **fields)
    assert (status, body["error"]["code"]) == (400, "invalid_request")
    assert upstream.scopes == []


def test_a_key_given_twice_counts_once(site: Site, upstream: Upstream) -> None:
    twice = b'{"model": "medical", "messages": [], "model": "legal/clauses@1"}'
    assert send_to(site, upstream, scope_of("POST", CHAT, site.medical), twice)[0] == 403
    twice = b'{"model": "legal/clauses@1", "messages": [], "model": "medical"}'
    assert send_to(site, upstream, scope_of("POST", CHAT, site.medical), twice)[0] == 200
    assert upstream.bodies[0].count(b'"model"') == 1


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(sorted(FIELDS)) | st.text(), inner)
        ),
    )
)
def test_any_json_is_parsed_or_refused_with_a_known_error(value: Any) -> None:
    from adapters.errors import LoraryError

    try:
        body = parse_body(json.dumps(value).encode())
    except LoraryError as error:
        refused = error
        assert refused.status == 400
        return
    assert body.keys() <= FIELDS


def test_two_hundred_megabytes_are_refused_without_being_buffered(
    site: Site, upstream: Upstream
) -> None:
    piece, given_out, sent = b"x" * (1 << 16), 0, list[Message]()

    async def receive() -> Message:
        nonlocal given_out
        given_out += len(piece)
        return {"type": "http.request", "body": piece, "more_body": given_out < 200 << 20}

    async def send(message: Message) -> None:
        sent.append(message)

    tracemalloc.start()
    asyncio.run(Gate(upstream, site.replica)(scope_of("POST", CHAT, site.medical), receive, send))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sent[0]["status"] == 413
    assert given_out <= 3 * len(piece)
    assert peak < 2 << 20

    given_out = 0
    sent.clear()
    declared = scope_of("POST", CHAT, site.medical, Content_Length=str(200 << 20))
    asyncio.run(Gate(upstream, site.replica)(declared, receive, send))
    assert sent[0]["status"] == 413
    assert given_out == 0
    assert upstream.scopes == []


def test_streams_pass_piece_by_piece_as_they_come(site: Site) -> None:
    upstream = Upstream(pieces=(b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n"), pause=0.05)
    times: list[float] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b'{"model": "medical", "messages": []}'}

    async def run() -> None:
        loop = asyncio.get_running_loop()

        async def send(message: Message) -> None:
            if message.get("body"):
                times.append(loop.time())

        await Gate(upstream, site.replica)(scope_of("POST", CHAT, site.medical), receive, send)

    asyncio.run(run())
    assert len(times) == 3
    assert times[1] - times[0] >= 0.04
    assert times[2] - times[1] >= 0.04


def test_a_caller_who_leaves_is_seen_by_vllm(site: Site) -> None:
    seen: list[str] = []

    async def upstream(scope: Scope, receive: Any, send: Any) -> None:
        if scope["path"] == CHAT:
            seen.append((await receive())["type"])
            seen.append((await receive())["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    messages: Iterator[Message] = iter(
        [
            {"type": "http.request", "body": b'{"model": "medical", "messages": []}'},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        pass

    asyncio.run(Gate(upstream, site.replica)(scope_of("POST", CHAT, site.medical), receive, send))
    assert seen == ["http.request", "http.disconnect"]


def test_a_version_revoked_while_its_request_waited_does_not_answer(
    tmp_path: Path, upstream: Upstream
) -> None:
    site = make_site(tmp_path, max_loras=1)
    sent: dict[str, list[Message]] = {}
    asked, end = asyncio.Event(), asyncio.Event()

    async def engine(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == CHAT:
            asked.set()
            await end.wait()
        await upstream(scope, receive, send)

    async def ask(model: str, key: Secret) -> None:
        async def receive() -> Message:
            body = json.dumps({"model": model, "messages": []}).encode()
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            sent.setdefault(model, []).append(message)

        await Gate(engine, site.replica)(scope_of("POST", CHAT, key), receive, send)

    async def work() -> None:
        first = asyncio.create_task(ask("medical/coder", site.medical))
        await asked.wait()
        waiting = asyncio.create_task(ask("legal/clauses", site.legal))
        await asyncio.sleep(0.1)
        site.registry.execute(RevokeVersion("legal", "clauses", 1, "wrong"), site.operator.id)
        site.replica.follower.refresh()
        end.set()
        await asyncio.gather(first, waiting)

    asyncio.run(work())
    site.registry.close()
    assert answered(sent["medical/coder"])[0] == 200
    assert answered(sent["legal/clauses"])[0] == 410
    assert len(upstream.scopes) == 1


def test_models_lists_what_the_caller_may_use(site: Site, upstream: Upstream) -> None:
    _, _, body = send_to(site, upstream, scope_of("GET", "/v1/models", site.medical))
    assert [model["id"] for model in body["data"]] == [
        BASE, "medical", "medical/coder", "medical/coder@production", "medical/coder@1"
    ]  # fmt: skip
    _, _, one = send_to(site, upstream, scope_of("GET", "/v1/models/medical", site.medical))
    assert (one["id"], one["root"]) == ("medical", "medical/coder@1")
    assert send_to(site, upstream, scope_of("GET", "/v1/models/legal", site.medical))[0] == 403


def test_metrics_take_an_operator_and_health_takes_nobody(site: Site, upstream: Upstream) -> None:
    assert send_to(site, upstream, scope_of("GET", "/metrics", site.medical))[0] == 403
    assert send_to(site, upstream, scope_of("GET", "/metrics", site.operator))[0] == 200
    assert send_to(site, upstream, scope_of("GET", "/health", None))[0] == 200


def test_embeddings_of_a_generating_model_are_refused_clearly(
    site: Site, upstream: Upstream
) -> None:
    body = b'{"model": "medical", "input": "x", "encoding_format": "base64"}'
    scope = scope_of("POST", "/v1/embeddings", site.medical)
    status, _, answer = send_to(site, upstream, scope, body)
    assert status == 404
    assert "makes no embeddings" in answer["error"]["message"]


def test_a_key_over_its_limit_is_told_when_to_come_again(tmp_path: Path) -> None:
    site = make_site(tmp_path, key_requests_per_minute=2)
    upstream = Upstream()
    statuses = [chat(site, upstream, "medical", site.medical)[0] for _ in range(2)]
    status, headers, body = chat(site, upstream, "medical", site.medical)
    site.registry.close()
    assert statuses == [200, 200]
    assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 25 <= int(headers["retry-after"]) <= 31


def test_a_hint_brings_versions_up_that_the_caller_may_use(site: Site, upstream: Upstream) -> None:
    async def hint(models: Any, key: Secret) -> tuple[int, Any]:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": json.dumps({"models": models}).encode()}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = scope_of("POST", "/v1/adapters/prefetch", key)
        await Gate(upstream, site.replica)(scope, receive, send)
        for _ in range(500):
            if upstream.loads:
                break
            await asyncio.sleep(0.01)
        status, _, data = answered(sent)
        return status, json.loads(data)

    status, body = asyncio.run(hint(["medical"], site.medical))
    assert (status, body) == (202, {"adapters": {"medical/coder@1": "bucket"}})
    assert upstream.loads == ["medical/coder@1"]
    assert asyncio.run(hint(["medical"], site.legal))[0] == 403
    assert asyncio.run(hint("medical", site.medical))[0] == 400
    assert upstream.scopes == []


def test_an_answer_is_counted_as_it_passes(site: Site) -> None:
    before = sample("lorary_tokens_total")
    firsts = sample("lorary_time_to_first_token_seconds_count")
    others = sample("lorary_inter_token_seconds_count")
    whole = Upstream(pieces=(b'{"usage": {"prompt_tokens": 7, ', b'"completion_tokens": 5}}'))
    chat(site, whole, "medical", site.medical)
    assert sample("lorary_tokens_total") == before + 5
    events = (*[b"data: {}\n\n"] * 3, b"data: [DONE]\n\n")
    chat_stream(site, Upstream(pieces=events, kind=b"text/event-stream"))
    assert sample("lorary_tokens_total") == before + 8
    assert sample("lorary_time_to_first_token_seconds_count") == firsts + 1
    assert sample("lorary_inter_token_seconds_count") == others + 3


def sample(name: str) -> float:
    labels = {"domain": "medical", "adapter": "coder", "version": "1"}
    return REGISTRY.get_sample_value(name, labels) or 0.0


def chat_stream(site: Site, upstream: Upstream) -> None:
    async def receive() -> Message:
        body = json.dumps({"model": "medical", "messages": [], "stream": True}).encode()
        return {"type": "http.request", "body": body}

    async def send(message: Message) -> None:
        pass

    scope = scope_of("POST", CHAT, site.medical)
    asyncio.run(Gate(upstream, site.replica)(scope, receive, send))


def test_series_of_versions_are_bounded() -> None:
    series = Series(most=3)
    for number in range(10):
        labels = ("bounded", "a", str(number))
        series.touch(labels)
        TOKENS.labels(*labels).inc()
    kept = [
        sample.labels["version"]
        for sample in next(iter(TOKENS.collect())).samples
        if sample.labels["domain"] == "bounded" and sample.name.endswith("_total")
    ]
    assert kept == ["7", "8", "9"]


def test_the_journal_says_who_asked_what_and_never_what_was_said(
    site: Site, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "lorary.serving")
    secret = [{"role": "user", "content": "my secret illness"}]
    body = json.dumps({"model": "medical", "messages": secret}).encode()
    send_to(site, upstream, scope_of("POST", CHAT, site.medical), body)
    chat(site, upstream, "legal", site.medical)
    records = [json.loads(record.message) for record in caplog.records]
    assert [record["event"] for record in records] == ["request", "refused"]
    assert records[0]["key"] == records[1]["key"] == site.medical.id
    assert (records[0]["model"], records[0]["status"]) == ("medical/coder@1", 200)
    assert (records[1]["status"], records[1]["code"]) == (403, "forbidden")
    assert "illness" not in caplog.text
    assert site.medical.secret not in caplog.text


def test_a_split_alias_keeps_each_user_with_one_version(site: Site, upstream: Upstream) -> None:
    site.publish("medical", "coder", b"medical two")
    operator = site.operator.id
    site.registry.execute(MoveAlias("medical", "coder", "production", 1), operator)
    site.registry.execute(SplitAlias("medical", "coder", "production", 2, 50), operator)
    site.replica.follower.refresh()
    users = [f"user-{number}" for number in range(20)]

    def answered_by(user: str) -> str:
        return chat(site, upstream, "medical", site.medical, user=user)[1]["x-lorary-adapter"]

    first = {user: answered_by(user) for user in users}
    assert set(first.values()) == {"medical/coder@1", "medical/coder@2"}
    assert {user: answered_by(user) for user in users} == first
    by_key = {chat(site, upstream, "medical", site.medical)[1]["x-lorary-adapter"] for _ in users}
    assert len(by_key) == 1


def test_an_evaluator_is_told_what_others_would_not_be(site: Site, upstream: Upstream) -> None:
    execute, operator = site.registry.execute, site.operator.id
    fitted = Calibration(method="temperature", threshold=1.0)
    version = site.registry.catalog.adapters["medical/coder"].versions[0]
    found = SuiteResult(suite="s", digest="a" * 64, held_out="b" * 64, tallies={})
    execute(
        RecordEvaluation("medical", "coder", 1, version.digest, "c" * 64, (found,), fitted),
        operator,
    )
    execute(ChangePolicy("medical", Policy(guarded=(), abstain=True)), operator)
    meter = Secret.generate()
    grants = (Grant("infer", "medical"), Grant("evaluate", "medical"))
    execute(IssueKey(meter.id, "meter", meter.digest, grants), operator)
    site.replica.follower.refresh()
    body = json.dumps({"model": "medical", "prompt": "x", "echo": True, "logprobs": 1}).encode()

    def ask(key: Secret, **headers: str) -> int:
        scope = scope_of("POST", "/v1/completions", key, **headers)
        return send_to(site, upstream, scope, body)[0]

    assert ask(meter) == 400
    assert ask(meter, x_lorary_evaluate="true") == 200
    assert ask(site.medical, x_lorary_evaluate="true") == 403
