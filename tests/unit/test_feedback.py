"""Ids that prove themselves, and feedback that is refused before the registry is asked."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from adapters.errors import LoraryError
from adapters.names import AdapterRef
from registry.client import RegistryClient
from registry.errors import BadRequest
from registry.model.access import Secret
from registry.model.aliases import MoveAlias
from registry.model.base import Command
from registry.model.canary import RollBackSplit, SplitAlias
from registry.model.catalog import Version
from registry.model.feedback import FeedbackGiven, GiveFeedback
from registry.model.trials import Arm, Evidence
from serving.errors import LimitReached, UnknownResponse
from serving.gate import Gate
from serving.outcomes.feedback import FEEDBACK_FIELDS, parse_feedback
from serving.outcomes.reporting import MAX_WAITING, Reports
from serving.outcomes.response_ids import ResponseIds
from serving.request.body import json_object
from tests.support.asking import CHAT, chat, into, scope_of, send_to, whole
from tests.support.catalogs import FACTS
from tests.support.replicas import BASE, Site, Upstream, answered, make_site
from tests.support.servers import free_port

IDS = ResponseIds("shared by all replicas")
VERSION = Version(
    domain="medical", adapter="coder", number=7, digest="0" * 64, base="tiny", files=(),
    facts=FACTS, publisher="p", published="2026-11-24T03:00:00Z",
)  # fmt: skip


def test_every_replica_of_a_deployment_reads_what_another_issued_and_strangers_do_not() -> None:
    given_id = "chatcmpl-" + IDS.issue(CHAT, VERSION, "key-1")
    read = ResponseIds("shared by all replicas").read(given_id)
    assert (read.ref, read.key) == (AdapterRef("medical", "coder", version=7), "key-1")
    for others in (ResponseIds("another deployment"), ResponseIds(""), ResponseIds("")):
        with pytest.raises(UnknownResponse):
            others.read(given_id)
    assert IDS.read("chatcmpl-" + IDS.issue(CHAT, None, "key-1")).ref is None
    chosen = IDS.read("chatcmpl-" + IDS.issue(CHAT, VERSION, "key-1", ("production", 3)))
    assert (chosen.alias, chosen.split) == ("production", 3)
    assert (chosen.ref, chosen.key) == (read.ref, read.key)
    assert (read.alias, read.split) == (None, 0)


@given(st.integers(0, 400), st.characters(codec="ascii"))
def test_no_letter_of_an_id_can_be_changed(place: int, letter: str) -> None:
    good = "chatcmpl-" + IDS.issue(CHAT, VERSION, "key-1")
    at = place % len(good)
    changed = good[:at] + letter + good[at + 1 :]
    if changed != good:
        with pytest.raises(UnknownResponse):
            IDS.read(changed)
    for other in (good.replace("chatcmpl-", "cmpl-"), good + "=", good + "A", good[9:]):
        with pytest.raises(UnknownResponse):
            IDS.read(other)


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_any_text_is_an_id_of_ours_or_unknown(text: str) -> None:
    for candidate in (text, f"chatcmpl-{text}"):
        with pytest.raises(UnknownResponse):
            IDS.read(candidate)


@given(st.binary() | st.recursive(
    st.none() | st.booleans() | st.text(),
    lambda inner: st.dictionaries(
        st.sampled_from(["id", "rating", "category", "comment", "x"]), inner, max_size=5
    ),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_body_is_feedback_or_refused(data: bytes) -> None:
    try:
        parse_feedback(json_object(data, FEEDBACK_FIELDS))
    except LoraryError as error:
        assert isinstance(error, BadRequest)  # noqa: PT017 - or it is well-formed


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Its registry's service is down."""
    url = f"http://127.0.0.1:{free_port()}"
    key = Secret.generate().text
    made = make_site(tmp_path, serving_key=key, registry_url=url)
    yield made
    made.registry.close()


def asked(site: Site, key: Secret, model: str = "medical") -> str:
    """The id that vLLM would give the answer of a request."""
    upstream = Upstream()
    assert chat(site, upstream, model, key)[0] == 200
    headers: dict[bytes, bytes] = dict(upstream.scopes[0]["headers"])
    return "chatcmpl-" + headers[b"x-request-id"].decode()


def feedback(site: Site, key: Secret | None, **fields: Any) -> tuple[int, dict[str, str], Any]:
    body = json.dumps({"rating": "negative", **fields}).encode()
    return send_to(site, Upstream(), scope_of("POST", "/v1/feedback", key), body)


