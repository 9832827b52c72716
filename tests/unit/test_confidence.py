"""How sure an answer is, told with it; and what is left of one that is not sure enough."""

import asyncio
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from starlette.types import Message

from adapters.confidence import Calibration
from registry.errors import BadRequest
from serving.request.confidence import CHAT, COMPLETIONS, REFUSAL, Judge, Terms, terms
from tests.support.asking import into
from tests.support.catalogs import VERSION

SURE = Calibration(method="temperature", temperature=2.0, threshold=0.8, n=100)
CALIBRATED = replace(VERSION, calibration=SURE)


def judge(messages: list[Message], wanted: Terms) -> list[Message]:
    sent: list[Message] = []

    async def run() -> None:
        judge = Judge(into(sent), wanted)
        for message in messages:
            await judge.send(message)

    asyncio.run(run())
    return sent


def whole(answer: dict[str, Any], cut: int = 40) -> list[Message]:
    """An answer in one piece of JSON, sent in two."""
    data = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
    return [
        {"type": "http.response.start", "status": 200, "headers": headers},
        {"type": "http.response.body", "body": data[:cut], "more_body": True},
        {"type": "http.response.body", "body": data[cut:]},
    ]


def stream(chunks: list[dict[str, Any]], cut: int) -> list[Message]:
    """The same as server-sent events, cut anywhere."""
    data = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    data += b"data: [DONE]\n\n"
    pieces = [data[at : at + cut] for at in range(0, len(data), cut)]
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    return [
        {"type": "http.response.start", "status": 200, "headers": headers},
        *({"type": "http.response.body", "body": p, "more_body": True} for p in pieces),
        {"type": "http.response.body", "body": b"", "more_body": False},
    ]


def chat_answer(*logprobs: float) -> dict[str, Any]:
    tokens = [{"token": "x", "logprob": value, "top_logprobs": []} for value in logprobs]
    message = {"role": "assistant", "content": "secret answer", "tool_calls": [{"id": "secret"}]}
    choice = {"index": 0, "finish_reason": "stop", "message": message, "token_ids": [1, 2],
              "logprobs": {"content": tokens}}  # fmt: skip
    return {"id": "1", "choices": [choice], "usage": {"completion_tokens": len(logprobs)}}


def chunks_of(*logprobs: float) -> list[dict[str, Any]]:
    frame = {"id": "1", "object": "chat.completion.chunk", "created": 5, "model": "m"}
    first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    return [
        {**frame, "choices": [first]},
        *(
            {**frame, "choices": [
                {"index": 0, "delta": {"content": "secret"}, "finish_reason": None,
                 "logprobs": {"content": [{"token": "x", "logprob": value}]}}]}
            for value in logprobs
        ),
        {**frame, "choices": [], "usage": {"completion_tokens": len(logprobs)}},
    ]  # fmt: skip


def body_of(sent: list[Message]) -> Any:
    data = b"".join(m.get("body", b"") for m in sent[1:])
    length = dict(sent[0]["headers"])[b"content-length"]
    assert int(length) == len(data)
    return json.loads(data)


def events_of(sent: list[Message]) -> list[Any]:
    data = b"".join(m.get("body", b"") for m in sent[1:])
    assert data.endswith(b"data: [DONE]\n\n")
    return [json.loads(event.removeprefix(b"data: ")) for event in data.split(b"\n\n")[:-2]]


def test_each_answer_carries_its_chance_to_be_right() -> None:
    sent = judge(whole(chat_answer(-0.1, -0.2)), Terms(CALIBRATED, True, False, False))
    choice = body_of(sent)["choices"][0]
    raw = math.exp(-0.3)
    wanted = 1 / (1 + math.exp(-math.log(raw / (1 - raw)) / 2))
    assert choice["lorary"]["confidence"] == pytest.approx(wanted, abs=1e-6)
    assert choice["lorary"]["calibrated"]
    assert choice["message"]["content"] == "secret answer"
    assert choice["logprobs"] is None


