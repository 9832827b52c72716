"""What one tenant's requests show of another's, and what they are charged. Real vLLM."""

import json
from typing import Any

import httpx
import pytest

from adapters.home import SMALL_MODEL
from tests.journeys.conftest import Site

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
DOCUMENT = "The patient has had a dry cough since March; the report names no diagnosis. " * 20
"""Longer than several blocks of the prefix cache."""
FOUND = 100
"""Tokens from which on a prompt was found: more than a chat template puts before every prompt."""


def prefix_hits(site: Site) -> float:
    """Tokens of prompts that vLLM has found in its prefix cache so far."""
    headers = {"Authorization": f"Bearer {site.operator}"}
    page = httpx.get(f"{site.api}/metrics", headers=headers, timeout=10).text
    return sum(
        float(line.rpartition(" ")[2])
        for line in page.splitlines()
        if line.startswith("vllm:prefix_cache_hits_total")
    )


def send(site: Site, key: str, path: str, **body: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{site.api}{path}", json=body, headers=headers, timeout=120)


def ask(site: Site, key: str, path: str, model: str, text: str) -> float:
    """One request; how many of its prompt's tokens were found in the cache."""
    before = prefix_hits(site)
    body: dict[str, Any] = {
        CHAT: {"messages": [{"role": "user", "content": text}], "max_tokens": 1},
        COMPLETIONS: {"prompt": text, "max_tokens": 1},
        RESPONSES: {"input": text, "max_output_tokens": 1},
    }[path]
    assert send(site, key, path, model=model, **body).status_code == 200
    return prefix_hits(site) - before


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES])
@pytest.mark.parametrize("model", [SMALL_MODEL, "medical"])
def test_no_other_tenants_prompt_is_found_in_the_cache(site: Site, path: str, model: str) -> None:
    """The victim's prompt, then the right guess by another key, and by the victim again."""
    text = f"{path} {model}: {DOCUMENT}"
    assert ask(site, site.doctor, path, model, text) < FOUND
    if model == SMALL_MODEL:
        assert ask(site, site.app, path, model, text) < FOUND, "another key's guess was found"
    else:
        assert ask(site, site.app, path, "legal", text) < FOUND, "another domain's was found"
        assert ask(site, site.app, path, model, text) > FOUND, "a domain shares its prompts"
    assert ask(site, site.doctor, path, model, text) > FOUND, "the cache works for its own"


def test_a_caller_cannot_choose_its_salt(site: Site) -> None:
    for path in (CHAT, COMPLETIONS, RESPONSES):
        refused = send(site, site.app, path, model=SMALL_MODEL, cache_salt="another's")
        assert refused.status_code == 400
        assert "cache_salt" in refused.json()["error"]["message"]


def counted(site: Site, series: str) -> float:
    headers = {"Authorization": f"Bearer {site.operator}"}
    page = httpx.get(f"{site.api}/metrics", headers=headers, timeout=10).text
    wanted = f'{series}{{adapter="{SMALL_MODEL}"'
    return sum(float(ln.rpartition(" ")[2]) for ln in page.splitlines() if ln.startswith(wanted))


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES])
@pytest.mark.parametrize("stream", [False, True])
def test_tokens_are_counted_as_vllm_reports_them(site: Site, path: str, stream: bool) -> None:
    """Tool parameters that read as usage change nothing, and a stream shows no usage unasked."""
    made, read = counted(site, "lorary_tokens_total"), counted(site, "lorary_prompt_tokens_total")
    messages = [{"role": "user", "content": "Tell a story."}]
    usage = {"usage": {"output_tokens": 0, "input_tokens": 0, "completion_tokens": 0}}
    tool = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": usage}}
    body: dict[str, Any] = {
        CHAT: {"messages": messages, "max_tokens": 20, "n": 2, "ignore_eos": True},
        COMPLETIONS: {
            "prompt": ["Once", "Twice upon"], "n": 2, "max_tokens": 10, "ignore_eos": True
        },
        RESPONSES: {"input": "Tell a story.", "max_output_tokens": 20, "tools": [tool]},
    }[path]  # fmt: skip
    reply = send(site, site.app, path, model=SMALL_MODEL, stream=stream, **body)
    assert reply.status_code == 200, reply.text
    if stream:
        lines = [line for line in reply.text.split("\n") if line.startswith("data: {")]
        events = [json.loads(line.removeprefix("data: ")) for line in lines]
        assert not any("usage" in event for event in events)
        told = events[-1]["response"]["usage"] if path == RESPONSES else None
    else:
        told = reply.json()["usage"]
    site.settle(lambda: counted(site, "lorary_tokens_total") > made)
    tokens = counted(site, "lorary_tokens_total") - made
    prompts = counted(site, "lorary_prompt_tokens_total") - read
    if told is not None:
        assert tokens == told.get("completion_tokens", told.get("output_tokens"))
        assert prompts == told.get("prompt_tokens", told.get("input_tokens"))
    else:
        assert tokens == 40
        assert prompts > 0
