"""An adapter whose logits are NaN: who is answered what, and what becomes of the engine."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message

from registry.model.access import Secret
from serving import replica
from serving.endpoints import Endpoints
from serving.faults import MAX_WAITING
from serving.gate import Gate
from serving.launch import arguments, environment
from serving.settings import ServingSettings
from serving.telemetry import access_log
from serving.telemetry.verdicts import VERDICTS, Verdicts
from serving.worker import WorkerExtension
from tests.support.asking import CHAT, into, scope_of, whole
from tests.support.nan_engine import NanEngine
from tests.support.replicas import BASE, Site, answered
from tests.support.tiers import made, run, settled, use, versions
from tests.support.vllm_engine import VllmEngine

CULPRIT, OTHER = "medical/coder@1", "legal/clauses@1"
TWIN = "medical/twin@1"


@pytest.fixture(autouse=True)
def reported() -> Iterator[None]:
    """As with vLLM: the engine's statistics come here."""
    VERDICTS.reported = True
    yield
    VERDICTS.reported = False


@pytest.fixture
def upstream(site: Site) -> NanEngine:
    return NanEngine(site.engine)


async def send(
    site: Site, upstream: NanEngine, model: str, key: Secret, **fields: Any
) -> tuple[int, str]:
    """One chat request; its status and body."""
    sent: list[Message] = []
    body = json.dumps({"model": model, "messages": [], **fields}).encode()
    await Gate(upstream, site.replica)(scope_of("POST", CHAT, key), whole(body), into(sent))
    status, _, data = answered(sent)
    return status, data.decode()


def said(answer: tuple[int, str]) -> str:
    """The text of a whole answer."""
    status, body = answer
    assert status == 200, body
    return str(json.loads(body)["choices"][0]["message"]["content"])


def code(answer: tuple[int, str]) -> tuple[int, str]:
    """Status and error code."""
    return answer[0], json.loads(answer[1])["error"]["code"]


async def all_is_well(site: Site, upstream: NanEngine) -> None:
    """Everybody else is answered, and the engine is said to be sound."""
    for _ in range(3):
        assert said(await send(site, upstream, OTHER, site.legal)) == f"answer of {OTHER}"
        assert said(await send(site, upstream, BASE, site.legal)) == f"answer of {BASE}"
    assert site.engine.cache.poisoned == set()
    recovery = site.replica.residency.trials.recovery
    # What is cleaned after the last answer may still be under way.
    await settled(lambda: recovery.state != "recovering")
    assert recovery.state == "ok"


def test_a_version_with_nan_logits_is_found_before_it_serves(
    site: Site, upstream: NanEngine
) -> None:
    site.engine.overflowing = {CULPRIT}

    async def work() -> None:
        refused = await send(site, upstream, CULPRIT, site.medical)
        assert code(refused) == (422, "adapter_faulty")
        assert CULPRIT in refused[1]
        await all_is_well(site, upstream)
        assert CULPRIT not in upstream.asked
        assert list(site.replica.residency.trials.faulty) == [CULPRIT]

    run(work)


def test_a_version_is_tried_once_however_often_it_is_loaded(
    site: Site, upstream: NanEngine
) -> None:
    site.engine.overflowing = {CULPRIT}

    async def work() -> None:
        for _ in range(3):
            await asyncio.gather(
                *(send(site, upstream, CULPRIT, site.medical) for _ in range(3)),
                *(send(site, upstream, OTHER, site.legal) for _ in range(3)),
            )
        # A trial that fails is repeated once, in a clean cache.
        assert (site.engine.probes.count(CULPRIT), site.engine.probes.count(OTHER)) == (2, 1)
        assert site.engine.loads.count(CULPRIT) == 1

    run(work)


def test_nothing_of_a_failed_trial_reaches_a_request_that_runs(
    site: Site, upstream: NanEngine
) -> None:
    """A stream that runs while an adapter is tried goes on, and is right."""
    site.engine.overflowing = {CULPRIT}

    async def try_culprit() -> None:
        upstream.during = lambda: asyncio.sleep(0)
        refused = await send(site, upstream, CULPRIT, site.medical)
        assert refused[0] == 422
        assert said(await send(site, upstream, BASE, site.legal))

    async def work() -> None:
        upstream.during = try_culprit
        status, body = await send(site, upstream, OTHER, site.legal, stream=True)
        assert status == 200
        assert f"answer of {OTHER}" in body
        assert body.endswith("data: [DONE]\n\n")

    run(work)


