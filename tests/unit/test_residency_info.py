"""What routers read: the adapters that the engine holds, under the names that callers send."""

import asyncio

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from starlette.types import Message

from registry.model.catalog import Version
from serving.gate import Gate
from serving.replica import residency_snapshot
from serving.request.listing import served_names
from serving.telemetry.residency import MOST_NAMES, NAME, ResidencyInfo, Snapshot
from tests.support.asking import into, scope_of, whole
from tests.support.replicas import Site, Upstream, answered
from tests.support.tiers import made, run, settled, use, versions
from tests.support.vllm_engine import VllmEngine


def page(info: ResidencyInfo) -> list[str]:
    """The metric's lines, as a router scrapes them."""
    registry = CollectorRegistry()
    registry.register(info)
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if line.startswith(NAME)]


def info(snapshot: Snapshot | None, *times: float) -> ResidencyInfo:
    clock = iter(times)
    made_ = ResidencyInfo(lambda: next(clock))
    made_.read = lambda: snapshot
    return made_


def test_the_page_has_one_series_in_the_form_that_routers_parse() -> None:
    snapshot = Snapshot(("medical/coder@7", "medical"), ("legal/nda@1",), free=3)
    assert page(info(snapshot, 1764000000.5)) == [
        f'{NAME}{{max_lora="6",running_lora_adapters="medical/coder@7,medical",'
        'waiting_lora_adapters="legal/nda@1"} 1.7640000005e+09'
    ]


def test_it_is_as_new_as_the_pool_and_keeps_the_time_of_the_last_change() -> None:
    one = info(Snapshot(("a/b@1",), (), 1), 10.0, 20.0)
    assert page(one)[0].endswith("} 10.0")
    assert page(one)[0].endswith("} 10.0"), "nothing changed"
    one.read = lambda: Snapshot(("a/b@1", "a/c@1"), (), 0)
    (line,) = page(one)
    assert 'running_lora_adapters="a/b@1,a/c@1"' in line
    assert line.endswith("} 20.0")


def test_the_two_lists_share_no_name_and_are_bounded() -> None:
    many = tuple(f"a/b@{number}" for number in range(MOST_NAMES + 5))
    (line,) = page(info(Snapshot(many, many[:7], 0), 1.0))
    assert 'waiting_lora_adapters=""' in line
    assert line.count("a/b@") == MOST_NAMES
    assert f'max_lora="{MOST_NAMES}"' in line


def test_nothing_is_reported_before_there_is_an_engine() -> None:
    assert page(info(None)) == []


def test_the_pool_lists_what_the_engine_holds_and_what_requests_wait_for(site: Site) -> None:
    engine = VllmEngine(load_seconds=0.05)
    first, second = versions(site, 2)

    async def work() -> None:
        residency, _ = made(site, engine, max_names=5)
        assert residency.resident == []
        await use(residency, first)
        coming = asyncio.create_task(use(residency, second))
        await settled(lambda: residency.awaited == [str(second.ref)])
        assert residency.resident == [str(first.ref)]
        await coming
        assert residency.awaited == []
        assert residency.resident == [str(second.ref), str(first.ref)], "the most popular first"
        assert set(residency.resident) == {name for name in engine.loads if name[0] != "-"}
        leaving = asyncio.create_task(use(residency, first))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert residency.awaited == [], "a caller who left waits for nothing"

    run(work)


def test_an_adapter_is_listed_under_every_name_that_callers_send(site: Site) -> None:
    snapshot = residency_snapshot(site.replica)
    assert snapshot is not None
    assert snapshot.resident == ()
    places = snapshot.free
    version = site.replica.catalog.adapters["medical/coder"].versions[0]
    run(lambda: use_one(site, version))
    snapshot = residency_snapshot(site.replica)
    assert snapshot is not None
    names = set(snapshot.resident)
    assert {"medical", "medical/coder", "medical/coder@1", "medical/coder@production"} <= names
    assert snapshot.free == places - 1


def test_a_revoked_version_is_not_listed(site: Site) -> None:
    version = site.replica.catalog.adapters["medical/coder"].versions[0]
    revoked = msgspec.structs.replace(version, revoked="harm")
    adapters = site.replica.catalog.adapters
    adapter = msgspec.structs.replace(adapters["medical/coder"], versions=(revoked,))
    catalog = site.replica.catalog.changed(adapters={**adapters, "medical/coder": adapter})
    pinned = ["medical/coder@1", "medical/coder@9", "medical/gone@1"]
    assert list(served_names(catalog, pinned)) == []
    assert "medical/coder@1" in served_names(site.replica.catalog, pinned)


async def use_one(site: Site, version: Version) -> None:
    await use(site.replica.residency, version)


def scraped(site: Site) -> int:
    sent: list[Message] = []
    scope = scope_of("GET", "/metrics", None)
    asyncio.run(Gate(Upstream(), site.replica)(scope, whole(b""), into(sent)))
    return answered(sent)[0]


def test_metrics_need_a_key_unless_the_operator_opened_them(site: Site) -> None:
    assert scraped(site) == 401
    site.replica.settings = site.replica.settings.model_copy(update={"open_metrics": True})
    assert scraped(site) == 200
