"""What one replica sees of a candidate, and how it then keeps everybody away from it."""

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from starlette.types import Message

from adapters.names import AdapterRef
from registry.client import RegistryClient
from registry.model.access import Secret
from registry.model.aliases import MoveAlias
from registry.model.base import Command
from registry.model.canary import SplitAlias
from registry.model.trials import PEERS, Bounds, Split, crosses
from serving.errors import DiskFull
from serving.gate import Gate
from serving.outcomes.rollout import Trial
from tests.support.asking import CHAT, into, scope_of, whole
from tests.support.relaying import pieces_of, relayed
from tests.support.replicas import Site, Upstream, answered, make_site
from tests.support.servers import free_port

CANDIDATE = "medical/coder@2"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Half of production's callers get a second version; the registry's service is down."""
    url = f"http://127.0.0.1:{free_port()}"
    made = make_site(tmp_path, serving_key=Secret.generate().text, registry_url=url)
    made.publish("medical", "coder", b"medical two")
    made.registry.execute(MoveAlias("medical", "coder", "production", 1), made.operator.id)
    begin(made)
    yield made
    made.registry.close()


def begin(site: Site, bounds: Bounds | None = Bounds(min_requests=20)) -> None:
    command = SplitAlias("medical", "coder", "production", 2, 50, bounds)
    site.registry.execute(command, site.operator.id)
    site.replica.follower.refresh()


async def ask(gate: Gate, site: Site, user: int, **fields: object) -> tuple[int, str]:
    """A user's request: its status and which version answered."""
    sent: list[Message] = []
    body = {"model": "medical", "messages": [], "user": str(user), **fields}

    scope = scope_of("POST", CHAT, site.medical)
    await gate(scope, whole(json.dumps(body).encode()), into(sent))
    status, headers, _ = answered(sent)
    return status, headers.get("x-lorary-adapter", "")


def many(site: Site, upstream: Upstream, users: range) -> Counter[tuple[int, str]]:
    async def work() -> list[tuple[int, str]]:
        gate = Gate(upstream, site.replica)
        return [await ask(gate, site, user) for user in users]

    return Counter(asyncio.run(work()))


def test_a_failing_candidate_is_not_served_here_though_the_registry_cannot_be_reached(
    site: Site,
) -> None:
    upstream = Upstream(failing=CANDIDATE)
    first = many(site, upstream, range(100))
    assert 20 <= first[500, CANDIDATE] <= 25, "it is judged from its twentieth request on"
    assert many(site, upstream, range(100)) == {(200, "medical/coder@1"): 100}
    assert site.replica.catalog.adapters["medical/coder"].splits, "the log does not know yet"
    (held,) = site.replica.rollouts.held.values()
    assert (held.bound, held.evidence.candidate.errors) == ("error_rate", first[500, CANDIDATE])


