"""What an app asks for beside plain answers: responses, schemas, tools, confidence. Real vLLM."""

import json
import math
from typing import Any

import httpx
import openai
import pytest

from adapters.packs import PACKS
from tests.journeys.conftest import Site
from tests.journeys.test_app import chat, question

PATH = f"medical/{PACKS['medical'].adapter}"


def test_the_responses_api_answers_whole_and_as_a_stream(site: Site) -> None:
    prompt: Any = question("medical")
    whole = chat(site, "medical", prompt, max_tokens=16).parse().choices[0].message.content
    asked: dict[str, Any] = {
        "model": "medical", "input": prompt[0]["content"], "max_output_tokens": 16, "temperature": 0
    }  # fmt: skip
    reply = site.client().responses.with_raw_response.create(**asked)
    assert reply.headers["x-lorary-adapter"] == f"{PATH}@1"
    answer = reply.parse()
    assert answer.output_text == whole
    assert answer.model == f"{PATH}@1"
    assert answer.usage.output_tokens > 0
    events = list(site.client().responses.create(**asked, stream=True))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == whole
    assert events[-1].type == "response.completed"


@pytest.mark.parametrize(
    "field",
    [{"previous_response_id": "resp_1"}, {"background": True}, {"tools": [{"type": "web_search"}]}],
)
def test_what_would_need_memory_or_run_something_is_refused(
    site: Site, field: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError, match="served here"):
        site.client().responses.create(model="medical", input="Well?", **field)


def test_an_answer_keeps_to_a_schema(site: Site) -> None:
    labels = list(PACKS["medical"].labels)
    schema = {"type": "string", "enum": labels}  # an object would leave room for endless blanks
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    reply = chat(site, "medical", question("medical"), max_tokens=60, response_format=wanted)
    assert json.loads(reply.parse().choices[0].message.content) in labels


def test_a_tool_that_is_named_is_called(site: Site) -> None:
    parameters = {
        "type": "object",
        "properties": {"code": {"type": "string", "enum": ["A", "B"]}},
        "required": ["code"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "look_up", "parameters": parameters}}
    choice = {"type": "function", "function": {"name": "look_up"}}
    reply = chat(
        site, "medical", question("medical"), max_tokens=60, tools=[tool], tool_choice=choice
    )
    called = reply.parse().choices[0].message.tool_calls[0].function
    assert called.name == "look_up"
    assert called.arguments  # what stands in them is the affair of vLLM and of so small a model


def test_each_answer_tells_how_sure_it_is_if_asked(site: Site) -> None:
    sure = {"X-Lorary-Confidence": "true"}
    shown = chat(site, "medical", question("medical"), max_tokens=16, logprobs=True).parse()
    tokens = shown.choices[0].logprobs.content
    raw = math.exp(sum(token.logprob for token in tokens))
    told = chat(site, "medical", question("medical"), max_tokens=16, extra_headers=sure).parse()
    verdict = told.choices[0].lorary
    assert told.choices[0].message.content == shown.choices[0].message.content
    assert told.choices[0].logprobs is None
    assert verdict["confidence"] == pytest.approx(raw, abs=0.2)
    assert (verdict["calibrated"], verdict["reason"]) == (False, "The version has no calibration.")
    messages: Any = question("medical")
    stream = site.client().chat.completions.create(
        model="medical", messages=messages, max_tokens=16, temperature=0, stream=True,
        extra_headers=sure,
    )  # fmt: skip
    last: Any = list(stream)[-1].choices[0]
    assert last.lorary["confidence"] == pytest.approx(raw, abs=0.2)
    completed: Any = site.client().completions.create(
        model="medical", prompt="The law", max_tokens=3, temperature=0, extra_headers=sure
    )
    assert 0 < completed.choices[0].lorary["confidence"] < 1


def test_a_deadline_is_kept_and_frees_the_engine(site: Site) -> None:
    messages: Any = question("medical")
    with pytest.raises(openai.InternalServerError) as late:
        site.client().chat.completions.create(
            model="medical", messages=messages, max_tokens=1500,
            extra_headers={"X-Lorary-Timeout": "1"}, extra_body={"ignore_eos": True},
        )  # fmt: skip
    assert (late.value.status_code, late.value.code) == (504, "deadline_exceeded")
    site.settle(lambda: _running(site) == 0)


def _running(site: Site) -> float:
    """Requests that the engine works on, by its own metrics."""
    headers = {"Authorization": f"Bearer {site.operator}"}
    lines = httpx.get(f"{site.api}/metrics", headers=headers, timeout=10).text.splitlines()
    found = [line for line in lines if line.startswith("vllm:num_requests_running")]
    return sum(float(line.rpartition(" ")[2]) for line in found)