def test_of_an_answer_that_is_not_sure_enough_nothing_is_left() -> None:
    sent = judge(whole(chat_answer(-2.0, -2.0)), Terms(CALIBRATED, True, True, True))
    answer = body_of(sent)
    choice = answer["choices"][0]
    assert choice["lorary"]["withheld"]
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": REFUSAL}
    assert choice["finish_reason"] == "content_filter"
    assert "secret" not in json.dumps(answer)
    assert choice.keys() == {"index", "logprobs", "finish_reason", "message", "lorary"}


def test_a_version_without_a_calibration_is_told_apart_and_never_withheld() -> None:
    sent = judge(whole(chat_answer(-5.0)), Terms(VERSION, True, True, False))
    assert body_of(sent)["choices"][0]["lorary"] == {
        "confidence": pytest.approx(math.exp(-5), abs=1e-6),
        "calibrated": False,
        "threshold": None,
        "withheld": False,
    }


def test_completions_are_judged_in_their_own_form() -> None:
    choice = {"index": 0, "text": "secret", "logprobs": {"token_logprobs": [-3.0, None, -3.0]}}
    sent = judge(whole({"choices": [choice]}), Terms(CALIBRATED, False, True, False))
    judged = body_of(sent)["choices"][0]
    assert judged["text"] == ""
    assert judged["lorary"]["withheld"]


@given(cut=st.integers(1, 400))
def test_a_stream_ends_with_the_verdict_however_it_is_cut(cut: int) -> None:
    sent = judge(stream(chunks_of(-0.1, -0.2), cut), Terms(CALIBRATED, True, False, False))
    events = events_of(sent)
    assert [e["choices"][0]["delta"].get("content") for e in events[:3]] == ["", "secret", "secret"]
    assert all("logprobs" not in e["choices"][0] or e["choices"][0]["logprobs"] is None
               for e in events[:3])  # fmt: skip
    last = events[-1]
    assert (last["id"], last["model"]) == ("1", "m")
    assert last["choices"][0]["lorary"]["confidence"] > 0.5


@given(cut=st.integers(1, 400), value=st.floats(-8, -0.001))
def test_a_stream_that_may_be_withheld_is_kept_back_until_it_is_known(
    cut: int, value: float
) -> None:
    messages = stream(chunks_of(value, value), cut)
    sent = judge(messages, Terms(CALIBRATED, True, True, False))
    events = events_of(sent)
    last = next(e for e in reversed(events) if e["choices"])["choices"][0]
    text = json.dumps(events)
    assert ("secret" in text) != last["lorary"]["withheld"]
    assert last["lorary"]["withheld"] == (last["lorary"]["confidence"] < 0.8)
    if last["lorary"]["withheld"]:
        assert last["delta"] == {"refusal": REFUSAL}
    assert any(e.get("usage") for e in events)


def test_errors_inside_a_stream_are_not_kept_back() -> None:
    broken = [*chunks_of(-0.1)[:2], {"error": {"message": "the engine broke"}}]
    events = events_of(judge(stream(broken, 50), Terms(CALIBRATED, True, True, False)))
    assert events[0] == {"error": {"message": "the engine broke"}}


def test_answers_that_are_errors_pass_as_they_are() -> None:
    messages: list[Message] = [
        {"type": "http.response.start", "status": 400, "headers": []},
        {"type": "http.response.body", "body": b'{"error": {}}'},
    ]
    assert judge(messages, Terms(CALIBRATED, True, True, False)) == messages


def test_log_probabilities_are_asked_for_and_shown_only_if_the_caller_did() -> None:
    body: dict[str, Any] = {}
    asked = terms(CHAT, body, VERSION, wanted=True, abstains=False)
    assert asked is not None
    assert (body, asked.shown) == ({"logprobs": True}, False)
    body = {"logprobs": 3}
    asked = terms(COMPLETIONS, body, VERSION, wanted=False, abstains=True)
    assert asked is not None
    assert (body, asked.shown) == ({"logprobs": 3}, True)
    assert terms(CHAT, {}, VERSION, wanted=False, abstains=False) is None


def test_what_cannot_be_judged_is_refused_not_answered() -> None:
    with pytest.raises(BadRequest, match="no confidence"):
        terms("/v1/responses", {}, VERSION, wanted=False, abstains=True)
    with pytest.raises(BadRequest, match="echo"):
        terms(COMPLETIONS, {"echo": True}, VERSION, wanted=True, abstains=False)
