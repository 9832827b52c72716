"""A server for classification heads: what it takes, what it refuses, how answers name labels."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from adapters.heads import Head
from registry.model.access import Secret
from registry.model.domains import ChangePolicy
from registry.model.policies import Policy
from serving.gate import Gate
from serving.request.classification import labelled, most_tokens
from serving.request.pooling import note_nan
from serving.telemetry.verdicts import VERDICTS
from serving.tiers.recovery import HeadProbe, Recovery
from tests.support.asking import chat, into, scope_of, send_to, whole
from tests.support.replicas import BASE, Site, Upstream, answered, make_site
from tests.support.vllm_engine import LoRARequest, VllmEngine

COLOURS = Head(size=3, labels=("red", "green", "blue"))
SCORE = Head(size=1)
PROBS = [[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]]


def answer(*probs: list[float]) -> bytes:
    """What vLLM answers to /classify: its labels are the base model's."""
    data = [
        {"index": i, "label": "LABEL_0" if i == 0 else None, "probs": p, "num_classes": len(p)}
        for i, p in enumerate(probs)
    ]
    usage = {"prompt_tokens": 11, "total_tokens": 11, "completion_tokens": 0}
    return json.dumps({"id": "classify-x", "model": "m", "data": data, "usage": usage}).encode()


@pytest.fixture
def heads(tmp_path: Path) -> Iterator[Site]:
    """A server that classifies: one adapter tells colours, one scores, one writes."""
    made = make_site(tmp_path, task="classify", max_labels=3)
    made.publish("medical", "colours", b"colours", head=COLOURS)
    made.publish("medical", "relevance", b"relevance", head=SCORE)
    yield made
    made.registry.close()


def ask(
    site: Site, upstream: Any, path: str, key: Secret | None, **body: Any
) -> tuple[int, dict[str, str], Any]:
    return send_to(site, upstream, scope_of("POST", path, key), json.dumps(body).encode())


def test_an_answer_names_the_adapters_labels_and_the_version_that_gave_it(heads: Site) -> None:
    upstream = Upstream(pieces=(answer(*PROBS)[:40], answer(*PROBS)[40:]))
    status, headers, body = ask(
        heads, upstream, "/classify", heads.medical, model="medical/colours", input=["a", "b"]
    )
    assert status == 200
    assert headers["x-lorary-adapter"] == "medical/colours@1"
    assert [item["label"] for item in body["data"]] == ["green", "red"]
    assert [item["probs"] for item in body["data"]] == PROBS
    assert body["labels"] == ["red", "green", "blue"]
    passed = json.loads(upstream.bodies[0])
    assert len(passed.pop("cache_salt")) == 64
    assert passed.pop("priority") >= 1
    assert passed == {"model": "medical/colours@1", "input": ["a", "b"]}


def test_content_length_is_that_of_the_answer_with_labels(heads: Site) -> None:
    upstream = Upstream(pieces=(answer(PROBS[0]),))
    _, headers, body = ask(
        heads, upstream, "/classify", heads.medical, model="medical/colours", input="a"
    )
    assert int(headers["content-length"]) == len(json.dumps(body))


def test_an_answer_with_labels_has_one_length_whatever_vllm_answers(heads: Site) -> None:
    data, sent = answer(PROBS[0]), list[Message]()

    async def vllm(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"),
                   (b"content-length", str(len(data)).encode())]  # fmt: skip
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    body = json.dumps({"model": "medical/colours", "input": "a"}).encode()
    scope = scope_of("POST", "/classify", heads.medical)
    asyncio.run(Gate(vllm, heads.replica)(scope, whole(body), into(sent)))
    lengths = [value for name, value in sent[0]["headers"] if name == b"content-length"]
    assert lengths == [str(len(answered(sent)[2])).encode()]


@pytest.mark.parametrize("path", ["/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank"])
def test_a_head_with_one_score_is_served_where_one_number_is_wanted(heads: Site, path: str) -> None:
    fields: dict[str, Any] = {"query": "q", "documents": ["a", "b"]}
    if path.endswith("score"):
        fields = {"text_1": "q", "text_2": ["a", "b"]}
    upstream = Upstream()
    status, _, body = ask(heads, upstream, path, heads.medical, model="medical/relevance", **fields)
    assert (status, body) == (200, {"ok": True})
    status, _, body = ask(heads, upstream, path, heads.medical, model="medical/colours", **fields)
    assert (status, body["error"]["code"]) == (409, "wrong_task")
    assert "has 3 labels" in body["error"]["message"]
    heads.publish("medical", "urgent", b"urgent", head=Head(size=2, labels=("no", "yes")))
    assert ask(heads, upstream, path, heads.medical, model="medical/urgent", **fields)[0] == 409
    assert len(upstream.bodies) == 1


