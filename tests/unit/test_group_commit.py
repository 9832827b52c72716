"""Commands that wait at the same time share a commit, and each gets its own answer."""

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.errors import FeedbackTooLate, Overloaded, UnknownVersion
from registry.http import create_app
from registry.model.access import Secret
from registry.model.aliases import MoveAlias
from registry.model.base import Command
from registry.model.canary import SplitAlias
from registry.model.domains import CreateDomain, SetDefaultAdapter
from registry.model.feedback import GiveFeedback
from registry.model.policies import Policy
from registry.model.ratings import Rating
from registry.model.trials import Bounds
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from tests.support.catalogs import publish_bytes

LONG = 3600.0
"""Seconds between commits of feedback alone: no test lasts as long."""
MANY = 200
"""Requests at once: more than the service has threads."""
numbers = itertools.count()


@pytest.fixture
def operator(tmp_path: Path) -> Secret:
    """The operator of a registry with two versions, production on the first."""
    store = LocalStore(tmp_path)
    key = Registry.create(store, name="r", key_name="op")
    registry = Registry(store)
    registry.execute(CreateDomain("medical", Policy(guarded=())), key.id)
    for seed in range(2):
        publish_bytes(registry, key.id, "medical", "coder", seed)
    registry.execute(MoveAlias("medical", "coder", "production", 1), key.id)
    registry.close()
    return key


@pytest.fixture
def registry(tmp_path: Path, operator: Secret) -> Iterator[Registry]:
    """Feedback has just been written."""
    made = Registry(LocalStore(tmp_path), pause=LONG)
    assert made.execute(opinion(), operator.id), "the first does not wait"
    yield made
    made.close()


def opinion(
    response: str = "", rating: Rating = "negative", version: int = 1, **more: Any
) -> GiveFeedback:
    """About another answer each time, unless `response` names one."""
    name, asker = response or f"chatcmpl-{next(numbers)}", more.pop("asker", "app")
    at = int(time.time())
    return GiveFeedback("medical", "coder", version, name, at, asker, rating, **more)


def urgent() -> Command:
    """A command that does not wait."""
    return CreateDomain(f"d{next(numbers)}", Policy())


def test_feedback_waits_and_is_written_together_with_the_next_urgent_command(
    registry: Registry, operator: Secret
) -> None:
    before = registry.catalog.sequence
    waiting = [registry.submit(opinion(), operator.id) for _ in range(50)]
    time.sleep(0.1)
    assert not any(future.done() for future in waiting), "nothing is answered before its commit"
    assert registry.catalog.sequence == before
    assert registry.execute(urgent(), operator.id)
    assert all(future.result(timeout=60) for future in waiting)
    assert registry.catalog.sequence == before + 1
    assert registry.catalog.adapters["medical/coder"].versions[0].feedback.tally.negative == 51


def test_feedback_does_not_wait_longer_than_the_pause(registry: Registry, operator: Secret) -> None:
    registry.pause = 0.2
    before = registry.catalog.sequence
    waiting = [registry.submit(opinion(), operator.id) for _ in range(2)]
    assert all(future.result(timeout=60) for future in waiting)
    assert registry.catalog.sequence > before


def test_a_full_group_is_written_at_once(tmp_path: Path, operator: Secret) -> None:
    registry = Registry(LocalStore(tmp_path), pause=LONG, max_group=8)
    registry.execute(urgent(), operator.id)
    before = registry.catalog.sequence
    waiting = [registry.submit(opinion(), operator.id) for _ in range(8)]
    assert all(future.result(timeout=60) for future in waiting)
    assert registry.catalog.sequence == before + 1
    registry.close()


def test_what_waits_is_written_when_the_registry_is_closed(
    registry: Registry, operator: Secret
) -> None:
    before = registry.catalog.sequence
    waiting = [registry.submit(opinion(), operator.id) for _ in range(5)]
    registry.close()
    assert all(future.result(timeout=0) for future in waiting)
    assert registry.catalog.sequence == before + 1


def test_each_command_of_a_group_gets_its_own_answer(registry: Registry, operator: Secret) -> None:
    same, changed = "chatcmpl-same", "chatcmpl-changed"
    before = registry.catalog.sequence
    asked = [
        opinion(same),
        opinion(same),
        opinion(changed, "positive"),
        opinion(changed, "negative"),
        opinion(version=9),
    ]
    first, again, positive, negative, unknown = (registry.submit(o, operator.id) for o in asked)
    registry.execute(urgent(), operator.id)
    assert len(first.result(timeout=60)) == 1
    assert again.result(timeout=60) == (), "the same opinion counts once"
    assert len(positive.result(timeout=60)) == len(negative.result(timeout=60)) == 1
    with pytest.raises(UnknownVersion):
        unknown.result(timeout=60)
    assert registry.catalog.sequence == before + 1
    tally = registry.catalog.adapters["medical/coder"].versions[0].feedback.tally
    assert (tally.positive, tally.negative) == (0, 3)


