"""Which routes exist for whom, and that no others do."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from registry.errors import BadRequest
from registry.model.access import Secret
from registry.model.catalog import Grant
from registry.model.keys import IssueKey
from serving.gate import Gate
from serving.request.body import parse_hint
from serving.request.headers import DETAILS
from serving.request.routes import ROUTES
from tests.support.asking import CHAT, into, scope_of, send_to, whole
from tests.support.replicas import BASE, Site, Upstream, answered
from tests.support.tiers import settled


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/load_lora_adapter"), ("POST", "/v1/unload_lora_adapter"),
     ("POST", "/invocations"),
     ("GET", "/ping"), ("POST", "/tokenize"), ("GET", "/docs"), ("GET", "/openapi.json"),
     ("POST", "/adapters"), ("POST", "/collective_rpc"), ("POST", "/scale_elastic_ep"),
     ("GET", "/version"), ("OPTIONS", CHAT), ("GET", CHAT), ("PUT", CHAT), ("HEAD", CHAT),
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

    if path in ROUTES:
        return
    gate = Gate(upstream, replica=object())  # type: ignore[arg-type] # it must not be asked
    asyncio.run(gate(scope_of("POST", path, None), whole(b""), into(sent)))
    assert upstream.scopes == []
    assert sent[0]["status"] == 404


def test_websockets_are_closed(site: Site, upstream: Upstream) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    scope = {**scope_of("GET", "/v1/realtime", site.operator), "type": "websocket"}
    asyncio.run(Gate(upstream, site.replica)(scope, receive, into(sent)))
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_models_lists_what_the_caller_may_use(site: Site, upstream: Upstream) -> None:
    _, _, body = send_to(site, upstream, scope_of("GET", "/v1/models", site.medical))
    assert [model["id"] for model in body["data"]] == [
        BASE, "medical", "medical/coder", "medical/coder@production", "medical/coder@1"
    ]  # fmt: skip
    _, _, one = send_to(site, upstream, scope_of("GET", "/v1/models/medical", site.medical))
    assert (one["id"], one["root"]) == ("medical", "medical/coder@1")
    assert {model["max_model_len"] for model in [*body["data"], one]} == {2048}
    assert send_to(site, upstream, scope_of("GET", "/v1/models/legal", site.medical))[0] == 403


def test_metrics_take_an_operator_and_health_takes_nobody(site: Site, upstream: Upstream) -> None:
    assert send_to(site, upstream, scope_of("GET", "/metrics", site.medical))[0] == 403
    assert send_to(site, upstream, scope_of("GET", "/metrics", scraper(site)))[0] == 200
    assert send_to(site, upstream, scope_of("GET", "/metrics", site.operator))[0] == 200
    assert send_to(site, upstream, scope_of("GET", "/health", None))[0] == 200


def scraper(site: Site) -> Secret:
    """A key for metrics and nothing else."""
    secret = Secret.generate()
    command = IssueKey(secret.id, "scraper", secret.digest, (Grant("observe", "*"),))
    site.registry.execute(command, site.operator.id)
    site.replica.follower.refresh()
    return secret


def test_head_is_answered_as_get(site: Site, upstream: Upstream) -> None:
    assert send_to(site, upstream, scope_of("HEAD", "/health", None))[0] == 200
    assert upstream.scopes[0]["method"] == "GET"
    assert send_to(site, upstream, scope_of("HEAD", "/v1/models", site.medical))[0] == 200
    assert send_to(site, upstream, scope_of("HEAD", "/v1/models", None))[0] == 401


def test_only_an_operator_or_observer_of_all_domains_sees_details_of_health(
    site: Site, upstream: Upstream
) -> None:
    for key in (None, site.medical, Secret.generate(), site.operator, scraper(site)):
        assert send_to(site, upstream, scope_of("GET", "/health", key))[0] == 200
    assert [scope[DETAILS] for scope in upstream.scopes] == [False, False, False, True, True]


def test_embeddings_of_a_generating_model_are_refused_clearly(
    site: Site, upstream: Upstream
) -> None:
    body = b'{"model": "medical", "input": "x", "encoding_format": "base64"}'
    scope = scope_of("POST", "/v1/embeddings", site.medical)
    status, _, answer = send_to(site, upstream, scope, body)
    assert status == 404
    assert "makes no embeddings" in answer["error"]["message"]


def test_a_hint_may_name_its_adapter_where_a_front_looks_for_it() -> None:
    assert parse_hint(b'{"model": "medical"}') == ["medical"]
    assert parse_hint(b'{"models": ["medical", "legal"]}') == ["medical", "legal"]
    for wrong in (b'{"model": 7}', b'{"model": ["medical"]}', b"{}"):
        with pytest.raises(BadRequest):
            parse_hint(wrong)


def test_a_hint_brings_versions_up_that_the_caller_may_use(site: Site, upstream: Upstream) -> None:
    async def hint(models: Any, key: Secret) -> tuple[int, Any]:
        sent: list[Message] = []
        scope = scope_of("POST", "/v1/adapters/prefetch", key)
        body = json.dumps({"models": models}).encode()
        await Gate(upstream, site.replica)(scope, whole(body), into(sent))
        status, _, data = answered(sent)
        return status, json.loads(data)

    async def hint_and_wait() -> tuple[int, Any]:
        answer = await hint(["medical"], site.medical)
        await settled(lambda: bool(site.engine.loads))
        return answer

    status, body = asyncio.run(hint_and_wait())
    assert (status, body) == (202, {"adapters": {"medical/coder@1": "bucket"}})
    assert site.engine.loads == ["medical/coder@1"]
    assert asyncio.run(hint(["medical"], site.legal))[0] == 403
    assert asyncio.run(hint("medical", site.medical))[0] == 400
    assert upstream.scopes == []