def test_feedback_takes_an_answer_of_ones_own(site: Site) -> None:
    ours, base = asked(site, site.medical), asked(site, site.medical, BASE)
    for key, response, status, code in (
        (None, ours, 401, "invalid_api_key"),
        (site.legal, ours, 403, "forbidden"),
        (site.medical, "chatcmpl-made-up", 404, "response_not_found"),
        (site.medical, base, 400, "invalid_request"),
        (site.medical, 7, 400, "invalid_request"),
    ):
        got, _, body = feedback(site, key, id=response)
        assert (got, body["error"]["code"]) == (status, code)
        assert set(body["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "fields",
    [{"rating": "bad"}, {"rating": None}, {"category": "rude"}, {"comment": 7}, {"more": 1},
     {"comment": "x" * 2001}],
)  # fmt: skip
def test_malformed_feedback_is_refused(site: Site, fields: dict[str, Any]) -> None:
    got, _, body = feedback(site, site.medical, **{"id": "chatcmpl-x", **fields})
    assert (got, body["error"]["code"]) == (400, "invalid_request")


def test_no_words_of_a_user_reach_the_log(site: Site) -> None:
    sent: list[Command] = []

    class Registry(Reports):
        async def send(self, command: Command) -> dict[str, Any]:
            sent.append(command)
            return {"counted": True}

    site.replica.reports = Registry("http://127.0.0.1:1", Secret.generate().text)
    response = asked(site, site.medical)
    status, _, told = feedback(site, site.medical, id=response, comment="a patient's words")
    assert (status, told["comment_kept"]) == (200, False)
    assert len(sent) == 1
    assert "patient" not in repr(sent)
    assert "comment" not in FeedbackGiven.__struct_fields__


def test_a_rollback_is_reported_however_many_ratings_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """One key's opinions may take every place."""
    reports, go = Reports("http://127.0.0.1:1", Secret.generate().text), threading.Event()

    class Slow(RegistryClient):
        def execute(self, command: Command) -> dict[str, Any]:
            if isinstance(command, GiveFeedback):
                go.wait(60)
            return {"of": type(command).__name__}

    monkeypatch.setattr(reports, "_client", Slow("http://127.0.0.1:1", Secret.generate().text))
    opinion = GiveFeedback("medical", "coder", 2, "chatcmpl-1", 1, "app", "negative")
    seen = Evidence(candidate=Arm(), stable=Arm())
    rollback = RollBackSplit("medical", "coder", "production", 2, 1, "error_rate", seen)

    async def work() -> dict[str, Any]:
        opinions = [asyncio.create_task(reports.send(opinion)) for _ in range(MAX_WAITING)]
        await asyncio.sleep(0)
        try:
            with pytest.raises(LimitReached):
                await reports.send(opinion)
            told = asyncio.create_task(reports.send(rollback))
            await asyncio.sleep(0)
        finally:
            go.set()
        await asyncio.gather(*opinions)
        return await told

    assert asyncio.run(work()) == {"of": "RollBackSplit"}


def test_where_the_registry_is_silent_the_app_gets_retry_after(site: Site) -> None:
    response = asked(site, site.medical)
    status, headers, body = feedback(site, site.medical, id=response)
    assert (status, body["error"]["code"]) == (503, "feedback_unavailable")
    assert headers["retry-after"]
    assert site.replica.settings.registry_url not in body["error"]["message"]


def test_a_replica_without_a_key_says_that_it_takes_no_feedback(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    status, _, body = feedback(site, site.medical, id=asked(site, site.medical))
    site.registry.close()
    assert (status, body["error"]["code"]) == (503, "feedback_disabled")


def test_feedback_counts_against_a_keys_limit(tmp_path: Path) -> None:
    site = make_site(tmp_path, key_requests_per_minute=2)
    statuses = [feedback(site, site.medical, id="chatcmpl-x")[0] for _ in range(3)]
    site.registry.close()
    assert statuses == [404, 404, 429]


def test_waiting_for_the_registry_holds_up_nobody_else(site: Site) -> None:
    """Requests are answered while opinions wait for a service that does not answer."""

    async def work() -> list[int]:
        hung = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
        port = hung.sockets[0].getsockname()[1]
        slow = make_site(
            site.folder / "slow",
            serving_key=Secret.generate().text,
            registry_url=f"http://127.0.0.1:{port}",
        )
        gate = Gate(upstream, slow.replica)
        response = "chatcmpl-" + slow.replica.response_ids.issue(
            CHAT, slow.registry.catalog.adapters["medical/coder"].versions[0], slow.medical.id
        )
        opinion = json.dumps({"id": response, "rating": "negative"}).encode()
        waiting = [
            asyncio.create_task(call(gate, slow.medical, "/v1/feedback", opinion))
            for _ in range(40)
        ]
        await asyncio.sleep(0.1)
        asked = json.dumps({"model": "medical", "messages": []}).encode()
        statuses = [await call(gate, slow.medical, CHAT, asked) for _ in range(3)]
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        hung.close()
        slow.registry.close()
        return statuses

    upstream = Upstream()
    assert asyncio.run(work()) == [200, 200, 200]


async def call(gate: Gate, key: Secret, path: str, body: bytes) -> int:
    sent: list[Message] = []
    await gate(scope_of("POST", path, key), whole(body), into(sent))
    return answered(sent)[0]


def test_an_answers_id_says_which_split_chose_its_version(site: Site) -> None:
    site.publish("medical", "coder", b"medical two")
    operator = site.operator.id
    site.registry.execute(MoveAlias("medical", "coder", "production", 1), operator)
    site.registry.execute(SplitAlias("medical", "coder", "production", 2, 50), operator)
    site.replica.follower.refresh()
    ids = site.replica.response_ids
    for model, chosen in (
        ("medical", ("production", 1)), ("medical/coder@production", ("production", 1)),
        ("medical/coder@2", (None, 0)), ("medical/coder@1", (None, 0)),
    ):  # fmt: skip
        answered = ids.read(asked(site, site.medical, model))
        assert (answered.alias, answered.split) == chosen
