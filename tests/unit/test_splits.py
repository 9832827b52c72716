"""Aliases that give a share of their callers a candidate."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.names import AdapterRef
from registry import errors
from registry.http.metrics import page
from registry.maintain.collection import expired
from registry.model.aliases import MoveAlias
from registry.model.canary import RollBackSplit, SplitAlias
from registry.model.catalog import Catalog
from registry.model.domains import ChangePolicy
from registry.model.feedback import GiveFeedback
from registry.model.policies import Policy
from registry.model.trials import Arm, Bounds, Evidence, Split
from registry.model.versions import RevokeVersion, TombstoneVersion
from registry.times import utc_now
from tests.support.replicas import Site, make_site

REF = AdapterRef("medical", "coder")
CALLERS = [f"caller-{number}" for number in range(2000)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = make_site(tmp_path)
    made.publish("medical", "coder", b"two")
    run(made, MoveAlias("medical", "coder", "production", 1))
    yield made
    made.registry.close()


def run(site: Site, command: MoveAlias | SplitAlias | RevokeVersion | TombstoneVersion) -> Catalog:
    site.registry.execute(command, site.operator.id)
    return site.registry.catalog


def split(percent: int, candidate: int = 2, bounds: Bounds | None = Bounds()) -> SplitAlias:
    return SplitAlias("medical", "coder", "production", candidate, percent, bounds)


def chosen(catalog: Catalog) -> dict[str, int]:
    return {caller: catalog.choose(REF, caller).number for caller in CALLERS}


@pytest.mark.parametrize("percent", [1, 10, 50, 99])
def test_about_that_share_of_callers_gets_the_candidate(site: Site, percent: int) -> None:
    counts = Counter(chosen(run(site, split(percent))).values())
    expected = len(CALLERS) * percent / 100
    # Four standard deviations of a binomial.
    assert abs(counts[2] - expected) <= 4 * (expected * (1 - percent / 100)) ** 0.5 + 1


def test_a_caller_stays_with_its_version_while_the_share_grows(site: Site) -> None:
    small, large = chosen(run(site, split(10))), chosen(run(site, split(40)))
    assert all(large[caller] == 2 for caller in CALLERS if small[caller] == 2)
    assert chosen(run(site, split(40))) == large


def test_pinned_names_and_ended_splits_are_for_everybody_alike(site: Site) -> None:
    catalog = run(site, split(50))
    pinned = AdapterRef("medical", "coder", version=1)
    assert {catalog.choose(pinned, caller).number for caller in CALLERS} == {1}
    assert set(chosen(run(site, split(0))).values()) == {1}
    run(site, split(50))
    back = run(site, MoveAlias("medical", "coder", "production", 1))
    assert set(chosen(back).values()) == {1}
    assert back.adapters["medical/coder"].splits == {}


def test_a_revoked_candidate_is_served_to_nobody(site: Site) -> None:
    run(site, split(50))
    catalog = run(site, RevokeVersion("medical", "coder", 2, "wrong"))
    assert set(chosen(catalog).values()) == {1}


def test_a_candidate_cannot_lose_its_bytes(site: Site) -> None:
    run(site, split(5))
    with pytest.raises(errors.Conflict, match="production"):
        run(site, TombstoneVersion("medical", "coder", 2, "old"))


def test_a_guarded_alias_gives_nobody_what_has_not_earned_it(site: Site) -> None:
    policy = Policy(guarded=("production",), approvals=1)
    site.registry.execute(ChangePolicy("medical", policy, weaken=True), site.operator.id)
    with pytest.raises(errors.PromotionNotEarned):
        run(site, split(1))


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (split(100), errors.BadRequest),
        (split(-1), errors.BadRequest),
        (split(5, candidate=1), errors.BadRequest),
        (split(5, candidate=9), errors.UnknownVersion),
        (split(5, bounds=Bounds(max_negative_share=0)), errors.BadRequest),
        (SplitAlias("medical", "coder", "beta", 2, 5), errors.UnknownAlias),
        (SplitAlias("medical", "none", "production", 2, 5), errors.UnknownAdapter),
    ],
)
def test_a_split_that_makes_no_sense_is_refused(
    site: Site, command: SplitAlias, error: type[Exception]
) -> None:
    with pytest.raises(error):
        run(site, command)


def test_a_candidate_for_another_base_is_refused(site: Site) -> None:
    site.publish("medical", "coder", b"three", base="other")
    run(site, MoveAlias("medical", "coder", "production", 1))
    with pytest.raises(errors.BaseMismatch):
        run(site, split(5, candidate=3))


def test_a_split_shows_in_the_registrys_metrics_while_it_lasts(site: Site) -> None:
    shown = b'lorary_alias_canary_percent{adapter="coder",alias="production",candidate="2"'
    assert shown in page(run(site, split(5)), utc_now())
    assert shown not in page(run(site, split(0)), utc_now())


def test_retention_spares_what_an_alias_or_a_split_names(site: Site) -> None:
    for weights in (b"three", b"four", b"five"):
        site.publish("medical", "coder", weights)
    keep = ChangePolicy("medical", Policy(guarded=(), keep=1), weaken=True)
    site.registry.execute(keep, site.operator.id)
    run(site, MoveAlias("medical", "coder", "production", 1))
    catalog = run(site, split(5, candidate=3))
    assert [version.number for version in expired(catalog)] == [2, 4]


def test_evidence_about_an_earlier_split_ends_no_later_one_with_the_same_candidate(
    site: Site,
) -> None:
    first = run(site, split(50)).adapters["medical/coder"].splits["production"].number
    run(site, split(0))
    run(site, split(50))
    evidence = Evidence(candidate=Arm(requests=90, errors=80), stable=Arm(requests=90))
    late = RollBackSplit("medical", "coder", "production", 2, first, "error_rate", evidence)
    with pytest.raises(errors.Conflict, match="does not run"):
        site.registry.execute(late, site.operator.id)


def test_feedback_counts_in_its_own_split_and_ends_it_once_enough_persons_gave_it(
    site: Site,
) -> None:
    bounds = Bounds(min_askers=3)
    first = run(site, split(50, bounds=bounds)).adapters["medical/coder"].splits["production"]
    run(site, split(0))
    second = run(site, split(50, bounds=bounds)).adapters["medical/coder"].splits["production"]

    def running(asker: str, number: int) -> Split | None:
        """The split after ten complaints about its candidate."""
        for answer in range(10):
            command = GiveFeedback(
                "medical", "coder", 2, f"{asker}-{number}-{answer}", answer + 1, asker, "negative",
                alias="production", split=number,
            )  # fmt: skip
            site.registry.execute(command, site.operator.id)
        return site.registry.catalog.adapters["medical/coder"].splits.get("production")

    for asker in ("a", "b", "c", "d"):
        assert running(asker, first.number) == second
    for asker in ("a", "b"):
        assert running(asker, second.number)
    assert running("c", second.number) is None
