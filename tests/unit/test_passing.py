"""What of a request reaches vLLM, and how its answer passes."""

import asyncio
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Scope

from adapters.confidence import Calibration
from adapters.errors import LoraryError
from registry.model.access import Secret
from registry.model.catalog import Grant
from registry.model.domains import ChangePolicy
from registry.model.evaluations import RecordEvaluation
from registry.model.evidence import Engine, SuiteResult
from registry.model.keys import IssueKey, RevokeKey
from registry.model.policies import Policy
from serving.gate import Gate
from serving.request.body import parse_body
from serving.request.fields import FIELDS
from tests.support.asking import CHAT, chat, into, leaving_after, scope_of, send_to, whole
from tests.support.oracle import ENGINE
from tests.support.replicas import Site, Upstream, make_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = make_site(tmp_path, max_body_bytes=1 << 16)
    yield made
    made.registry.close()


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
     {"prompt_logprobs": 0}, {"echo": True, "top_logprobs": 0}, {"echo": True, "logprobs": True},
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

    try:
        body = parse_body(json.dumps(value).encode())
    except LoraryError as error:
        refused = error
        assert refused.status == 400
        return
    assert body.keys() <= FIELDS.keys()


def test_two_hundred_megabytes_are_refused_without_being_buffered(
    site: Site, upstream: Upstream
) -> None:
    piece, given_out, sent = b"x" * (1 << 16), 0, list[Message]()

    async def receive() -> Message:
        nonlocal given_out
        given_out += len(piece)
        return {"type": "http.request", "body": piece, "more_body": given_out < 200 << 20}

    tracemalloc.start()
    gate, scope = Gate(upstream, site.replica), scope_of("POST", CHAT, site.medical)
    asyncio.run(gate(scope, receive, into(sent)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sent[0]["status"] == 413
    assert given_out <= 3 * len(piece)
    assert peak < 2 << 20

    given_out = 0
    sent.clear()
    declared = scope_of("POST", CHAT, site.medical, Content_Length=str(200 << 20))
    asyncio.run(gate(declared, receive, into(sent)))
    assert sent[0]["status"] == 413
    assert given_out == 0
    assert upstream.scopes == []


def test_an_evaluator_sees_what_others_do_not(site: Site, upstream: Upstream) -> None:
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
    body = json.dumps({"model": "medical", "prompt": "x", "echo": True}).encode()

    def ask(key: Secret, **headers: str) -> int:
        scope = scope_of("POST", "/v1/completions", key, **headers)
        return send_to(site, upstream, scope, body)[0]

    assert ask(meter) == 400
    assert ask(meter, x_lorary_evaluate="true") == 200
    assert ask(site.medical, x_lorary_evaluate="true") == 403


def test_a_domain_that_abstains_answers_on_the_engine_that_was_evaluated_and_by_keys_that_count(
    site: Site, upstream: Upstream
) -> None:
    execute, operator = site.registry.execute, site.operator.id
    meter = Secret.generate()
    execute(IssueKey(meter.id, "meter", meter.digest, (Grant("evaluate", "medical"),)), operator)
    execute(ChangePolicy("medical", Policy(guarded=(), abstain=True)), operator)
    version = site.registry.catalog.adapters["medical/coder"].versions[0]
    found = SuiteResult(suite="s", digest="a" * 64, held_out="b" * 64, tallies={})
    fitted = Calibration(method="temperature", threshold=0.5)
    command = RecordEvaluation(
        "medical", "coder", 1, version.digest, "c" * 64, (found,), fitted, engine=ENGINE
    )
    execute(command, meter.id)
    messages = [{"role": "user", "content": "Which chapter?"}]

    def ask(engine: Engine | None) -> tuple[int, Any]:
        site.replica.follower.refresh()
        site.replica.identity = engine
        status, _, body = chat(site, upstream, "medical", site.medical, messages=messages)
        return status, body

    assert ask(ENGINE)[0] == 200
    status, body = ask(msgspec.structs.replace(ENGINE, dtype="bfloat16"))
    assert status == 400
    assert "another engine (dtype)" in body["error"]["message"]
    execute(RevokeKey(meter.id, "stolen"), operator)
    assert ask(ENGINE)[0] == 400


def test_streams_pass_piece_by_piece_as_they_come(site: Site) -> None:
    pieces = (b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n")
    upstream = Upstream(pieces=pieces, pause=0.05, kind=b"text/event-stream")
    times: list[float] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()

        async def send(message: Message) -> None:
            if message.get("body"):
                times.append(loop.time())

        receive = whole(b'{"model": "medical", "messages": []}')
        await Gate(upstream, site.replica)(scope_of("POST", CHAT, site.medical), receive, send)

    asyncio.run(run())
    assert len(times) == 3
    assert times[1] - times[0] >= 0.04
    assert times[2] - times[1] >= 0.04


def test_a_caller_who_leaves_is_seen_by_vllm(site: Site) -> None:
    seen: list[str] = []
    leave = asyncio.Event()

    async def upstream(scope: Scope, receive: Any, send: Any) -> None:
        if scope["path"] == CHAT:
            seen.append((await receive())["type"])
            leave.set()
            seen.append((await receive())["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    receive = leaving_after(b'{"model": "medical", "messages": []}', leave)
    scope = scope_of("POST", CHAT, site.medical)
    asyncio.run(Gate(upstream, site.replica)(scope, receive, into([])))
    assert seen == ["http.request", "http.disconnect"]