@pytest.mark.parametrize("stream", [False, True])
def test_nan_in_traffic_is_an_error_and_its_adapter_is_refused_by_name(
    site: Site, upstream: NanEngine, stream: bool
) -> None:
    upstream.nan_in_traffic = {CULPRIT}

    async def work() -> None:
        status, body = await send(site, upstream, CULPRIT, site.medical, stream=stream)
        if stream:
            assert "[DONE]" not in body
            body = body.rstrip().rpartition("data: ")[2]
        else:
            assert status == 422
        error = json.loads(body)["error"]
        assert error["code"] == "adapter_faulty"
        assert CULPRIT in error["message"]
        await all_is_well(site, upstream)
        asked = len(upstream.asked)
        assert code(await send(site, upstream, CULPRIT, site.medical)) == (422, "adapter_faulty")
        assert len(upstream.asked) == asked, "it does not reach the engine again"

    run(work)


@pytest.mark.parametrize("model", [OTHER, BASE])
def test_a_victim_may_send_its_request_again_and_is_not_blamed(
    site: Site, upstream: NanEngine, model: str
) -> None:
    async def work() -> None:
        await send(site, upstream, model, site.legal)
        site.engine.cache.poisoned = {site.engine.cache.free[0]}
        assert code(await send(site, upstream, model, site.legal)) == (503, "engine_fault")
        await all_is_well(site, upstream)
        assert site.replica.residency.trials.faulty == {}

    run(work)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_the_engine_cut_off_is_an_error(
    site: Site, upstream: NanEngine, stream: bool
) -> None:
    upstream.aborting = True

    async def work() -> None:
        status, body = await send(site, upstream, OTHER, site.legal, stream=stream)
        assert status == (200 if stream else 503)
        assert "[DONE]" not in body
        event = body.rstrip().rpartition("data: ")[2] if stream else body
        assert json.loads(event)["error"]["code"] == "engine_fault"
        assert site.engine.calls == []

    run(work)


def test_a_trial_that_meets_another_requests_nan_condemns_nobody(
    site: Site, upstream: NanEngine
) -> None:
    site.engine.cache.poisoned = set(site.engine.cache.free)

    async def work() -> None:
        assert said(await send(site, upstream, OTHER, site.legal)) == f"answer of {OTHER}"
        site.engine.cache.poisoned = set(site.engine.cache.free)
        assert said(await send(site, upstream, CULPRIT, site.medical)) == f"answer of {CULPRIT}"
        await all_is_well(site, upstream)

    run(work)


def test_other_requests_of_a_faulty_version_end_with_its_name(
    site: Site, upstream: NanEngine
) -> None:
    async def work() -> None:
        await send(site, upstream, CULPRIT, site.medical)
        upstream.during = lambda: asyncio.sleep(20)
        other = asyncio.create_task(send(site, upstream, CULPRIT, site.medical, stream=True))
        await asyncio.sleep(0.05)
        upstream.during = lambda: asyncio.sleep(0)
        upstream.nan_in_traffic = {CULPRIT}
        await send(site, upstream, CULPRIT, site.medical)
        _, body = await asyncio.wait_for(other, 5)
        assert (
            json.loads(body.rstrip().rpartition("data: ")[2])["error"]["code"] == "adapter_faulty"
        )

    run(work)


def test_a_faulty_adapter_is_found_however_many_faults_were_explained_before(
    site: Site, upstream: NanEngine
) -> None:
    async def work() -> None:
        await send(site, upstream, OTHER, site.legal)
        for _ in range(MAX_WAITING):
            site.engine.cache.poisoned = {site.engine.cache.free[0]}
            assert code(await send(site, upstream, OTHER, site.legal)) == (503, "engine_fault")
        upstream.nan_in_traffic = {CULPRIT}
        refused = await send(site, upstream, CULPRIT, site.medical)
        assert code(refused) == (422, "adapter_faulty")

    run(work)


