"""An app's day: the ordinary OpenAI client, unmodified, against real vLLM behind the gate."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import httpx
import openai
import pytest

from adapters.home import SMALL_MODEL
from adapters.packs import PACKS
from tests.journeys.conftest import Site

ROUNDING = 0.25
"""Nats by which bfloat16 arithmetic may differ between batches; measured, it is below 0.1."""


def question(domain: str, number: int = 0) -> list[dict[str, str]]:
    pack = PACKS[domain]
    return [{"role": "user", "content": pack.question(pack.load().held_out[number])}]


def chat(site: Site, model: str, messages: Any, **options: Any) -> Any:
    return site.client().chat.completions.with_raw_response.create(
        model=model, messages=messages, temperature=0, **options
    )


def test_each_domain_answers_in_its_own_terms_under_every_form_of_its_name(site: Site) -> None:
    for domain, pack in PACKS.items():
        path = f"{domain}/{pack.adapter}"
        for model in (domain, path, f"{path}@production", f"{path}@1"):
            reply = chat(site, model, question(domain), max_tokens=20)
            assert reply.headers["x-lorary-adapter"] == f"{path}@1"
            answer = reply.parse()
            assert answer.model == f"{path}@1"
            assert answer.choices[0].message.content.strip() in pack.labels


def test_completions_and_streams_work_and_streams_arrive_in_pieces(site: Site) -> None:
    completed = site.client().completions.create(
        model="legal", prompt="The law", max_tokens=5, extra_body={"ignore_eos": True}
    )
    assert completed.usage is not None
    assert completed.usage.completion_tokens == 5
    whole = chat(site, "medical", question("medical"), max_tokens=20).parse()
    messages: Any = question("medical")
    stream = site.client().chat.completions.create(
        model="medical", messages=messages, temperature=0, max_tokens=20, stream=True
    )
    pieces = list(stream)
    text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    assert text == whole.choices[0].message.content
    assert len(pieces) > 2
    assert {p.model for p in pieces} == {f"medical/{PACKS['medical'].adapter}@1"}


def test_the_models_list_is_the_callers(site: Site) -> None:
    everything = {model.id for model in site.client().models.list()}
    assert {SMALL_MODEL, *PACKS} <= everything
    doctors = {model.id for model in site.client(site.doctor).models.list()}
    assert doctors == {m for m in everything if m.startswith("medical") or m == SMALL_MODEL}
    assert site.client().models.retrieve("legal").id == "legal"


def test_refusals_arrive_as_the_clients_own_errors(site: Site) -> None:
    messages: Any = question("medical")
    with pytest.raises(openai.AuthenticationError):
        site.client("nothing").models.list()
    with pytest.raises(openai.PermissionDeniedError):
        site.client(site.doctor).chat.completions.create(model="legal", messages=messages)
    with pytest.raises(openai.NotFoundError, match="Did you mean medical/icd10-coder"):
        site.client().chat.completions.create(model="medical/icd10-codr", messages=messages)
    with pytest.raises(openai.NotFoundError, match="makes no embeddings"):
        site.client().embeddings.create(model="medical", input="x")
    with pytest.raises(openai.BadRequestError):
        site.client().chat.completions.create(model="medical", messages=messages, max_tokens=10**6)
    with pytest.raises(openai.BadRequestError, match="Log-probabilities of a prompt"):
        site.client().completions.create(model="medical", prompt="A", echo=True, logprobs=1)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/load_lora_adapter"), ("POST", "/v1/unload_lora_adapter"),
     ("POST", "/invocations"), ("GET", "/ping"), ("POST", "/ping"), ("POST", "/tokenize"),
     ("POST", "/detokenize"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/version"),
     ("GET", "/load"), ("POST", "/adapters"), ("POST", "/v1/conversations"),
     ("POST", "/scale_elastic_ep"),
     ("POST", "/v1//load_lora_adapter"), ("OPTIONS", "/v1/chat/completions")],
)  # fmt: skip
def test_routes_off_the_list_are_unreachable_even_for_an_operator(
    site: Site, method: str, path: str
) -> None:
    body = {"lora_name": "x", "lora_path": "/etc"}
    headers = {"Authorization": f"Bearer {site.operator}"}
    reply = httpx.request(method, site.api + path, json=body, headers=headers)
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "route_not_found"


def test_a_header_of_another_platform_cannot_choose_the_adapter(site: Site) -> None:
    reply = httpx.post(
        f"{site.api}/v1/chat/completions",
        json={"model": "medical", "messages": question("medical"), "max_tokens": 5},
        headers={
            "Authorization": f"Bearer {site.doctor}",
            "X-Amzn-SageMaker-Adapter-Identifier": f"legal/{PACKS['legal'].adapter}@1",
        },
        timeout=60,
    )
    assert reply.json()["model"].startswith("medical/")


def test_a_body_of_two_hundred_megabytes_is_refused_while_most_of_it_is_unsent(site: Site) -> None:
    sent = 0

    def pieces() -> Any:
        nonlocal sent
        for _ in range(200):
            sent += 1
            yield b"x" * (1 << 20)

    headers = {"Authorization": f"Bearer {site.app}", "Content-Type": "application/json"}
    try:
        url = f"{site.api}/v1/chat/completions"
        status = httpx.post(url, content=pieces(), headers=headers, timeout=60).status_code
    except httpx.TransportError:
        status = 413  # answered and closed while we were still sending
    assert status == 413
    assert sent < 50


def test_health_and_metrics_tell_of_registry_and_adapters(site: Site) -> None:
    health = httpx.get(f"{site.api}/health").json()
    assert health["status"] == "ok"
    assert health["registry"]["age_seconds"] < 5
    assert health["adapters"]["warm"]
    chat(site, "medical", [{"role": "user", "content": "A fever?"}], max_tokens=1)
    headers = {"Authorization": f"Bearer {site.operator}"}
    page = httpx.get(f"{site.api}/metrics", headers=headers).text
    assert 'lorary_requests_total{adapter="icd10-coder",domain="medical"' in page
    assert 'lorary_tier_requests_total{tier="' in page
    # Of vLLM's own series by adapters' names there is only ever the latest.
    assert page.count("vllm:lora_requests_info{") == 1
    assert 'lorary_cold_load_phase_seconds_bucket{le="0.1",phase="engine"}' in page
    assert "vllm:" in page


def test_interleaved_adapters_each_answer_as_they_do_alone(site: Site) -> None:
    asked = [(domain, number) for number in range(8) for domain in PACKS]
    assert len(asked) == 24
    alone = asyncio.run(ask_all(site, asked, at_once=1))
    together = asyncio.run(ask_all(site, asked, at_once=24))
    for (domain, _), one, many in zip(asked, alone, together, strict=True):
        path = f"{domain}/{PACKS[domain].adapter}@1"
        assert one["model"] == many["model"] == path
        assert many["adapter"] == path
        assert many["text"] in PACKS[domain].labels, "not this adapter's kind of answer"
        if many["tokens"] != one["tokens"]:
            assert is_rounding(one, many), json.dumps([one, many], indent=1)


def is_rounding(one: dict[str, Any], many: dict[str, Any]) -> bool:
    """Whether the first difference is between two tokens of nearly the same probability."""
    pairs = zip(one["tokens"], many["tokens"], strict=False)
    at = next(i for i, (a, b) in enumerate(pairs) if a != b)
    likely: dict[str, float] = one["top"][at]
    chosen, other = one["tokens"][at], many["tokens"][at]
    return other in likely and abs(likely[chosen] - likely[other]) <= ROUNDING


async def ask_all(
    site: Site, asked: Sequence[tuple[str, int]], *, at_once: int
) -> list[dict[str, Any]]:
    limit = asyncio.Semaphore(at_once)
    async with site.async_client() as client:

        async def ask(domain: str, number: int) -> dict[str, Any]:
            messages: Any = question(domain, number)
            async with limit:
                reply = await client.chat.completions.with_raw_response.create(
                    model=domain,
                    messages=messages,
                    temperature=0,
                    max_tokens=20,
                    logprobs=True,
                    top_logprobs=5,
                )
                parsed: Any = reply.parse()
                choice = parsed.choices[0]
                return {
                    "model": parsed.model,
                    "adapter": reply.headers["x-lorary-adapter"],
                    "text": choice.message.content.strip(),
                    "tokens": [t.token for t in choice.logprobs.content],
                    "top": [
                        {t.token: t.logprob for t in position.top_logprobs}
                        for position in choice.logprobs.content
                    ],
                }

        return list(await asyncio.gather(*(ask(*pair) for pair in asked)))


def test_a_caller_who_leaves_ends_the_generation(site: Site) -> None:
    stream = site.client().completions.create(
        model="medical",
        prompt="Once",
        max_tokens=1500,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(iter(stream))
    assert running_requests(site) == 1
    stream.close()
    site.settle(lambda: running_requests(site) == 0, seconds=10)


def running_requests(site: Site) -> float:
    reply = httpx.get(f"{site.api}/metrics", headers={"Authorization": f"Bearer {site.operator}"})
    lines = reply.text.splitlines()
    found = [line for line in lines if line.startswith("vllm:num_requests_running")]
    return sum(float(line.split()[-1]) for line in found)
