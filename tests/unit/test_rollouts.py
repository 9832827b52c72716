"""What the registry takes for a reason to end a split, and what it counts of callers' opinions."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from adapters.fields import problem
from adapters.names import AdapterRef
from registry import errors
from registry.model.access import Secret, may_see
from registry.model.aliases import MoveAlias
from registry.model.base import Entry
from registry.model.canary import (
    AliasSplit,
    RollBackSplit,
    SplitAlias,
    SplitRolledBack,
)
from registry.model.catalog import Adapter, Catalog, Grant
from registry.model.feedback import FeedbackGiven, GiveFeedback
from registry.model.keys import IssueKey
from registry.model.machine import decide, fold
from registry.model.ratings import Rating
from registry.model.trials import Arm, Bounds, Evidence, crosses
from registry.model.versions import ApproveVersion, RevokeVersion
from tests.support.catalogs import VERSION
from tests.support.replicas import Site, make_site

NOW = "2126-11-24T03:00:00Z"
BAD = Evidence(candidate=Arm(requests=100, errors=40), stable=Arm(requests=900, errors=9))
FINE = Evidence(candidate=Arm(requests=100, errors=4), stable=Arm(requests=900, errors=9))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Two versions, production on the first, and half of its callers get the second."""
    made = make_site(tmp_path)
    made.publish("medical", "coder", b"two")
    made.registry.execute(MoveAlias("medical", "coder", "production", 1), made.operator.id)
    made.registry.execute(split(), made.operator.id)
    yield made
    made.registry.close()


def split(percent: int = 50, **bounds: float | None) -> SplitAlias:
    declared = Bounds(**bounds)  # type: ignore[arg-type] # names and numbers of a table
    return SplitAlias("medical", "coder", "production", 2, percent, declared)


def rollback(number: int = 1, candidate: int = 2, evidence: Evidence = BAD) -> RollBackSplit:
    return RollBackSplit(
        "medical", "coder", "production", candidate, number, "error_rate", evidence
    )


numbers = itertools.count()


def opinion(
    rating: Rating = "negative",
    *,
    version: int = 2,
    response: str = "",
    asker: str = "app",
    alias: str | None = "production",
    split: int = 1,
) -> GiveFeedback:
    """About another answer each time, unless `response` names one."""
    name = response or f"chatcmpl-{next(numbers)}"
    at = int(time.time()) + 60
    return GiveFeedback(
        "medical", "coder", version, name, at, asker, rating, alias=alias, split=split
    )


def coder(site: Site) -> Adapter:
    return site.registry.catalog.adapters["medical/coder"]


def test_a_crossed_bound_ends_the_split_and_its_evidence_stays(site: Site) -> None:
    (event,) = site.registry.execute(rollback(), site.operator.id)
    assert isinstance(event, SplitRolledBack)
    assert (event.bound, event.limit, event.evidence) == ("error_rate", 0.05, BAD)
    after = coder(site)
    assert after.splits == {}
    assert after.aliases == {"production": 1}
    (ended,) = after.rollbacks
    assert (ended.candidate, ended.actor, ended.evidence) == (2, site.operator.id, BAD)
    callers = {site.registry.catalog.choose(AdapterRef("medical", "coder"), str(n)).number
               for n in range(50)}  # fmt: skip
    assert callers == {1}


