"""Public events: what the log becomes for other systems, and how it is read page by page."""

import asyncio
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from adapters.names import AdapterRef
from registry.errors import BadRequest, Outdated, Overloaded
from registry.http import create_app
from registry.http.events import PER_KEY, Streams, _frames
from registry.model.access import Secret
from registry.model.aliases import MoveAlias
from registry.model.canary import RollBackSplit, SplitAlias
from registry.model.catalog import Grant
from registry.model.domains import CreateDomain
from registry.model.evaluations import RecordEvaluation
from registry.model.evidence import SuiteResult, Tally
from registry.model.keys import IssueKey, RevokeKey
from registry.model.policies import Policy
from registry.model.reviews import OpenReview
from registry.model.trials import Arm, Bounds, Evidence
from registry.model.versions import ApproveVersion, RevokeVersion
from registry.model.webhooks import EVENT_TYPES
from registry.notify.cloudevents import END, SHOWN, Position
from registry.notify.feed import Feed
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from registry.store.blobs import Blobs
from tests.support.catalogs import publish_bytes
from tests.unit.test_newer_logs import append, told


def issue(registry: Registry, operator: Secret, *roles: str, domain: str = "medical") -> Secret:
    secret = Secret.generate()
    grants = tuple(Grant(role, domain) for role in roles)
    command = IssueKey(secret.id, f"person {secret.id}", secret.digest, grants)
    registry.execute(command, operator.id)
    return secret


@pytest.fixture
def operator(local_store: LocalStore) -> Secret:
    return Registry.create(local_store, name="hospital", key_name="operator")


@pytest.fixture
def registry(local_store: LocalStore, operator: Secret) -> Registry:
    """A registry in which everything public happened once, in the domain medical."""
    registry = Registry(local_store)
    registry.execute(CreateDomain("medical", Policy(guarded=())), operator.id)
    registry.execute(CreateDomain("legal", Policy(guarded=())), operator.id)
    expert = issue(registry, operator, "approve", "evaluate", "review")
    for seed in (1, 2, 3):
        publish_bytes(registry, operator.id, "medical", "coder", seed)
    digest = registry.catalog.find(AdapterRef("medical", "coder", version=1)).digest
    blob = Blobs(registry.store).put_bytes(b"[]")
    before = registry.catalog.sequence
    result = SuiteResult(
        suite="triage", digest="b" * 64, held_out="a" * 64, tallies={"accuracy": Tally(5, 9)}
    )
    for command in (
        ApproveVersion("medical", "coder", 1, digest),
        RecordEvaluation("medical", "coder", 1, digest, blob, (result,), read_at=before),
        OpenReview("r1", "medical", "coder", (2, 3), "Triage", ("i1",), blob, read_at=before),
    ):
        registry.execute(command, expert.id)
    for version in (1, 2, 1):
        registry.execute(MoveAlias("medical", "coder", "production", version), operator.id)
    bounds = Bounds(min_requests=1, max_error_rate=0.05)
    registry.execute(SplitAlias("medical", "coder", "production", 3, 10, bounds), operator.id)
    split = registry.catalog.adapters["medical/coder"].splits["production"].number
    evidence = Evidence(candidate=Arm(requests=90, errors=80), stable=Arm(requests=90))
    ended = RollBackSplit("medical", "coder", "production", 3, split, "error_rate", evidence)
    registry.execute(ended, operator.id)
    registry.execute(RevokeVersion("medical", "coder", 3, "wrong code"), operator.id)
    publish_bytes(registry, operator.id, "legal", "clauses", 9)
    return registry


def everything(registry: Registry) -> list[dict[str, Any]]:
    page = Feed(registry).page(Position(0, END), 1000, lambda _: True)
    return [json.loads(event.body) for event in page.events]


def test_each_type_occurs_and_is_a_whole_cloudevent(registry: Registry) -> None:
    events = everything(registry)
    assert {event["type"] for event in events} == set(EVENT_TYPES)
    for event in events:
        assert event.keys() == {
            "specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"
        }  # fmt: skip
        assert event["specversion"] == "1.0"
        assert event["source"] == registry.catalog.registry
    assert len({event["id"] for event in events}) == len(events)


def test_subjects_name_what_it_is_about(registry: Registry) -> None:
    found = [(e["type"].removeprefix("ai.lorary."), e["subject"]) for e in everything(registry)]
    assert found == [
        ("version.published", "medical/coder@1"),
        ("version.published", "medical/coder@2"),
        ("version.published", "medical/coder@3"),
        ("version.approved", "medical/coder@1"),
        ("version.evaluated", "medical/coder@1"),
        ("review.waiting", "reviews/r1"),
        ("alias.promoted", "medical/coder@production"),
        ("alias.promoted", "medical/coder@production"),
        ("alias.rolled_back", "medical/coder@production"),
        ("alias.rolled_back", "medical/coder@production"),
        ("version.revoked", "medical/coder@3"),
        ("version.published", "legal/clauses@1"),
    ]


