"""Replicas in processes of their own, a real registry service, a real S3 server: a bad candidate is
rolled back for everybody, and what callers think of answers is kept once."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.client import RegistryClient
from registry.errors import Forbidden
from registry.log.commits import CommitLog
from registry.model.access import Secret
from registry.model.aliases import MoveAlias
from registry.model.canary import SplitAlias, SplitRolledBack
from registry.model.catalog import Grant
from registry.model.keys import IssueKey
from registry.model.trials import Bounds
from registry.settings import RegistrySettings
from registry.store import open_store
from tests.components.test_replicas import Fleet, fleet_over
from tests.support.front import front
from tests.support.s3 import BUCKET, S3Server
from tests.support.servers import free_port, registry_server

REPLICAS = 3
CANDIDATE = "medical/coder@2"
USERS = 40
PAUSE = RegistrySettings.model_fields["feedback_pause_seconds"].default


class Rollout:
    """Replicas, and the registry's service that they report to."""

    def __init__(self, fleet: Fleet, serving: Secret, url: str, folder: Path) -> None:
        self.fleet, self.serving, self.url, self.folder = fleet, serving, url, folder
        self.http = httpx.Client(
            headers={"Authorization": f"Bearer {fleet.operator.text}"}, timeout=30
        )

    @contextlib.contextmanager
    def service(self) -> Iterator[None]:
        """The registry's service, while the context lasts."""
        port = int(self.url.rpartition(":")[2])
        with registry_server(self.fleet.registry.store.url, self.folder, port=port):
            yield

    def ask(self, replica: int, user: int = 0, model: str = "medical/coder") -> httpx.Response:
        body = {
            "model": model,
            "user": str(user),
            "messages": [{"role": "user", "content": "Well?"}],
        }
        return self.http.post(f"{self.fleet.urls[replica]}/v1/chat/completions", json=body)

    def ask_all(self) -> Counter[str]:
        """Every user at every replica; how often which version answered."""
        pairs = [(replica, user) for user in range(USERS) for replica in range(REPLICAS)]
        with ThreadPoolExecutor(REPLICAS) as pool:
            answers = pool.map(lambda pair: self.ask(*pair), pairs)
            return Counter(answer.headers["x-lorary-adapter"] for answer in answers)

    def judge(self, replica: int, response: str, rating: str, **more: Any) -> httpx.Response:
        body = {"id": response, "rating": rating, **more}
        return self.http.post(f"{self.fleet.urls[replica]}/v1/feedback", json=body)

    def tally(self) -> tuple[int, int]:
        """Positive and negative opinions about the first version."""
        version = self.fleet.registry.refresh().adapters["medical/coder"].versions[0]
        return version.feedback.tally.positive, version.feedback.tally.negative


@pytest.fixture(scope="module")
def rollout(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rollout]:
    """Two versions, `production` on the first."""
    folder = tmp_path_factory.mktemp("rollout")
    store = open_store(f"s3://{BUCKET}/rollout-{time.time_ns()}", s3_endpoint=s3.endpoint)
    serving, url = Secret.generate(), f"http://127.0.0.1:{free_port()}"
    settings = {
        "LORARY_REGISTRY_URL": url,
        "LORARY_SERVING_KEY": serving.text,
        "LORARY_REPLICAS": str(REPLICAS),
        "FAILING_MODEL": CANDIDATE,
    }
    with fleet_over(store, store.url, folder, REPLICAS, **settings) as fleet:
        registry, operator = fleet.registry, fleet.operator.id
        grants = (Grant("serve", "medical"),)
        registry.execute(IssueKey(serving.id, "replicas", serving.digest, grants), operator)
        fleet.publish(0)
        fleet.publish(1)
        registry.execute(MoveAlias("medical", "coder", "production", 1), operator)
        made = Rollout(fleet, serving, url, folder)
        for replica in fleet.urls:
            fleet.wait(replica, "medical/coder", 200)
        yield made
        made.http.close()


def test_a_bad_candidate_is_rolled_back_for_everybody_and_the_log_says_why(
    rollout: Rollout,
) -> None:
    registry, operator = rollout.fleet.registry, rollout.fleet.operator.id
    with rollout.service():
        bounds = Bounds(min_requests=10)
        registry.execute(SplitAlias("medical", "coder", "production", 2, 50, bounds), operator)
        answered, deadline = Counter[str](), time.monotonic() + 60
        while not registry.refresh().adapters["medical/coder"].rollbacks:
            assert time.monotonic() < deadline, answered
            answered += rollout.ask_all()
        ended = time.monotonic()
        while rollout.ask_all()[CANDIDATE]:
            # A poll is one second; a loaded machine adds its own.
            assert time.monotonic() - ended < 5, "a replica still sends to the candidate"
        (rollback,) = registry.catalog.adapters["medical/coder"].rollbacks
        assert rollback.actor == rollout.serving.id
        assert rollback.bound == "error_rate"
        seen = rollback.evidence
        assert seen.candidate.errors == seen.candidate.requests >= 10
        assert seen.stable.errors == 0
        log = CommitLog(registry.store)
        commits = [log.read(n + 1) for n in range(registry.refresh().sequence)]
        ends = [
            entry
            for stored in commits
            if stored is not None
            for entry in stored.commit.entries
            if isinstance(entry.event, SplitRolledBack)
        ]
        assert len(ends) == 1, "several replicas asked, it ended once"
        with RegistryClient(rollout.url, rollout.fleet.operator.text) as client:
            (shown,) = client.adapter("medical/coder")["rollbacks"]
            assert "requests failed" in shown["seen"]
            events = [entry["event"] for commit in client.log() for entry in commit["entries"]]
            assert any(event.get("seen") == shown["seen"] for event in events)
        print("served by the candidate until then:", answered[CANDIDATE])