def test_a_failing_candidate_is_reported_to_the_registry_and_ends_its_split(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client stands in the way: what it is given goes to the registry at once."""

    def execute(_client: RegistryClient, command: Command) -> dict[str, object]:
        site.registry.execute(command, site.operator.id)
        site.replica.follower.refresh()
        return {}

    async def until_it_ended() -> None:
        gate = Gate(Upstream(failing=CANDIDATE), site.replica)
        for user in range(100):
            await ask(gate, site, user)
        while site.replica.rollouts.held:  # noqa: ASYNC110 - the replica tells nobody
            await asyncio.sleep(0.01)

    monkeypatch.setattr(RegistryClient, "execute", execute)
    monkeypatch.setattr("serving.outcomes.rollout.FIRST_RETRY", 0.01)
    asyncio.run(asyncio.wait_for(until_it_ended(), 20))
    adapter = site.registry.refresh().adapters["medical/coder"]
    assert adapter.splits == {}
    assert [(end.candidate, end.bound) for end in adapter.rollbacks] == [(2, "error_rate")]


def test_the_next_split_of_the_same_candidate_begins_afresh(site: Site) -> None:
    many(site, Upstream(failing=CANDIDATE), range(100))
    begin(site, None)
    begin(site)
    mended = many(site, Upstream(), range(100))
    assert mended.keys() == {(200, "medical/coder@1"), (200, CANDIDATE)}


def test_a_good_candidate_stays_and_pinned_requests_say_nothing(site: Site) -> None:
    upstream = Upstream(failing=CANDIDATE)

    async def pinned() -> None:
        gate = Gate(upstream, site.replica)
        for user in range(60):
            assert (await ask(gate, site, user, model=CANDIDATE))[0] == 500

    asyncio.run(pinned())
    assert site.replica.rollouts.held == {}
    answers = many(site, Upstream(), range(100))
    assert answers[200, CANDIDATE] > 30
    assert site.replica.rollouts.held == {}


def test_what_fails_for_everybody_is_not_the_candidates_fault(site: Site) -> None:
    async def broken(scope: object, receive: object, send: object) -> None:
        raise RuntimeError("the engine is dead")

    async def work() -> None:
        gate = Gate(broken, site.replica)
        for user in range(200):
            assert (await ask(gate, site, user))[0] == 500

    many(site, Upstream(), range(200))
    asyncio.run(work())
    assert site.replica.rollouts.held == {}


def test_a_full_disk_here_is_not_the_candidates_fault(site: Site) -> None:
    catalog = site.replica.catalog
    candidate = catalog.adapters["medical/coder"].versions[1]
    rollouts = site.replica.rollouts
    for _ in range(60):
        with (
            contextlib.suppress(DiskFull),
            rollouts.watch(catalog, AdapterRef("medical", "coder", alias="production"), candidate),
        ):
            raise DiskFull(str(candidate.ref), 1)
    assert rollouts.held == {}


def test_a_candidate_that_cannot_be_loaded_has_failed(site: Site) -> None:
    upstream = Upstream()

    async def load_the_stable_one() -> None:
        await ask(Gate(upstream, site.replica), site, 0, model="medical/coder@1")

    asyncio.run(load_the_stable_one())
    site.engine.refusal = "it is broken"
    answers = many(site, upstream, range(100))
    assert answers.keys() == {(200, "medical/coder@1"), (503, "")}
    assert 20 <= answers[503, ""] <= 25


def counted(side: str, outcome: str) -> float:
    """Requests under the split so far, by the metric."""
    labels = {"domain": "medical", "adapter": "coder", "alias": "production"}
    name = "lorary_canary_requests_total"
    return REGISTRY.get_sample_value(name, {**labels, "side": side, "outcome": outcome}) or 0


def test_a_split_without_bounds_is_counted_and_not_judged(site: Site) -> None:
    begin(site, None)
    before = counted("candidate", "error"), counted("stable", "ok")
    answers = many(site, Upstream(failing=CANDIDATE), range(100))
    assert answers[500, CANDIDATE] > 30
    after = counted("candidate", "error"), counted("stable", "ok")
    assert (after[0] - before[0], after[1] - before[1]) == tuple(
        answers[key] for key in ((500, CANDIDATE), (200, "medical/coder@1"))
    )


def test_a_failing_candidate_shows_in_the_metrics(site: Site) -> None:
    before = counted("candidate", "error")
    many(site, Upstream(failing=CANDIDATE), range(100))
    assert counted("candidate", "error") - before >= 20
    site.replica.start()
    assert REGISTRY.get_sample_value("lorary_rollbacks_unreported") == 1
    site.replica.follower.stop()


def trial_of(slower: float) -> Trial:
    """A simulated split, one candidate's stream in ten, that many times as slow."""
    dice, trial = random.Random(5), Trial(Split(2, 10, Bounds(), 1))
    for _ in range(6000):
        candidate = dice.random() < 0.1
        seconds = dice.lognormvariate(-2, 0.3) * (slower if candidate else 1)
        side = "candidate" if candidate else "stable"
        trial.note(side, failed=False, pace="first_token", seconds=seconds)  # type: ignore[arg-type]
    return trial


@pytest.mark.parametrize(("slower", "crossed"), [(1.0, False), (1.9, False), (4.0, True)])
def test_a_slow_candidate_is_distinguished_from_one_that_is_slow_enough(
    slower: float, crossed: bool
) -> None:
    trial = trial_of(slower)
    assert trial.compared > 100
    assert trial.compared * PEERS <= trial.stable.requests, "no time is used twice"
    assert crosses("latency_ratio", Bounds(), trial.evidence) == crossed
    assert trial.evidence.candidate.first_token_p95 is not None


def test_an_error_inside_a_stream_is_a_failure_and_quoted_text_is_not() -> None:
    for piece, failed in (
        (b'data: {"error": {"message": "x", "code": 500}}\n\n', True),
        (b'data: {"choices": [{"delta": {"content": "data: {\\"error\\""}}]}\n\n', False),
    ):
        relay, _ = relayed(pieces_of(b"text/event-stream; charset=utf-8", [piece]), None)
        assert (relay.failed, relay.succeeded) == (failed, not failed)
        assert relay.pace[0] == "first_token"
