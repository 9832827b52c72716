"""A candidate that also answers callers' requests: never at their cost, and never stored."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from starlette.types import Message, Receive, Scope, Send

from registry.model.aliases import MoveAlias
from registry.model.base import Command
from registry.model.canary import SplitAlias
from registry.model.comparisons import Comparison
from registry.model.domains import ChangePolicy
from registry.model.policies import Policy
from registry.model.shadow import EndShadow, StartShadow
from registry.model.versions import RevokeVersion
from serving import shadow
from serving.gate import Gate
from serving.shadow_copies import LAST
from serving.telemetry.verdicts import VERDICTS, Times
from tests.support.asking import CHAT, into, leaving_after, scope_of, whole
from tests.support.replicas import Site, answered, make_site
from tests.support.tiers import settled

STABLE, CANDIDATE = "medical/coder@1", "medical/coder@2"
NAME = ("medical/coder", "production", 1)
GREEDY = {"model": "medical", "messages": [{"role": "user", "content": "SECRET"}], "temperature": 0}


@dataclass
class Model:
    """vLLM with two adapters: it answers each request as told, whole or as a stream."""

    says: dict[str, str] = field(default_factory=lambda: {STABLE: "J45", CANDIDATE: "J45"})
    bodies: list[dict[str, Any]] = field(default_factory=list)
    scopes: list[Scope] = field(default_factory=list)
    hold: dict[str, asyncio.Event] = field(default_factory=dict)
    """What a version's answer waits for, if it shall."""
    running: set[str] = field(default_factory=set)
    status: dict[str, int] = field(default_factory=dict)
    corrupted: set[str] = field(default_factory=set)
    times: dict[str, Times] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = json.loads((await receive())["body"])
        name = body["model"]
        self.bodies.append(body)
        self.scopes.append(scope)
        if name in self.hold:
            self.running.add(name)
            held = asyncio.create_task(self.hold[name].wait())
            left = asyncio.create_task(_left(receive))
            try:
                await asyncio.wait({held, left}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self.running.discard(name)
                left.cancel()
            if not held.done():
                held.cancel()
                return
        request_id = dict(scope["headers"])[b"x-request-id"].decode()
        VERDICTS.note(
            f"chatcmpl-{request_id}",
            corrupted=name in self.corrupted,
            times=self.times.get(name),
        )
        usage = {"prompt_tokens": 5, "completion_tokens": 2}
        stream = body.get("stream", False)
        kind = b"text/event-stream" if stream else b"application/json"
        said = {"content": self.says[name]}
        part = {"choices": [{"index": 0, ("delta" if stream else "message"): said}], "usage": usage}
        data = json.dumps(part).encode()
        pieces = [b"data: " + data + b"\n\n", b"data: [DONE]\n\n"] if stream else [data]
        status = self.status.get(name, 200)
        headers = [(b"content-type", kind)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def asked(self, name: str) -> list[dict[str, Any]]:
        return [body for body in self.bodies if body["model"] == name]


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Every request for production is also answered by version 2."""
    made = make_site(tmp_path)
    made.publish("medical", "coder", b"medical two")
    tell(made, MoveAlias("medical", "coder", "production", 1))
    tell(made, StartShadow("medical", "coder", "production", 2, 1.0))
    yield made
    made.registry.close()


def tell(site: Site, command: Command) -> None:
    site.registry.execute(command, site.operator.id)
    site.replica.follower.refresh()


async def ask(gate: Gate, site: Site, headers: dict[str, str] | None = None, /, **body: Any) -> str:
    """One request; the text of the answer, or its status."""
    sent: list[Message] = []
    scope = scope_of("POST", CHAT, site.medical, **(headers or {}))
    await gate(scope, whole(json.dumps({**GREEDY, **body}).encode()), into(sent))
    status, _, data = answered(sent)
    if status != 200:
        return str(status)
    if data.startswith(b"data: "):
        return json.loads(data.split(b"\n\n")[0][6:])["choices"][0]["delta"]["content"]  # type: ignore[no-any-return]
    return json.loads(data)["choices"][0]["message"]["content"]  # type: ignore[no-any-return]


def seen(site: Site) -> Comparison:
    return site.replica.shadows.totals.of(NAME)


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 30))


def asking(site: Site, model: Model, count: int = 1, /, **body: Any) -> list[str]:
    """So many requests one after the other, each copy's outcome awaited; what callers got."""
    got = []

    async def work() -> None:
        gate = Gate(model, site.replica)
        headers = body.pop("headers", None)
        for _ in range(count):
            got.append(await ask(gate, site, headers, **body))
            await site.replica.shadows.idle()

    run(work)
    return got


def dropped(reason: str) -> float:
    return REGISTRY.get_sample_value("lorary_shadow_dropped_total", {"reason": reason}) or 0.0


def test_callers_get_the_stable_versions_answers_and_the_candidates_are_compared(
    site: Site, model: Model
) -> None:
    assert asking(site, model, 2) == ["J45", "J45"]
    model.says[CANDIDATE] = "J46"
    assert asking(site, model, 1) == ["J45"]
    total = seen(site)
    assert (total.compared, total.texts, total.same_text, total.same_first) == (3, 3, 2, 2)
    assert (total.tokens, total.candidate_tokens) == (6, 6)
    assert (total.failed, total.dropped) == (0, 0)


def test_a_copy_is_behind_every_callers_request_and_shares_its_callers_cache(
    site: Site, model: Model
) -> None:
    trace = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "user_agent": "app"}
    asking(site, model, stream=True, logprobs=True, headers=trace)
    (given,), (copy,) = model.asked(STABLE), model.asked(CANDIDATE)
    assert copy["priority"] == LAST > 1_000_000 > given["priority"]
    assert copy["cache_salt"] == given["cache_salt"]
    assert copy["messages"] == given["messages"]
    assert not {"stream", "stream_options", "logprobs"} & copy.keys()
    assert b"traceparent" in dict(model.scopes[0]["headers"])
    assert b"traceparent" not in dict(model.scopes[1]["headers"])
    ids = [dict(scope["headers"])[b"x-request-id"] for scope in model.scopes]
    assert ids[0] != ids[1]


def test_a_streams_text_is_compared_with_the_whole_answer(site: Site, model: Model) -> None:
    assert asking(site, model, stream=True) == ["J45"]
    assert (seen(site).compared, seen(site).same_text) == (1, 1)


def test_texts_are_compared_at_temperature_0_and_without_tools_only(
    site: Site, model: Model
) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    asking(site, model, temperature=0.7)
    asking(site, model, temperature=None)
    asking(site, model, tools=[tool])
    assert (seen(site).compared, seen(site).texts) == (3, 0)


def test_an_expected_answer_scores_both(site: Site, model: Model) -> None:
    model.says = {STABLE: "Zo\u00eb", CANDIDATE: "zo\u00eb."}
    asking(site, model, headers={"x_lorary_expected": "Zo%C3%AB"})
    model.says[STABLE] = "other"
    asking(site, model, headers={"x_lorary_expected": "Zo%C3%AB"})
    asking(site, model, headers={"x_lorary_expected": "x" * 513})
    total = seen(site)
    assert (total.compared, total.scored, total.correct) == (3, 2, 1)
    assert (total.gained, total.lost) == (1, 0)


def test_the_engines_times_of_both_are_compared(site: Site, model: Model) -> None:
    model.times = {STABLE: Times(0.1, 0.02, 8), CANDIDATE: Times(0.4, 0.01, 8)}
    asking(site, model)
    total = seen(site)
    assert (total.timed, total.first_slower, total.token_slower) == (1, 1, 0)
    assert total.candidate_first_seconds == 0.4
    assert VERDICTS._timed == {}, "nothing is kept of a request that has ended"


@pytest.mark.parametrize(
    "body",
    [
        {"model": "medical/coder@1"},
        {"model": "medical/coder@2"},
        {"model": "medical/coder@beta"},
        {"model": "tiny"},
        {"n": 2},
    ],
)
def test_what_names_a_version_another_alias_or_several_answers_is_not_copied(
    site: Site, model: Model, body: dict[str, Any]
) -> None:
    tell(site, MoveAlias("medical", "coder", "beta", 1))
    model.says |= {"tiny": "base"}
    asking(site, model, **body)
    assert len(model.bodies) == 1
    assert seen(site) == Comparison()


def test_a_request_that_a_canary_answers_is_not_compared(site: Site, model: Model) -> None:
    site.publish("medical", "coder", b"medical three")
    tell(site, MoveAlias("medical", "coder", "production", 1))
    tell(site, StartShadow("medical", "coder", "production", 2, 1.0))
    tell(site, SplitAlias("medical", "coder", "production", 3, 99))
    model.says["medical/coder@3"] = "new"
    got = [asking(site, model, user=str(number))[0] for number in range(20)]
    given = got.count("J45")
    assert len(model.asked(CANDIDATE)) == given < 10


def test_about_that_share_of_requests_is_copied(site: Site, model: Model) -> None:
    tell(site, StartShadow("medical", "coder", "production", 2, 0.25))
    asking(site, model, 80)
    copied = len(model.asked(CANDIDATE))
    # Four standard deviations of a binomial.
    assert abs(copied - 20) <= 4 * (80 * 0.25 * 0.75) ** 0.5


def test_failures_are_the_candidates_alone(site: Site, model: Model) -> None:
    model.status[CANDIDATE] = 500
    assert asking(site, model) == ["J45"]
    assert (seen(site).compared, seen(site).failed) == (0, 1)
    model.status = {STABLE: 500}
    assert asking(site, model) == ["500"]
    assert (seen(site).compared, seen(site).failed) == (0, 1), "there was nothing to compare with"
    assert len(model.asked(CANDIDATE)) == 1


def test_a_candidate_that_the_engine_cannot_load_fails_alone(site: Site, model: Model) -> None:
    asking(site, model, model="medical/coder@1")
    site.engine.refusal = "too large"
    assert asking(site, model) == ["J45"]
    assert (seen(site).failed, seen(site).dropped) == (1, 0)


def test_a_candidate_with_nan_is_quarantined_and_callers_go_on(
    site: Site, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VERDICTS, "reported", True)
    model.corrupted.add(CANDIDATE)
    assert asking(site, model, 2) == ["J45", "J45"]
    assert CANDIDATE in site.replica.residency.trials.faulty
    assert seen(site).failed == 2
    assert "erase" in site.engine.calls, "what it left in the KV cache is erased"


def test_a_copy_is_not_charged_to_its_caller(tmp_path: Path, model: Model) -> None:
    bounds = {"key_requests_per_minute": 4, "key_tokens_per_minute": 1000, "key_concurrency": 1}
    site = make_site(tmp_path, **bounds)
    site.publish("medical", "coder", b"medical two")
    tell(site, MoveAlias("medical", "coder", "production", 1))
    tell(site, StartShadow("medical", "coder", "production", 2, 1.0))
    assert asking(site, model, 5, max_tokens=2) == ["J45"] * 4 + ["429"]
    assert seen(site).compared == 4

    async def beside() -> None:
        gate = Gate(model, site.replica)
        site.replica.limits.requests.settle(site.medical.id, -3)
        model.hold[CANDIDATE] = asyncio.Event()
        assert await ask(gate, site, max_tokens=2) == "J45"
        await settled(lambda: CANDIDATE in model.running)
        assert await ask(gate, site, max_tokens=2) == "J45", "the key's one request is free again"
        model.hold[CANDIDATE].set()
        await site.replica.shadows.idle()

    run(beside)
    site.registry.close()


def test_nothing_is_asked_while_the_engine_is_busy(site: Site, model: Model) -> None:
    before = dropped("busy")

    async def work() -> None:
        gate = Gate(model, site.replica)
        shares = site.replica.shares
        async with shares.take("a", 28), shares.take("b", 12), shares.take("c", 8):
            assert shares.free == shares.places // 4
            assert await ask(gate, site) == "J45"
            await site.replica.shadows.idle()
        assert await ask(gate, site) == "J45"
        await site.replica.shadows.idle()

    run(work)
    assert (seen(site).compared, seen(site).dropped) == (1, 1)
    assert dropped("busy") == before + 1
    assert len(model.asked(CANDIDATE)) == 1


@pytest.mark.parametrize("way", ["crowd", "slot", "end", "revoke", "move", "shutdown"])
def test_a_copy_that_runs_is_ended_as_soon_as_it_may_not_go_on(
    site: Site, model: Model, way: str
) -> None:
    async def work() -> None:
        gate, replica = Gate(model, site.replica), site.replica
        model.hold[CANDIDATE] = asyncio.Event()
        assert await ask(gate, site) == "J45"
        await settled(lambda: CANDIDATE in model.running)
        shares, waiting = replica.shares, asyncio.create_task(asyncio.sleep(0))
        if way == "crowd":
            async with shares.take("a", 28), shares.take("b", 12), shares.take("c", 8):
                await settled(lambda: not model.running)
        elif way == "slot":
            turns = replica.ranks._ranks[0].slots

            async def wants() -> None:
                async with turns.take("other"):
                    pass

            turns._slots = 1
            waiting = asyncio.create_task(wants())
        elif way == "end":
            tell(site, EndShadow("medical", "coder", "production"))
        elif way == "revoke":
            tell(site, RevokeVersion("medical", "coder", 2, "wrong"))
        elif way == "move":
            tell(site, MoveAlias("medical", "coder", "production", 2))
        else:
            replica.inflight.closing = True
        began = asyncio.get_running_loop().time()
        await settled(lambda: not model.running)
        await waiting
        await replica.shadows.idle()
        assert asyncio.get_running_loop().time() - began < 5
        assert len(replica.inflight) == 0

    run(work)
    assert (seen(site).compared, seen(site).failed, seen(site).dropped) == (0, 0, 1)


def test_a_copy_that_takes_too_long_is_ended(
    site: Site, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "COPY_SECONDS", 0.05)
    before = dropped("deadline_exceeded")

    async def work() -> None:
        model.hold[CANDIDATE] = asyncio.Event()
        assert await ask(Gate(model, site.replica), site) == "J45"
        await site.replica.shadows.idle()

    run(work)
    assert seen(site).dropped == 1
    assert dropped("deadline_exceeded") == before + 1


def test_a_few_copies_run_at_once_a_bounded_number_waits_and_the_rest_is_dropped(
    site: Site, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "MAX_WAITING", 3)
    before = dropped("queue_full")

    async def work() -> None:
        gate = Gate(model, site.replica)
        model.hold[CANDIDATE] = asyncio.Event()
        assert await ask(gate, site) == "J45"
        await settled(lambda: len(model.asked(CANDIDATE)) == 1)
        for _ in range(7):
            assert await ask(gate, site) == "J45"
            await settled(lambda: len(model.asked(CANDIDATE)) == 2)
        assert site.replica.settings.shadow_concurrency == 2
        model.hold[CANDIDATE].set()
        await site.replica.shadows.idle()

    run(work)
    assert (seen(site).compared, seen(site).dropped) == (5, 3)
    assert dropped("queue_full") == before + 3


def test_copies_that_wait_hold_a_bounded_number_of_bytes(
    site: Site, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "MAX_WAITING_BYTES", 1000)
    before = dropped("queue_full")
    asking(site, model, messages=[{"role": "user", "content": "x" * 1000}])
    assert dropped("queue_full") == before + 1
    asking(site, model, 8)
    assert seen(site).compared == 8, "what was answered waits no more"


def test_a_domains_copies_are_bounded_by_tokens_a_minute(tmp_path: Path, model: Model) -> None:
    site = make_site(tmp_path, shadow_tokens_per_minute=100)
    site.publish("medical", "coder", b"medical two")
    tell(site, MoveAlias("medical", "coder", "production", 1))
    tell(site, StartShadow("medical", "coder", "production", 2, 1.0))
    before = dropped("budget")
    # Each is taken for up to 60 tokens and uses 7, so the rest is given back.
    asking(site, model, 6, max_tokens=30)
    assert seen(site).compared == 6
    asking(site, model, 1, max_tokens=90)
    assert dropped("budget") == before + 1
    site.registry.close()


def test_no_shadow_traffic_where_the_operator_wants_none(tmp_path: Path, model: Model) -> None:
    site = make_site(tmp_path, shadow_concurrency=0)
    site.publish("medical", "coder", b"medical two")
    tell(site, MoveAlias("medical", "coder", "production", 1))
    tell(site, StartShadow("medical", "coder", "production", 2, 1.0))
    assert asking(site, model) == ["J45"]
    assert (len(model.bodies), seen(site)) == (1, Comparison())
    site.registry.close()


def test_a_caller_who_leaves_leaves_nothing_to_compare(site: Site, model: Model) -> None:
    async def work() -> None:
        model.hold[STABLE] = asyncio.Event()
        leave = asyncio.Event()
        scope = scope_of("POST", CHAT, site.medical)
        receive = leaving_after(json.dumps(GREEDY).encode(), leave)
        request = asyncio.create_task(Gate(model, site.replica)(scope, receive, into([])))
        await settled(lambda: STABLE in model.running)
        leave.set()
        await request
        await site.replica.shadows.idle()

    run(work)
    assert (model.asked(CANDIDATE), seen(site)) == ([], Comparison())
    assert VERDICTS._timed == {}


def test_no_word_of_a_prompt_or_an_answer_is_logged_or_measured(
    site: Site, model: Model, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("lorary.serving"), "propagate", True)
    model.says = {STABLE: "SECRET one", CANDIDATE: "SECRET two"}
    with caplog.at_level(logging.INFO, logger="lorary.serving"):
        asking(site, model, headers={"x_lorary_expected": "SECRET"})
        model.status[CANDIDATE] = 500
        asking(site, model)
    assert "shadow_failed" in caplog.text
    assert "SECRET" not in caplog.text
    for metric in REGISTRY.collect():
        assert "SECRET" not in str(metric.samples)
    assert not any(b"SECRET" in path.read_bytes() for path in site.folder.rglob("*.json"))


@pytest.mark.parametrize("allowed", [True, False])
def test_texts_are_kept_only_where_the_domain_allows_what_the_operator_asks_for(
    tmp_path: Path, model: Model, allowed: bool
) -> None:
    folder = tmp_path / "texts"
    site = make_site(tmp_path, shadow_folder=folder)
    site.publish("medical", "coder", b"medical two")
    tell(site, MoveAlias("medical", "coder", "production", 1))
    tell(site, StartShadow("medical", "coder", "production", 2, 1.0))
    if allowed:
        tell(site, ChangePolicy("medical", Policy(guarded=(), shadow_texts=True), weaken=True))
    model.says[CANDIDATE] = "J46"
    asking(site, model, headers={"x_lorary_expected": "J46"})
    assert seen(site).compared == 1
    if not allowed:
        assert not folder.exists()
        return
    (path,) = folder.iterdir()
    kept = json.loads(path.read_text())
    assert kept["alias"] == "medical/coder@production"
    assert (kept["given"], kept["answered"], kept["expected"]) == ("J45", "J46", "J46")
    assert kept["request"] == {**GREEDY, "model": STABLE}
    site.registry.close()


def test_series_tell_outcomes_and_agreement_by_alias(site: Site, model: Model) -> None:
    labels = {"domain": "medical", "adapter": "coder", "alias": "production"}

    def value(name: str, **more: str) -> float:
        return REGISTRY.get_sample_value(name, {**labels, **more}) or 0.0

    def now() -> tuple[float, ...]:
        return (
            value("lorary_shadow_requests_total", outcome="compared"),
            value("lorary_shadow_agreement_total", part="text", same="no"),
            value("lorary_shadow_agreement_total", part="first_word", same="yes"),
            value("lorary_shadow_tokens_total", side="candidate"),
            value("lorary_shadow_correct_total", side="given"),
            value("lorary_shadow_first_token_seconds_count", side="candidate"),
        )

    version = {"domain": "medical", "adapter": "coder", "version": "2", "status": "200"}

    def callers() -> float:
        return REGISTRY.get_sample_value("lorary_requests_total", version) or 0.0

    before, of_callers = now(), callers()
    model.says = {STABLE: "J45 a", CANDIDATE: "J45 b"}
    model.times = {STABLE: Times(0.1, 0.02, 8), CANDIDATE: Times(0.4, 0.01, 8)}
    asking(site, model, headers={"x_lorary_expected": "j45 A"})
    after = now()
    grown = tuple(late - early for late, early in zip(after, before, strict=True))
    assert grown == (1, 1, 1, 2, 1, 1)
    assert callers() == of_callers, "a candidate's answers are no caller's requests"