def test_a_rating_that_came_too_late_is_refused_within_its_group(
    registry: Registry, operator: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.model.ratings.Feedback.too_late", lambda *_: True)
    late = registry.submit(opinion(), operator.id)
    assert registry.execute(urgent(), operator.id)
    with pytest.raises(FeedbackTooLate):
        late.result(timeout=60)


def test_a_group_ends_a_canary_at_the_rating_that_is_one_too_many(
    registry: Registry, operator: Secret
) -> None:
    bounds = Bounds(min_requests=10, max_negative_share=0.2)
    registry.execute(SplitAlias("medical", "coder", "production", 2, 50, bounds), operator.id)
    waiting = [
        registry.submit(
            opinion(version=2, asker=f"app {n % 4}", alias="production", split=1), operator.id
        )
        for n in range(100)
    ]
    registry.execute(urgent(), operator.id)
    ends = [n for n, future in enumerate(waiting) if len(future.result(timeout=60)) == 2]
    adapter = registry.catalog.adapters["medical/coder"]
    assert len(ends) == len(adapter.rollbacks) == 1
    evidence = adapter.rollbacks[0].evidence
    assert evidence.candidate.negative == ends[0] + 1 < 100, "later ones count in no split"
    assert adapter.versions[1].feedback.tally.negative == 100


def test_only_so_many_commands_wait(
    registry: Registry, operator: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.registry.MAX_WAITING", 3)
    held, go = threading.Event(), threading.Event()

    class Held(CreateDomain, frozen=True):
        def decide(self, *_: Any) -> Any:
            held.set()
            go.wait(60)
            return ()

    writing = registry.submit(Held("held", Policy()), operator.id)
    assert held.wait(60)
    waiting = [registry.submit(urgent(), operator.id) for _ in range(3)]
    with pytest.raises(Overloaded):
        registry.submit(urgent(), operator.id)
    go.set()
    assert writing.result(timeout=60) == ()
    assert all(future.result(timeout=60) for future in waiting)


def test_a_command_whose_caller_left_before_it_was_taken_up_is_not_carried_out(
    tmp_path: Path, operator: Secret
) -> None:
    held, go = threading.Event(), threading.Event()

    class Held(CreateDomain, frozen=True):
        def decide(self, *_: Any) -> Any:
            held.set()
            go.wait(60)
            return ()

    registry = Registry(LocalStore(tmp_path))
    registry.submit(Held("held", Policy()), operator.id)
    assert held.wait(60)
    left = registry.submit(CreateDomain("left", Policy()), operator.id)
    assert left.cancel()
    go.set()
    assert registry.execute(CreateDomain("stayed", Policy()), operator.id)
    assert "left" not in registry.catalog.domains
    registry.close()


def test_requests_wait_without_threads_and_share_commits(tmp_path: Path, operator: Secret) -> None:
    app = create_app(RegistrySettings(store=str(tmp_path)))
    registry: Registry = app.state.registry
    registry.pause = LONG
    registry.execute(urgent(), operator.id)
    before, submitted, submit = registry.catalog.sequence, list[Command](), registry.submit
    all_submitted = asyncio.Event()

    def counted(command: Command, actor: str) -> Any:
        future = submit(command, actor)
        submitted.append(command)
        if len(submitted) == MANY:
            all_submitted.set()
        return future

    registry.submit = counted  # type: ignore[method-assign] # it counts, and passes everything on
    path = "/api/v1/adapters/medical/coder/versions/1/feedback"

    async def work() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        headers = {"Authorization": f"Bearer {operator.text}"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://lorary", headers=headers, timeout=60
        ) as client:
            waiting = [
                asyncio.create_task(
                    client.post(
                        path,
                        json={
                            "response": f"chatcmpl-{number}",
                            "answered": int(time.time()),
                            "asker": "app",
                            "rating": "positive",
                        },
                    )
                )
                for number in range(MANY)
            ]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(all_submitted.wait(), 30)
            registry.pause = 0.0  # whoever was not submitted yet shall end, too
            await asyncio.wrap_future(submit(SetDefaultAdapter("medical", "coder"), operator.id))
            return await asyncio.gather(*waiting)

    try:
        answers = asyncio.run(work())
    finally:
        registry.close()
    assert len(submitted) == MANY
    assert all(answer.json() == {"counted": True, "rolled_back": []} for answer in answers)
    assert registry.catalog.sequence == before + 1
