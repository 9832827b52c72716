"""One caller sends the worst that it may; another caller is answered all the same. Real vLLM."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.journeys.conftest import Site
from tests.unit.test_bounds import deep

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
HELLO = [{"role": "user", "content": "Hello"}]
RULES = "\n".join(f'r{n} ::= r{n + 1} | "a" r{n + 1} | r{n + 1} "b"' for n in range(340))
PATTERNS = [{"type": "string", "pattern": f".*a.{{{n}}}.*"} for n in range(16)]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "old": {"type": "boolean"}},
    "required": ["name", "old"],
    "additionalProperties": False,
}
ATTACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "regex": (CHAT, {"structured_outputs": {"regex": "((([a-z]{0,20}){0,20}){0,20}){0,20}!"}}),
    "grammar": (CHAT, {"structured_outputs": {"grammar": f'root ::= r0\n{RULES}\nr340 ::= "z"'}}),
    "allOf": (CHAT, {"structured_outputs": {"json": {"allOf": PATTERNS}}}),
    "depth": (CHAT, {"structured_outputs": {"json": deep(40)}}),
    "prompts x choices": (COMPLETIONS, {"prompt": [[5]] * 300, "n": 16}),
    "image": (
        RESPONSES,
        {"input": [{"type": "function_call_output", "call_id": "a",
                    "output": [{"type": "input_image", "image_url": "http://127.0.0.1:1/x"}]}]},
    ),
    "type": (CHAT, {"messages": [{"role": "user", "content": [{"type": ["text"]}]}]}),
    "seed": (CHAT, {"seed": 7}),
    "huge number": (CHAT, {"max_tokens": 10**400}),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_what_would_hold_others_up_is_refused_and_others_are_answered(
    site: Site, name: str
) -> None:
    path, fields = ATTACKS[name]
    messages = {} if path != CHAT else {"messages": HELLO}
    body = {"model": "medical", "max_tokens": 60} | messages | fields
    question = {"model": "medical", "messages": HELLO, "max_tokens": 4}

    async def both() -> tuple[httpx.Response, httpx.Response]:
        async with httpx.AsyncClient(base_url=site.api, timeout=120) as client:
            sending = asyncio.create_task(client.post(path, json=body, headers=_key(site.doctor)))
            await asyncio.sleep(0.2)
            answer = await client.post(CHAT, json=question, headers=_key(site.app))
            return await sending, answer

    refused, answered = asyncio.run(both())
    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["message"]
    assert answered.status_code == 200


def test_a_key_that_floods_the_engine_keeps_nobody_out(site: Site) -> None:
    flood = {"model": "medical", "prompt": [[5]] * 2, "n": 16, "max_tokens": 1_500}
    question = {"model": "medical", "messages": HELLO, "max_tokens": 4}

    async def both() -> tuple[httpx.Response, list[bool]]:
        async with httpx.AsyncClient(base_url=site.api, timeout=120) as client:
            sending = [
                asyncio.create_task(
                    client.post(
                        COMPLETIONS, json=flood | {"ignore_eos": True}, headers=_key(site.doctor)
                    )
                )
                for _ in range(6)
            ]
            await asyncio.sleep(1)
            answer = await client.post(CHAT, json=question, headers=_key(site.app))
            done = [task.done() for task in sending]
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
            return answer, done

    answered, flood_done = asyncio.run(both())
    assert answered.status_code == 200
    assert not any(flood_done), "the flood ended before the question was answered"


def test_an_object_that_keeps_to_a_schema_is_complete(site: Site) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    messages: Any = [{"role": "user", "content": "Describe a patient."}]
    reply = site.client().chat.completions.create(
        model="medical", messages=messages, max_tokens=60, temperature=0,
        response_format=wanted,  # type: ignore[call-overload]
    )  # fmt: skip
    assert reply.choices[0].finish_reason == "stop"
    assert set(json.loads(reply.choices[0].message.content or "")) == {"name", "old"}


def test_a_second_turn_of_responses_is_answered(site: Site) -> None:
    said = {"role": "assistant", "content": [{"type": "output_text", "text": "Symptoms"}]}
    asked = [{"role": "user", "content": [{"type": "input_text", "text": "fever"}]}, said, *HELLO]
    body = {"model": "medical", "max_output_tokens": 4, "input": asked}
    reply = httpx.post(site.api + RESPONSES, json=body, headers=_key(site.app), timeout=60)
    assert reply.status_code == 200, reply.text


def test_fields_that_change_nothing_are_taken(site: Site) -> None:
    body = {
        "model": "medical", "messages": HELLO, "max_tokens": 4, "prompt_cache_key": "session-1",
        "chat_template_kwargs": {"enable_thinking": False}, "functions": None,
    }  # fmt: skip
    reply = httpx.post(site.api + CHAT, json=body, headers=_key(site.app), timeout=60)
    assert reply.status_code == 200, reply.text


def test_health_takes_head_and_names_no_adapter_to_strangers(site: Site) -> None:
    head = httpx.head(f"{site.api}/health", timeout=10)
    assert (head.status_code, head.content) == (200, b"")
    assert "failed" not in httpx.get(f"{site.api}/health", timeout=10).json()["adapters"]
    known = httpx.get(f"{site.api}/health", headers=_key(site.operator), timeout=10).json()
    assert "failed" in known["adapters"]


def _key(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