@pytest.mark.parametrize(
    ("model", "status", "code", "told"),
    [
        ("medical/coder", 409, "wrong_task", "it writes answers, and this server classifies"),
        ("medical/large", 409, "wrong_task", "has 4 labels; this server takes 3"),
        (BASE, 400, "invalid_request", "has no classification head"),
        ("legal/clauses", 403, "forbidden", ""),
        ("medical/nothing", 404, "adapter_not_found", ""),
    ],
)
def test_what_the_server_cannot_classify_with_is_refused_by_name(
    heads: Site, upstream: Upstream, model: str, status: int, code: str, told: str
) -> None:
    heads.publish("medical", "large", b"large", head=Head(size=4, labels=("a", "b", "c", "d")))
    got, _, body = ask(heads, upstream, "/classify", heads.medical, model=model, input="a")
    assert (got, body["error"]["code"]) == (status, code)
    assert told in body["error"]["message"]
    assert upstream.bodies == []


def test_a_server_that_writes_refuses_heads_and_their_routes(
    site: Site, upstream: Upstream
) -> None:
    site.publish("medical", "colours", b"colours", head=COLOURS)
    status, _, body = chat(site, upstream, "medical/colours", site.medical)
    assert (status, body["error"]["code"]) == (409, "wrong_task")
    assert "lorary serve --task classify" in body["error"]["message"]
    status, _, body = ask(site, upstream, "/classify", site.medical, model="medical", input="a")
    assert (status, body["error"]["code"]) == (404, "route_not_found")
    assert "lorary serve --task classify" in body["error"]["message"]
    assert upstream.bodies == []


def test_a_server_that_classifies_writes_nothing(heads: Site, upstream: Upstream) -> None:
    status, _, body = chat(heads, upstream, "medical/colours", heads.medical)
    assert (status, body["error"]["code"]) == (404, "route_not_found")
    assert "Use /classify" in body["error"]["message"]
    _, _, body = ask(heads, upstream, "/v1/classify", heads.medical, model="medical/colours")
    assert "on a server that classifies /classify" in body["error"]["message"]
    for path in ("/pooling", "/v1/embeddings", "/invocations", "/tokenize"):
        assert ask(heads, upstream, path, heads.medical, model="medical/colours")[0] == 404
    assert upstream.bodies == []


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "a"}]},
        {"input": "a", "task": "token_classify"},
        {"input": "a", "mm_processor_kwargs": {}},
        {"input": "a", "request_id": "mine"},
        {"input": "a", "padding": "max_length"},
        {"input": "a", "use_activation": "no"},
        {"input": []},
        {"input": [1, "a"]},
        {"input": ["a"] * 33},
        {"input": {"text": "a"}},
    ],
)
def test_fields_that_nobody_judged_are_refused(
    heads: Site, upstream: Upstream, fields: dict[str, Any]
) -> None:
    status, _, body = ask(
        heads, upstream, "/classify", heads.medical, model="medical/colours", **fields
    )
    assert (status, body["error"]["code"]) == (400, "invalid_request")
    assert upstream.bodies == []


def test_texts_are_charged_as_vllm_counts_them_and_bounded(tmp_path: Path) -> None:
    site = make_site(tmp_path, task="classify", key_tokens_per_minute=200, key_concurrency=4)
    site.publish("medical", "colours", b"colours", head=COLOURS)
    upstream = Upstream(pieces=(answer(PROBS[0]),))

    def status(**fields: Any) -> int:
        found = ask(site, upstream, "/classify", site.medical, model="medical/colours", **fields)
        return found[0]

    assert status(input=["a"] * 5) == 400, "more sequences than the key may ever have at once"
    assert status(input="a") == 200
    assert status(input="a" * 4_000) == 429, "an estimate above what is left"
    assert [status(input="a") for _ in range(18)][-1] == 429, "11 tokens each, of 200 a minute"
    site.registry.close()