def test_several_replicas_that_ask_end_it_once(site: Site) -> None:
    assert site.registry.execute(rollback(), site.operator.id)
    assert site.registry.execute(rollback(), site.operator.id) == ()
    assert len(coder(site).rollbacks) == 1


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (rollback(evidence=FINE), errors.Conflict),
        (rollback(number=2), errors.Conflict),
        (rollback(candidate=1), errors.Conflict),
        (
            RollBackSplit("medical", "coder", "beta", 2, 1, "error_rate", BAD),
            errors.Conflict,
        ),
        (
            RollBackSplit("medical", "coder", "production", 2, 1, "negative_share", BAD),
            errors.BadRequest,
        ),
        (
            RollBackSplit("medical", "none", "production", 2, 1, "error_rate", BAD),
            errors.UnknownAdapter,
        ),
        (rollback(evidence=Evidence(candidate=Arm(requests=5, errors=6), stable=Arm())),
         errors.BadRequest),
        (rollback(evidence=Evidence(candidate=Arm(requests=100, errors=90),
                                    stable=Arm(first_token_p95=float("inf")))),
         errors.BadRequest),
    ],
)  # fmt: skip
def test_trials_that_shows_nothing_of_this_split_ends_nothing(
    site: Site, command: RollBackSplit, error: type[Exception]
) -> None:
    with pytest.raises(error):
        site.registry.execute(command, site.operator.id)
    assert coder(site).splits["production"].candidate == 2


def test_trials_of_an_ended_split_says_nothing_about_the_next(site: Site) -> None:
    site.registry.execute(split(percent=0), site.operator.id)
    site.registry.execute(split(percent=5), site.operator.id)
    with pytest.raises(errors.Conflict, match="does not run"):
        site.registry.execute(rollback(number=1), site.operator.id)
    assert site.registry.execute(rollback(number=2), site.operator.id)


def test_a_split_without_bounds_is_ended_by_people_only(site: Site) -> None:
    bare = SplitAlias("medical", "coder", "production", 2, 50, bounds=None)
    site.registry.execute(bare, site.operator.id)
    with pytest.raises(errors.Conflict, match="declared"):
        site.registry.execute(rollback(number=2), site.operator.id)
    for number in range(100):
        site.registry.execute(opinion(split=2, asker=str(number % 5)), site.operator.id)
    assert coder(site).splits["production"].opinions.negative == 100


def test_many_negative_ratings_end_the_split_by_themselves(site: Site) -> None:
    for number in range(50):
        site.registry.execute(opinion("positive", version=1), site.operator.id)
        by = f"app {number % 3}"
        events = site.registry.execute(opinion(asker=by), site.operator.id)
        if len(events) > 1:
            break
    ended = events[-1]
    assert isinstance(ended, SplitRolledBack)
    assert ended.bound == "negative_share"
    count = ended.evidence.candidate.negative
    assert ended.evidence.stable.positive == count
    assert 5 <= count <= 20
    assert crosses("negative_share", Bounds(), ended.evidence)
    assert coder(site).splits == {}
    assert len(coder(site).versions[1].feedback.complaints) == count


def test_the_same_rating_again_changes_nothing_and_another_replaces(site: Site) -> None:
    def tell(rating: Rating) -> int:
        command = replace(opinion(rating, response="chatcmpl-one"), answered=4_000_000_000)
        return len(site.registry.execute(command, site.operator.id))

    told: list[Rating] = ["negative", "negative", "positive", "positive"]
    assert [tell(rating) for rating in told] == [
        1, 0, 1, 0,
    ]  # fmt: skip
    tally = coder(site).versions[1].feedback.tally
    assert (tally.positive, tally.negative) == (1, 0)
    assert coder(site).splits["production"].opinions == tally


def test_a_rating_on_an_answer_from_before_the_split_does_not_count_against_it(
    site: Site,
) -> None:
    old = GiveFeedback("medical", "coder", 2, "chatcmpl-old", 1, "app", "negative")
    site.registry.execute(old, site.operator.id)
    for command in (
        opinion(alias=None, split=0),
        opinion(split=2),
        opinion(split=0),
        opinion(alias="beta"),
    ):
        site.registry.execute(command, site.operator.id)
    assert coder(site).splits["production"].opinions.negative == 0
    assert coder(site).versions[1].feedback.tally.negative == 5


def test_feedback_on_pinned_answers_ends_no_split(site: Site) -> None:
    for number in range(60):
        pinned = opinion(asker=f"app {number % 5}", alias=None, split=0)
        site.registry.execute(pinned, site.operator.id)
    assert coder(site).splits["production"].opinions.negative == 0
    assert coder(site).versions[1].feedback.tally.negative == 60