def test_requests_of_the_same_bytes_under_another_name_end_too(
    site: Site, upstream: NanEngine
) -> None:
    site.publish("medical", "twin", b"medical one")

    async def work() -> None:
        for name in (CULPRIT, TWIN):
            await send(site, upstream, name, site.medical)
        upstream.during = lambda: asyncio.sleep(20)
        twin = asyncio.create_task(send(site, upstream, TWIN, site.medical, stream=True))
        await settled(lambda: upstream.asked.count(TWIN) == 2)
        upstream.during = lambda: asyncio.sleep(0)
        upstream.nan_in_traffic = {CULPRIT}
        await send(site, upstream, CULPRIT, site.medical)
        _, body = await asyncio.wait_for(twin, 5)
        assert (
            json.loads(body.rstrip().rpartition("data: ")[2])["error"]["code"] == "adapter_faulty"
        )

    run(work)


def test_a_server_that_cannot_repair_its_engine_says_so_and_ends(
    site: Site, upstream: NanEngine
) -> None:
    upstream.nan_in_traffic = {CULPRIT}
    site.engine.broken_rpc = True

    async def work() -> None:
        assert code(await send(site, upstream, CULPRIT, site.medical)) == (503, "engine_fault")
        assert site.replica.residency.trials.recovery.state == "failed"
        assert site.engine.given_up == 1
        assert code(await send(site, upstream, BASE, site.legal)) == (503, "engine_fault")
        assert upstream.asked == [CULPRIT]

    run(work)


