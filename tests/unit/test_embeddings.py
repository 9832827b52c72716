"""`/v1/embeddings` of a base model that makes them."""

import base64
import json
import struct
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from serving.request.embeddings import is_finite
from serving.telemetry.verdicts import Verdicts
from tests.support.asking import CHAT, scope_of, send_to
from tests.support.replicas import Site, Upstream, make_site

EMBEDDINGS = "/v1/embeddings"
APP = Starlette(routes=[Route(EMBEDDINGS, lambda _: Response())])
"""vLLM's application over a model that makes embeddings and no text."""


def packed(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def answer(*embeddings: Any) -> bytes:
    data = [{"object": "embedding", "index": n, "embedding": e} for n, e in enumerate(embeddings)]
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    return json.dumps(
        {"object": "list", "data": data, "usage": usage}, separators=(",", ":")
    ).encode()


def ask(site: Site, upstream: Any, path: str = EMBEDDINGS, **body: Any) -> tuple[int, Any]:
    scope = {**scope_of("POST", path, site.medical), "app": APP}
    given = {"model": "medical", "input": ["a", "b"]} | body
    status, _, shown = send_to(site, upstream, scope, json.dumps(given).encode())
    return status, shown


def test_embeddings_reach_vllm_pinned_salted_and_in_order(site: Site) -> None:
    upstream = Upstream(pieces=(answer([0.5, -0.5]),))
    status, shown = ask(site, upstream)
    assert (status, shown["data"][0]["embedding"]) == (200, [0.5, -0.5])
    passed = json.loads(upstream.bodies[0])
    assert len(passed.pop("cache_salt")) == 64
    assert passed == {"model": "medical/coder@1", "input": ["a", "b"], "priority": 2}


def test_a_base_that_makes_embeddings_alone_says_so_where_text_is_asked_for(site: Site) -> None:
    upstream = Upstream()
    status, shown = ask(site, upstream, CHAT, input=None, messages=[])
    assert status == 404
    assert "embeddings alone" in shown["error"]["message"]
    assert upstream.bodies == []


def test_embeddings_reserve_no_tokens_of_an_answer(tmp_path: Any) -> None:
    """A request of 32 short texts once reserved 32 contexts of the key's minute."""
    site = make_site(tmp_path, key_tokens_per_minute=1_000)
    reserved: list[int] = []

    async def vllm(scope: Scope, receive: Receive, send: Send) -> None:
        bucket = site.replica.limits.tokens._buckets[site.medical.id]
        reserved.append(int(1_000 - bucket._left))
        await Upstream(pieces=(answer([0.5]),))(scope, receive, send)

    for _ in range(2):
        assert ask(site, vllm, input=["a"] * 32)[0] == 200
    assert all(count < 200 for count in reserved)
    site.registry.close()


def test_a_verdict_finds_an_embeddings_request() -> None:
    """Else each answer waits a second for it."""
    verdicts = Verdicts()
    verdicts.reported = True
    with verdicts.follow("ID", 2) as verdict:
        verdicts.note("embd-ID-0", corrupted=False)
        verdicts.note("embd-ID-1", corrupted=True)
        assert verdict.corrupted


@pytest.mark.parametrize(
    ("body", "finite"),
    [
        (answer([0.5]), True), (answer(packed(0.5, -1)), True), (b'{"data": []}', True),
        (answer(packed(0.5), packed(float("nan"))), False), (answer(packed(float("inf"))), False),
        (answer("no base64!"), False), (answer(packed(0.5))[:-9], False),
    ],
)  # fmt: skip
def test_nan_in_base64_is_found(body: bytes, finite: bool) -> None:
    assert is_finite(body) is finite


def test_an_embedding_of_nan_is_never_given_and_quarantines_its_adapter(site: Site) -> None:
    upstream = Upstream(pieces=(answer(packed(float("nan"))),))
    status, shown = ask(site, upstream, encoding_format="base64")
    assert (status, shown["error"]["code"]) == (422, "adapter_faulty")
    assert len(upstream.bodies) == 3, "asked, and repeated twice"