def test_no_asker_ends_a_split_alone(site: Site) -> None:
    """Neither with one key nor with a second one of the same name, nor beside others' praise."""
    secrets = [Secret.generate() for _ in range(2)]
    for secret in secrets:
        grants = (Grant("infer", "medical"),)
        key = IssueKey(secret.id, "One App", secret.digest, grants)
        site.registry.execute(key, site.operator.id)
    for number in range(60):
        site.registry.execute(opinion(asker=secrets[number % 2].id), site.operator.id)
    for number in range(5):
        site.registry.execute(opinion("positive", asker=f"other {number}"), site.operator.id)
    (mine,) = [t for t in coder(site).splits["production"].askers.values() if t.negative]
    assert mine.negative == 60
    assert not coder(site).rollbacks


def test_one_key_that_serves_all_users_may_be_declared_enough(site: Site) -> None:
    site.registry.execute(split(percent=0), site.operator.id)
    site.registry.execute(split(min_askers=1), site.operator.id)
    for _ in range(20):
        if not coder(site).splits:
            break
        site.registry.execute(opinion(split=2), site.operator.id)
    (ended,) = coder(site).rollbacks
    assert ended.bound == "negative_share"


def test_feedback_written_before_splits_were_named_counts_in_none() -> None:
    old = (
        b'{"type":"FeedbackGiven","domain":"medical","adapter":"coder","version":2,'
        b'"response":"r","answered":9,"asker":"app","rating":"negative"}'
    )
    event = msgspec.json.decode(old, type=FeedbackGiven)
    assert (event.alias, event.split) == (None, 0)


def test_a_replicas_key_reports_and_opens_nothing_else(site: Site) -> None:
    secret = Secret.generate()
    grants = (Grant("serve", "*"),)
    site.registry.execute(IssueKey(secret.id, "replicas", secret.digest, grants), site.operator.id)
    catalog = site.registry.catalog
    assert not may_see(catalog.keys[secret.id], "medical")
    digest = catalog.adapters["medical/coder"].versions[1].digest
    for command in (
        MoveAlias("medical", "coder", "production", 2),
        split(percent=0),
        ApproveVersion("medical", "coder", 2, digest),
        RevokeVersion("medical", "coder", 2, "x"),
        IssueKey("k", "k", "0" * 64, grants),
    ):
        with pytest.raises(errors.Forbidden):
            decide(catalog, command, secret.id, NOW)
    for other in (rollback(), opinion()):
        assert decide(catalog, other, secret.id, NOW)
        with pytest.raises(errors.Forbidden):
            decide(catalog, other, site.medical.id, NOW)


def test_a_split_written_before_bounds_existed_still_reads_and_never_ends_by_itself() -> None:
    old = (
        b'{"type":"AliasSplit","domain":"medical","adapter":"coder","alias":"production",'
        b'"candidate":2,"percent":5}'
    )
    event = msgspec.json.decode(old, type=AliasSplit)
    assert event.bounds is None
    versions = (VERSION, msgspec.structs.replace(VERSION, number=2))
    adapter = Adapter(domain="medical", name="coder", aliases={"production": 1}, versions=versions)
    catalog = fold(Catalog(adapters={"medical/coder": adapter}), [Entry("op", event)], NOW)
    assert catalog.adapters["medical/coder"].splits["production"].bounds is None


@given(
    st.builds(
        Bounds,
        max_error_rate=st.none() | st.floats(),
        max_latency_ratio=st.none() | st.floats(),
        max_negative_share=st.none() | st.floats(),
        min_requests=st.integers(),
        min_askers=st.integers(),
    )
)
def test_trials_are_refused_or_survive_the_log(bounds: Bounds) -> None:
    if problem(bounds) is not None:
        return
    assert msgspec.json.decode(msgspec.json.encode(bounds), type=Bounds) == bounds