def test_an_open_review_leaves_only_that_it_waits(registry: Registry) -> None:
    (review,) = (e for e in everything(registry) if e["type"] == "ai.lorary.review.waiting")
    assert review["data"] == {"domain": "medical", "review": "r1", "title": "Triage", "items": 1}
    assert "coder" not in json.dumps(review)
    (event,) = (
        e
        for e in Feed(registry).page(Position(0, END), 1000, lambda _: True).events
        if e.type == "ai.lorary.review.waiting"
    )
    assert "coder" not in event.lane


def test_no_event_about_keys_policies_judgements_or_feedback_is_public() -> None:
    assert {kind.__name__ for kind in SHOWN} == {
        "VersionPublished", "EvaluationRecorded", "VersionApproved", "VersionRevoked",
        "ReviewOpened", "AliasMoved", "SplitRolledBack",
    }  # fmt: skip


def test_pages_hold_each_event_once_in_order(registry: Registry) -> None:
    whole = everything(registry)
    for limit in (1, 2, 5, 1000):
        feed, found, cursor, more = Feed(registry), list[str](), Position(0, END), True
        while more:
            page = feed.page(cursor, limit, lambda _: True)
            assert len(page.events) <= limit
            found += [str(event.position) for event in page.events]
            cursor, more = Position.parse(str(page.next)), page.more
        assert found == [event["id"] for event in whole]
        assert cursor.sequence == registry.catalog.sequence


def test_a_cursor_is_a_commit_or_an_events_id() -> None:
    assert Position.parse("12") == Position(12, END) > Position(12, 7)
    assert Position.parse("12-7") == Position(12, 7)
    for wrong in ("", "-1", "1-", "1-2-3", "\uff11", "1" * 20):
        with pytest.raises(BadRequest, match="Invalid cursor"):
            Position.parse(wrong)


@pytest.fixture
def client(local_store: LocalStore, registry: Registry) -> TestClient:
    registry.close()
    return TestClient(create_app(RegistrySettings(store=local_store.url)))


def as_key(key: Secret) -> dict[str, str]:
    return {"Authorization": f"Bearer {key.text}"}


def test_a_caller_sees_the_events_of_its_domains(
    client: TestClient, local_store: LocalStore, operator: Secret
) -> None:
    registry = Registry(local_store)
    lawyer = issue(registry, operator, "infer", domain="legal")
    scraper = issue(registry, operator, "observe", "serve", domain="*")
    registry.close()
    for key, expected in ((operator, 12), (lawyer, 1), (scraper, 0)):
        page = client.get("/api/v1/events", headers=as_key(key)).json()
        assert len(page["events"]) == expected
        assert page["next"] == str(registry.catalog.sequence)
        assert page["more"] is False
        assert {"medical", "legal"} >= {event["data"]["domain"] for event in page["events"]}
    assert client.get("/api/v1/events").status_code == 401
    after = client.get("/api/v1/events", params={"after": page["next"]}, headers=as_key(operator))
    assert after.json()["events"] == []
    wrong = client.get("/api/v1/events?after=x", headers=as_key(operator))
    assert wrong.status_code == 400
    assert "Invalid cursor" in wrong.json()["error"]["message"]


def test_streams_of_a_key_are_bounded(registry: Registry) -> None:
    streams = Streams(registry)
    for _ in range(PER_KEY):
        streams.open("a")
    with pytest.raises(Overloaded, match="may hold"):
        streams.open("a")
    streams.open("b")
    streams.release("a")
    streams.open("a")


def test_a_page_reads_a_bounded_number_of_commits(registry: Registry) -> None:
    page = Feed(registry, scanned=2).page(Position(0, END), 100, lambda _: False)
    assert (page.events, page.next, page.more) == ((), Position(2, END), True)


def test_a_log_of_which_this_lorary_does_not_know_all_is_not_shown(
    registry: Registry, local_store: LocalStore
) -> None:
    """An unknown entry shifts the places of the known ones, which are the events' ids."""
    append(local_store, told(optional=True))
    registry.refresh()
    with pytest.raises(Outdated):
        everything(registry)


def test_a_stream_ends_with_its_key(registry: Registry, operator: Secret) -> None:
    key = issue(registry, operator, "infer")

    async def read() -> list[bytes]:
        stream = _frames(Streams(registry), key.id, Position(0, END))
        frames = [await anext(stream), await anext(stream)]
        registry.execute(RevokeKey(key.id, "lost"), operator.id)
        async with asyncio.timeout(10):
            return frames + [frame async for frame in stream]

    frames = asyncio.run(read())
    assert sum(b"data: " in frame for frame in frames) == 11