def test_the_estimate_counts_a_query_with_each_text() -> None:
    assert most_tokens({"input": "a" * 400}, 400, 2048) == 101
    assert most_tokens({"input": [1] * 90}, 180, 2048) == 90
    assert most_tokens({"input": [[1] * 90, [2] * 10]}, 200, 2048) == 100
    pairs = {"query": "q" * 400, "documents": ["d" * 40] * 10}
    assert most_tokens(pairs, 800, 2048) == (800 + 9 * 400) // 4 + 10
    assert most_tokens({"input": ["a" * 40_000]}, 40_000, 2048) == 2048
    as_list = {"queries": ["q" * 400], "documents": ["d" * 40] * 10, "text_1": ""}
    assert most_tokens(as_list, 800, 2048) == (800 + 9 * 400) // 4 + 10
    chinese = {"query": "\u8bcd" * 100, "documents": ["d"] * 10}
    assert most_tokens(chinese, 400, 2048) == (400 + 9 * 300) // 4 + 10


def test_labels_are_those_of_the_rows_also_of_logits() -> None:
    body = json.loads(labelled(answer([-3.0, -1.0, -2.0]), COLOURS.labels))
    assert body["data"][0]["label"] == "green"


def test_models_lists_only_what_the_server_can_serve(heads: Site, upstream: Upstream) -> None:
    _, _, body = send_to(heads, upstream, scope_of("GET", "/v1/models", heads.medical))
    listed = {model["id"]: model for model in body["data"]}
    assert "medical/colours" in listed
    assert "medical/coder" not in listed
    assert listed["medical/colours"]["labels"] == ["red", "green", "blue"]


@dataclass
class NanUpstream:
    """vLLM where a probability is NaN: its answer cannot be written as JSON."""

    raises: bool
    bodies: list[bytes] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.bodies.append((await receive()).get("body", b""))
        told = "Out of range float values are not JSON compliant: nan"
        if self.raises:
            raise ValueError(told)
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps({"error": told}).encode()})


@pytest.mark.parametrize("raises", [True, False])
def test_an_answer_of_nan_quarantines_the_adapter_and_cleans_the_engine(
    heads: Site, raises: bool
) -> None:
    upstream = NanUpstream(raises)
    status, _, body = ask(
        heads, upstream, "/classify", heads.medical, model="medical/colours", input="a"
    )
    assert (status, body["error"]["code"]) == (422, "adapter_faulty")
    assert "erase" in heads.engine.calls
    assert ask(
        heads, upstream, "/classify", heads.medical, model="medical/colours", input="a"
    )[0] == 422  # fmt: skip
    assert len(upstream.bodies) == 3, "asked, repeated twice, and then never again"


def test_statistics_of_a_classification_belong_to_its_request() -> None:
    with VERDICTS.follow("ID") as verdict:
        VERDICTS.note("classify-ID-0", corrupted=True)
        assert verdict.corrupted
    with VERDICTS.follow("ID") as verdict:
        VERDICTS.note("score-ID-11", corrupted=False, aborted=True)
        assert verdict.aborted


@pytest.mark.parametrize("request_id", ["ABC", "abc-DEF", "a_B", "A-1"])
def test_nan_is_noted_whatever_the_letters_of_the_requests_id(request_id: str) -> None:
    with VERDICTS.follow(request_id) as verdict:
        note_nan({"headers": [(b"x-request-id", request_id.encode())]})
        assert verdict.corrupted


def test_only_heads_are_warmed_where_heads_are_served(heads: Site) -> None:
    policy = ChangePolicy("medical", Policy(guarded=("production",)))
    heads.registry.execute(policy, heads.operator.id)
    heads.replica.follower.refresh()
    asyncio.run(heads.replica.warming.bring_up(heads.replica.catalog))
    assert set(heads.engine.loads) == {"medical/colours@1", "medical/relevance@1"}
    assert heads.replica.warming.failures == {}


def test_a_head_is_tried_by_the_logits_of_a_test_prompt() -> None:
    engine = VllmEngine(overflowing={"medical/bad@1"})
    recovery = Recovery(engine, HeadProbe(None), lambda: None)

    async def work() -> None:
        assert await recovery.first_token(LoRARequest("medical/bad@1", 1, "/bad")) is None
        assert engine.calls == ["pause", "erase", "resume"]
        assert await recovery.first_token(LoRARequest("medical/good@1", 2, "/good")) is not None

    asyncio.run(work())
