"""Guarded aliases are answered by warm versions, for a bounded time by the one before."""

import asyncio

import pytest

from adapters.names import AdapterRef
from registry.model.aliases import MoveAlias
from registry.model.catalog import Catalog
from registry.model.domains import ChangePolicy
from registry.model.policies import Policy
from registry.model.versions import RevokeVersion
from serving.tiers.warming import PATIENCE_SECONDS, Warming, follow
from tests.support.replicas import BASE, Site
from tests.support.tiers import made, run, settled, use, versions
from tests.support.vllm_engine import VllmEngine

REF = AdapterRef("medical", "coder")


@pytest.fixture(autouse=True)
def guarded(site: Site) -> None:
    """Production is guarded, so what it names is to be warm."""
    policy = Policy(guarded=("production",), approvals=0)
    site.registry.execute(ChangePolicy("medical", policy, weaken=True), site.operator.id)


def catalog(site: Site) -> Catalog:
    return site.registry.refresh()


async def warmed(site: Site, engine: VllmEngine, most: int = 16) -> Warming:
    """What keeps targets warm, after its first round."""
    residency, _ = made(site, engine)
    warming = Warming(residency, BASE, most=most)
    await warming.bring_up(catalog(site))
    return warming


def test_guarded_targets_are_up_before_anybody_asks(site: Site) -> None:
    engine = VllmEngine()

    async def work() -> None:
        residency, _ = made(site, engine)
        warming = Warming(residency, BASE)
        assert not warming.ready
        await warming.bring_up(catalog(site))
        assert warming.ready
        assert engine.loads == ["medical/coder@1"]

    run(work)


def test_a_moved_alias_answers_with_the_old_version_until_the_new_one_is_warm(site: Site) -> None:
    engine = VllmEngine()

    async def work() -> None:
        warming = await warmed(site, engine)
        site.publish("medical", "coder", b"medical two")
        assert warming.resolve(catalog(site), REF).number == 1
        assert warming.resolve(catalog(site), AdapterRef("medical", "coder", 2)).number == 2
        await warming.bring_up(catalog(site))
        assert warming.resolve(catalog(site), REF).number == 2

    run(work)


def test_a_moved_alias_does_not_wait_for_ever_nor_for_a_revoked_version(site: Site) -> None:
    engine = VllmEngine()

    async def work() -> None:
        warming = await warmed(site, engine)
        site.publish("medical", "coder", b"medical two")
        engine.refusal = "it is broken"
        await warming.bring_up(catalog(site))
        assert "it is broken" in warming.failures["medical/coder@2"]
        assert warming.resolve(catalog(site), REF).number == 1
        await asyncio.sleep(PATIENCE_SECONDS + 0.1)
        assert warming.resolve(catalog(site), REF).number == 2
        site.registry.execute(MoveAlias("medical", "coder", "production", 1), site.operator.id)
        assert warming.resolve(catalog(site), REF).number == 1
        site.registry.execute(MoveAlias("medical", "coder", "production", 2), site.operator.id)
        site.registry.execute(RevokeVersion("medical", "coder", 1, "wrong"), site.operator.id)
        assert warming.resolve(catalog(site), REF).number == 2

    run(work)


def test_the_time_of_the_version_before_runs_though_nobody_asks(site: Site) -> None:
    engine = VllmEngine()

    async def work() -> None:
        warming = await warmed(site, engine)
        site.publish("medical", "coder", b"medical two")
        warming.notice(catalog(site))
        await asyncio.sleep(PATIENCE_SECONDS / 2)
        site.publish("medical", "coder", b"medical three")
        warming.notice(catalog(site))
        await asyncio.sleep(PATIENCE_SECONDS / 2 + 0.1)
        assert warming.resolve(catalog(site), REF).number == 3, "cold, but its time has come"

    run(work)


def test_bringing_up_what_an_alias_named_does_not_bring_it_back(site: Site) -> None:
    engine = VllmEngine()

    async def work() -> None:
        warming = await warmed(site, engine)
        site.publish("medical", "coder", b"medical two")
        older = catalog(site)
        site.publish("medical", "coder", b"medical three")
        await warming.bring_up(catalog(site))
        assert warming.resolve(catalog(site), REF).number == 3
        await warming.bring_up(older)
        assert warming.resolve(catalog(site), REF).number == 3

    run(work)


def test_moves_are_noticed_while_targets_are_still_brought_up(site: Site) -> None:
    engine = VllmEngine()

    async def work() -> None:
        residency, _ = made(site, engine)
        warming = Warming(residency, BASE)
        following = asyncio.create_task(follow(warming, lambda: catalog(site), 0.05))
        await settled(lambda: warming.ready)
        engine.stuck = asyncio.Event()
        site.publish("medical", "coder", b"medical two")
        await asyncio.sleep(0.2)
        site.publish("medical", "coder", b"medical three")
        await asyncio.sleep(PATIENCE_SECONDS + 0.1)
        assert warming.resolve(catalog(site), REF).number == 3
        engine.stuck.set()
        following.cancel()

    run(work)


def test_a_commit_that_moves_no_guarded_alias_warms_nothing(site: Site) -> None:
    engine = VllmEngine()
    many = versions(site, 6)

    async def work() -> None:
        residency, _ = made(site, engine, max_names=4)
        warming = Warming(residency, BASE)
        await warming.bring_up(catalog(site))
        for version in many[:2]:
            await use(residency, version)
        loads = list(engine.loads)
        site.registry.execute(MoveAlias("legal", "clauses", "production", 1), site.operator.id)
        site.registry.execute(MoveAlias("medical", "many-5", "beta", 1), site.operator.id)
        await warming.bring_up(catalog(site))
        assert engine.loads == loads
        site.publish("medical", "many-5", b"many five, second")
        await warming.bring_up(catalog(site))
        made_room, came = engine.loads[len(loads) :]
        assert (made_room[0], came) == ("-", "medical/many-5@2")
        assert {str(version.ref) for version in many[:2]} <= engine.holds()

    run(work)


def test_no_more_is_warmed_than_the_engine_can_hold(site: Site) -> None:
    engine = VllmEngine()
    versions(site, 6)

    async def work() -> None:
        warming = await warmed(site, engine, most=3)
        assert warming.ready
        assert len(engine.loads) == 3

    run(work)