def test_a_rating_is_counted_once_whichever_replica_it_comes_by(rollout: Rollout) -> None:
    with rollout.service():
        ids = [rollout.ask(n % REPLICAS, model="medical/coder@1").json()["id"] for n in range(30)]
        before, began = rollout.fleet.registry.refresh().sequence, time.monotonic()

        def judge(n: int) -> bool:
            reply = rollout.judge((n + 1) % REPLICAS, ids[n], "negative", category="incorrect")
            assert reply.status_code == 200, reply.text
            return bool(reply.json()["counted"])

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(judge, range(30)))
            assert not any(pool.map(judge, range(30)))
        assert rollout.tally() == (0, 30)
        commits = rollout.fleet.registry.catalog.sequence - before
        print("commits for 30 opinions:", commits)
        assert commits <= 1 + (time.monotonic() - began) / PAUSE
        changed = rollout.judge(0, ids[0], "positive", comment="a patient's words")
        assert changed.json()["counted"]
        assert not changed.json()["comment_kept"]
        assert rollout.tally() == (1, 29)
    down = rollout.judge(1, ids[1], "positive")
    assert (down.status_code, down.json()["error"]["code"]) == (503, "feedback_unavailable")
    assert down.headers["retry-after"]
    assert rollout.ask(1).status_code == 200
    with rollout.service():
        assert rollout.judge(1, ids[1], "positive").json()["counted"]
        assert not rollout.judge(2, ids[1], "positive").json()["counted"]
        assert rollout.tally() == (2, 28)
        with RegistryClient(rollout.url, rollout.fleet.operator.text) as client:
            shown = client.resolve("medical/coder@1")["feedback"]
        assert (shown["positive"], shown["negative"]) == (2, 28)
        assert shown["categories"] == {"incorrect": 28}
        assert {complaint["response"] for complaint in shown["complaints"]} == set(ids[2:])
        with RegistryClient(rollout.url, rollout.serving.text) as replica:
            for look in (lambda: replica.resolve("medical/coder@1"), lambda: list(replica.log())):
                with pytest.raises(Forbidden):
                    look()
            assert replica.adapters() == []
    raw = b"".join(
        rollout.fleet.registry.store.get(info.key)
        for info in rollout.fleet.registry.store.list("log/0")
    )
    assert b"patient" not in raw


def test_an_app_behind_the_charts_front_gives_feedback_and_ends_a_bad_canary(
    rollout: Rollout, tmp_path: Path
) -> None:
    """All that the app reaches is the chart's Envoy."""
    registry, operator = rollout.fleet.registry, rollout.fleet.operator.id
    ports = [int(url.rpartition(":")[2]) for url in rollout.fleet.urls]
    with rollout.service(), front({"pool": ports}, tmp_path) as api:
        deadline = time.monotonic() + 30
        while api.healthy("pool") < REPLICAS:
            assert time.monotonic() < deadline, "Envoy finds no replica"
            time.sleep(0.1)
        chat = {"model": "medical/coder@1", "messages": [{"role": "user", "content": "Well?"}]}
        answer = rollout.http.post(f"{api.url}/v1/chat/completions", json=chat)
        opinion = {"id": answer.json()["id"], "rating": "negative"}
        before = rollout.tally()
        kept = rollout.http.post(f"{api.url}/v1/feedback", json=opinion)
        assert (kept.status_code, kept.json()["counted"]) == (200, True)
        assert rollout.tally() == (before[0], before[1] + 1)
        split = SplitAlias("medical", "coder", "production", 2, 50, Bounds(min_requests=10))
        registry.execute(split, operator)
        rollbacks = len(registry.refresh().adapters["medical/coder"].rollbacks)
        deadline = time.monotonic() + 60
        user = 0
        while len(registry.refresh().adapters["medical/coder"].rollbacks) == rollbacks:
            assert time.monotonic() < deadline, "no replica reported the rollback"
            user += 1
            asked = {**chat, "model": "medical/coder", "user": str(user % USERS)}
            rollout.http.post(f"{api.url}/v1/chat/completions", json=asked)