def test_health_tells_whether_the_engine_is_sound(
    site: Site, upstream: NanEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "current", lambda: site.replica)
    upstream.nan_in_traffic = {CULPRIT}
    app = FastAPI()
    app.state.engine_client = site.engine
    Endpoints().attach_router(app)

    async def told() -> tuple[int, str, int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.get("/health")
        body = answer.json()
        assert body["version"] == version("lorary"), "by which a newer registry waits for it"
        return answer.status_code, body["engine"], body["adapters"]["faulty"]

    async def work() -> None:
        await site.replica.warming.bring_up(site.replica.catalog)
        assert await told() == (200, "ok", 0)
        await send(site, upstream, CULPRIT, site.medical)
        assert await told() == (200, "ok", 1)
        site.engine.broken_rpc = True
        upstream.nan_in_traffic = {OTHER}
        await send(site, upstream, OTHER, site.legal)
        assert await told() == (503, "failed", 1)

    run(work)


def test_an_engine_whose_base_model_stays_nan_is_given_up(site: Site, upstream: NanEngine) -> None:
    site.engine.base_overflows = True

    async def work() -> None:
        site.engine.cache.poisoned = {site.engine.cache.free[0]}
        assert code(await send(site, upstream, BASE, site.legal)) == (503, "engine_fault")
        assert site.replica.residency.trials.recovery.state == "failed"
        assert site.engine.given_up == 1

    run(work)


def test_a_caller_who_leaves_does_not_leave_the_engine_frozen(
    site: Site, upstream: NanEngine
) -> None:
    upstream.nan_in_traffic = {CULPRIT}

    async def work() -> None:
        asking = asyncio.create_task(send(site, upstream, CULPRIT, site.medical))
        for _ in range(2_000_000):  # a moment after the pause, whatever the machine does
            await asyncio.sleep(0)
            if "pause" in site.engine.calls:
                break
        asking.cancel()
        await asyncio.wait((asking,))
        await settled(lambda: "resume" in site.engine.calls)
        assert site.engine.calls[:3] == ["pause", "erase", "resume"]
        assert said(await send(site, upstream, BASE, site.legal))

    run(work)


def test_a_version_stays_loaded_while_it_is_tried_though_its_caller_leaves(
    site: Site, upstream: NanEngine
) -> None:
    first, second = versions(site, 2)
    engine = VllmEngine(held=asyncio.Event())

    async def work() -> None:
        residency, _ = made(site, engine, max_names=1)
        asking = asyncio.create_task(use(residency, first))
        await settled(lambda: str(first.ref) in engine.probes)
        asking.cancel()
        await asyncio.wait((asking,))
        other = asyncio.create_task(use(residency, second))
        await asyncio.sleep(0.05)
        assert engine.holds() == {str(first.ref)}
        assert engine.held is not None
        engine.held.set()
        await other
        assert engine.loads == [str(first.ref), f"-{first.ref}", str(second.ref)]

    run(work)


def test_erasures_are_shared_by_those_who_asked_before_they_began(site: Site) -> None:
    async def work() -> None:
        recovery = site.engine.tried().recovery
        first = asyncio.create_task(recovery.clean(test=False))
        for _ in range(10):
            await asyncio.sleep(0)
        assert site.engine.calls == ["pause"]
        await asyncio.gather(*(recovery.clean(test=False) for _ in range(3)), first)
        assert site.engine.calls.count("erase") == 2

    run(work)


def test_an_adapter_without_effect_is_served_with_a_warning(
    site: Site, upstream: NanEngine, caplog: pytest.LogCaptureFixture
) -> None:
    site.engine.idle = {OTHER}
    access_log.logger.propagate = True

    async def work() -> None:
        with caplog.at_level(logging.INFO, access_log.logger.name):
            assert said(await send(site, upstream, OTHER, site.legal))
        events = [json.loads(record.message) for record in caplog.records]
        assert [e["model"] for e in events if e["event"] == "adapter_without_effect"] == [OTHER]

    run(work)


@pytest.mark.parametrize("request_id", ["chatcmpl-A-b", "cmpl-A-b-0", "cmpl-A-b-17", "resp_A-b_0"])
def test_a_verdict_finds_its_request_by_every_form_of_its_id(request_id: str) -> None:
    async def work() -> None:
        verdicts = Verdicts()
        verdicts.reported = True
        with verdicts.follow("A-b") as verdict, verdicts.follow("A") as other:
            verdicts.note(request_id, corrupted=True)
            await verdict.complete()
            assert (verdict.corrupted, other.corrupted) == (True, False)
        verdicts.note(request_id, corrupted=True)  # nobody waits for it any more

    run(work)


def test_an_answer_waits_for_the_statistics_of_all_its_sequences() -> None:
    async def work() -> None:
        verdicts = Verdicts()
        verdicts.reported = True
        with verdicts.follow("A", 2) as verdict:
            verdicts.note("cmpl-A-0", corrupted=False)
            waiting = asyncio.create_task(_completed(verdict.complete))
            await asyncio.sleep(0.01)
            assert not waiting.done()
            verdicts.note("cmpl-A-1", corrupted=True)
            await waiting
            assert verdict.corrupted

    run(work)


async def _completed(wait: Callable[[], Awaitable[None]]) -> None:
    await wait()


class Tensor:
    """Of torch's class, what is used here."""

    def __init__(self) -> None:
        self.erased = False

    def zero_(self) -> None:
        """Set to zero."""
        self.erased = True

    def numel(self) -> int:
        """How many elements it has."""
        return 3

    def element_size(self) -> int:
        """Bytes of each."""
        return 2


def test_a_worker_erases_every_tensor_of_its_cache_or_says_that_it_has_none() -> None:
    tensors = [Tensor() for _ in range(3)]
    worker = WorkerExtension()
    worker.model_runner = type("Runner", (), {"kv_caches": [tensors[0], [tensors[1], tensors[2]]]})
    assert worker.lorary_erase_kv_cache() == 18
    assert all(tensor.erased for tensor in tensors)
    worker.model_runner = type("Runner", (), {"kv_caches": []})
    with pytest.raises(RuntimeError):
        worker.lorary_erase_kv_cache()


def test_vllm_is_started_so_that_it_reports_nan_and_can_be_repaired(tmp_path: Path) -> None:
    settings = ServingSettings(home=tmp_path)
    assert environment(settings)["VLLM_COMPUTE_NANS_IN_LOGITS"] == "1"
    assert environment(settings)["VLLM_RAISE_ON_LOGIT_NANS"] == "0"
    assert "--worker-extension-cls=serving.worker.WorkerExtension" in arguments(settings)
