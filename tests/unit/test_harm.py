"""A finding of harm keeps a version from production until people with the authority lift it by
stated decisions, which everybody can read."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from adapters.errors import LoraryError
from adapters.names import AdapterRef
from registry import errors
from registry.model.aliases import MoveAlias
from registry.model.canary import SplitAlias
from registry.model.catalog import Catalog, File, Grant, Move
from registry.model.domains import ChangePolicy, CreateDomain
from registry.model.gates import requirements
from registry.model.harm import MOST, DecideHarm, harm_of
from registry.model.keys import IssueKey, RevokeKey
from registry.model.machine import decide
from registry.model.policies import Policy
from registry.model.reviewing import Ruling, Verdict
from registry.model.reviews import CloseReview, OpenReview
from registry.model.versions import PublishVersion
from registry.store import LocalStore
from registry.store.blobs import content_digest
from tests.support.catalogs import FACTS, files
from tests.unit.test_blinding import Hospital
from tests.unit.test_gates import ALICE, BOB, CAROL, METER, NOW, OPERATOR, do
from tests.unit.test_gates import start as start_gates
from tests.unit.test_reviews import DORA, EMIL, said, start

MOVE = MoveAlias("medical", "coder", "production", 2)
APPROVERS = ("gina", "hugo")


def found(*harmful: str, close: bool = True) -> Catalog:
    """A review of versions 2 and 1 in which these experts judged item1 of version 2 harmful."""
    catalog = do(start(), ChangePolicy("medical", Policy(approvals=0), weaken=True), OPERATOR)
    for key in APPROVERS:
        grants = (Grant("approve", "medical"),)
        catalog = do(catalog, IssueKey(key, key, "0" * 64, grants), OPERATOR)
    for expert in harmful:
        catalog = do(catalog, said("item1", "harmful", "correct"), expert)
    return do(catalog, CloseReview("r1"), METER) if close else catalog


def ruled(
    ruling: Ruling = "not-harm",
    reason: str = "a correct dose",
    item: str = "item1",
    version: int = 2,
) -> DecideHarm:
    return DecideHarm("r1", item, version, ruling, reason)


def blocked(catalog: Catalog, move: MoveAlias = MOVE) -> bool:
    try:
        return not decide(catalog, move, ALICE, NOW)
    except errors.PromotionNotEarned:
        return True


def test_harm_that_a_closed_review_left_unsettled_is_lifted_by_one_decision() -> None:
    catalog = found(DORA)
    with pytest.raises(
        errors.PromotionNotEarned, match=r"lorary review decide r1 item1 --version 2"
    ):
        decide(catalog, MOVE, ALICE, NOW)
    catalog = do(catalog, ruled(), "gina")
    assert decide(catalog, MOVE, ALICE, NOW)
    assert decide(catalog, SplitAlias("medical", "coder", "production", 2, 10), ALICE, NOW)
    version = catalog.find(AdapterRef("medical", "coder", version=2))
    (harm,) = requirements(version, Policy(approvals=0), catalog, now=NOW)
    assert harm.met
    assert harm.evidence == (
        "1 finding(s) of harm decided: review r1, item item1, version 2: "
        "not harm by gina because: a correct dose"
    )


def test_nobody_lifts_alone_what_two_experts_found() -> None:
    catalog = do(found(DORA, EMIL), ruled(), "gina")
    assert blocked(catalog)
    second_key = IssueKey("gina2", " GINA ", "0" * 64, (Grant("approve", "medical"),))
    catalog = do(catalog, second_key, OPERATOR)
    assert blocked(do(catalog, ruled(reason="again"), "gina2")), "a second key is no second person"
    assert not blocked(do(catalog, ruled(), "hugo"))


def test_whoever_decides_that_the_harm_stands_is_outweighed_by_as_many_more() -> None:
    catalog = do(do(found(DORA), ruled("stands"), "gina"), ruled(), "hugo")
    assert blocked(catalog)
    assert not blocked(do(catalog, ruled(), BOB))
    assert not blocked(do(catalog, ruled("not-harm", "read again"), "gina")), "the newest counts"


def test_harm_accepted_for_one_version_blocks_others_with_its_weights() -> None:
    catalog = do(found(DORA), ruled("accepted", "warned in the leaflet"), "gina")
    assert not blocked(catalog)
    again = (*files(2), File("README.md", 1, "e" * 64))
    command = PublishVersion("medical", "other", content_digest(again), "tiny", again, FACTS)
    catalog = do(catalog, command, ALICE)
    other = MoveAlias("medical", "other", "production", 1)
    assert blocked(catalog, other)
    assert not blocked(do(catalog, ruled(), "hugo"), other)


@pytest.mark.parametrize("who", [ALICE, DORA])
def test_neither_an_author_nor_an_expert_who_judged_the_item_decides(who: str) -> None:
    catalog = found(DORA)
    own = IssueKey(f"{who}-approves", who, "0" * 64, (Grant("approve", "medical"),))
    catalog = do(catalog, own, OPERATOR)
    with pytest.raises(errors.Forbidden, match="cannot decide"):
        decide(catalog, ruled(), f"{who}-approves", NOW)


@pytest.mark.parametrize("who", [METER, EMIL, OPERATOR])
def test_deciding_takes_the_role_that_approves(who: str) -> None:
    with pytest.raises(errors.Forbidden, match="approve"):
        decide(found(DORA), ruled(), who, NOW)


def test_a_decision_by_a_revoked_key_counts_no_more_and_can_be_stated_again() -> None:
    catalog = do(do(found(DORA), ruled(), "gina"), RevokeKey("gina", "stolen"), OPERATOR)
    assert blocked(catalog)
    catalog = do(
        catalog, IssueKey("gina2", "gina", "0" * 64, (Grant("approve", "medical"),)), OPERATOR
    )
    assert not blocked(do(catalog, ruled(), "gina2"))


def test_a_decision_counts_no_more_once_whoever_made_it_publishes_the_weights() -> None:
    catalog = do(found(DORA), ruled(), "gina")
    grants = (Grant("publish", "medical"),)
    catalog = do(catalog, IssueKey("gina2", "gina", "0" * 64, grants), OPERATOR)
    again = (*files(2), File("README.md", 1, "e" * 64))
    command = PublishVersion("medical", "other", content_digest(again), "tiny", again, FACTS)
    assert blocked(do(catalog, command, "gina2"))


def test_experts_of_an_open_review_settle_it_themselves_whatever_the_item() -> None:
    catalog = found(DORA, close=False)
    refusals = set()
    for item in ("item0", "item1", "nothing"):
        with pytest.raises(errors.Conflict, match="open") as refusal:
            decide(catalog, ruled(item=item), "gina", NOW)
        refusals.add(str(refusal.value))
    assert len(refusals) == 1


def test_there_is_nothing_to_decide_where_no_harm_was_found() -> None:
    catalog = found(DORA)
    for item, version in (("item0", 2), ("item1", 1)):
        with pytest.raises(errors.Conflict, match="nothing to decide"):
            decide(catalog, ruled(item=item, version=version), "gina", NOW)
    for item, version in (("item9", 2), ("item1", 3)):
        with pytest.raises(errors.BadRequest, match="has no answer"):
            decide(catalog, ruled(item=item, version=version), "gina", NOW)


def test_a_decision_has_a_reason_of_bounded_length_and_their_number_is_bounded() -> None:
    catalog = found(DORA)
    for reason in (" ", "x" * 1001):
        with pytest.raises(errors.BadRequest, match="reason"):
            decide(catalog, ruled(reason=reason), "gina", NOW)
    for number in range(MOST):
        catalog = do(catalog, ruled(reason=str(number)), "gina")
    with pytest.raises(errors.Conflict, match="No more fit"):
        decide(catalog, ruled(), "gina", NOW)
    assert decide(catalog, ruled(), "hugo", NOW), "one approver used up what others have"


def test_an_author_of_the_weights_in_another_domain_does_not_decide() -> None:
    catalog = do(found(DORA), CreateDomain("legal", Policy(approvals=0)), OPERATOR)
    decided = do(catalog, ruled(), "gina")
    grants = (Grant("publish", "legal"),)
    for known in (catalog, decided):
        after = do(known, IssueKey("gina-legal", "gina", "0" * 64, grants), OPERATOR)
        command = PublishVersion("legal", "same", content_digest(files(2)), "tiny", files(2), FACTS)
        after = do(after, command, "gina-legal")
        assert blocked(after)
        with pytest.raises(errors.Forbidden, match="cannot decide"):
            decide(after, ruled(), "gina", NOW)
        assert not blocked(do(after, ruled(), "hugo"))


def test_the_same_decision_again_changes_nothing() -> None:
    catalog = do(found(DORA), ruled(), "gina")
    assert decide(catalog, ruled(), "gina", NOW) == ()


def test_harm_found_in_another_domain_is_not_disclosed_here() -> None:
    catalog = found(DORA)
    catalog = do(catalog, IssueKey("lena", "lena", "0" * 64, (Grant("publish", "*"),)), OPERATOR)
    catalog = do(catalog, CreateDomain("legal", Policy(approvals=0)), OPERATOR)
    command = PublishVersion("legal", "coder", content_digest(files(2)), "tiny", files(2), FACTS)
    catalog = do(catalog, command, "lena")
    version = catalog.find(AdapterRef("legal", "coder", version=1))
    (harm,) = requirements(version, Policy(approvals=0), catalog, now=NOW)
    assert not harm.met
    assert "r1" not in str(harm)
    assert "item1" not in str(harm)
    catalog = do(catalog, ruled(), "gina")
    (harm,) = requirements(version, Policy(approvals=0), catalog, now=NOW)
    assert harm.met
    assert "gina" not in str(harm)


# Rollback is never harder than promotion.

OUTCOMES: tuple[Verdict, ...] = ("correct", "incorrect", "harmful")


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 2), st.integers(0, 3), st.booleans())
def test_going_back_to_a_version_asks_nothing_that_a_promotion_does_not_ask(
    seed: int, approvals: int, reviewed_items: int, closed: bool
) -> None:
    """Whatever experts found and people decided: what a rollback lacks, a promotion lacks, too."""
    chance = random.Random(seed)
    catalog = start_gates(Policy(approvals=0))
    people = [*(f"k{i}" for i in range(5)), BOB, CAROL]
    for key in people[:5]:
        grants = (Grant("review", "medical"), Grant("approve", "medical"))
        catalog = do(catalog, IssueKey(key, key, "0" * 64, grants), OPERATOR)
    opened = OpenReview("r1", "medical", "coder", (2, 1), "Some", ("a", "b"), "d" * 64)
    catalog = do(catalog, opened, METER)
    for _ in range(chance.randint(0, 8)):
        verdicts = (chance.choice(OUTCOMES), chance.choice(OUTCOMES))
        judgement = replace(said(chance.choice("ab"), *verdicts))
        catalog = attempt(catalog, judgement, chance.choice(people))
    if closed:
        catalog = do(catalog, CloseReview("r1"), METER)
    for _ in range(chance.randint(0, 6)):
        ruling = chance.choice(("not-harm", "stands", "accepted"))
        decision = ruled(ruling, item=chance.choice("ab"), version=chance.choice((1, 2)))  # type: ignore[arg-type]
        catalog = attempt(catalog, decision, chance.choice(people))
    if chance.random() < 0.3:
        catalog = do(catalog, RevokeKey(chance.choice(people), "left"), OPERATOR)
    policy = Policy(approvals=approvals, reviewed_items=reviewed_items)
    catalog = do(catalog, ChangePolicy("medical", policy, weaken=True), OPERATOR)
    adapter = catalog.adapters["medical/coder"]
    went = replace(
        adapter, moves=(*adapter.moves, Move("production", 2, 1, ALICE, NOW, earned=True))
    )
    before = catalog.changed(adapters={"medical/coder": went})
    version = adapter.versions[1]
    forward = lacks(requirements(version, policy, catalog, now=NOW))
    back = lacks(requirements(version, policy, before, now=NOW))
    assert back <= forward
    harmful = any(harm.blocks(version) for harm in harm_of(version, catalog))
    assert ("harm" in back) == ("harm" in forward) == harmful


def attempt(catalog: Catalog, command: Any, actor: str) -> Catalog:
    try:
        return do(catalog, command, actor)
    except LoraryError:
        return catalog


def lacks(asked: Any) -> set[str]:
    return {requirement.name for requirement in asked if not requirement.met}


# Over HTTP, on the pages, in the log.


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    made = Hospital(LocalStore(tmp_path / "store"))
    made.issue("gina", "gina", Grant("approve", "medical"))
    made.issue("auditor", "audra", Grant("audit", "medical"))
    with made.client:
        yield made


def judged(hospital: Hospital) -> tuple[str, str]:
    """A closed review in which one expert found one answer of version 1 harmful."""
    review = hospital.open()
    (item,) = hospital.judge("ada", review, "old", most=1)
    hospital.close(review)
    return review, item


def test_a_decision_is_shown_on_the_reviews_page_at_the_gate_and_in_the_log(
    hospital: Hospital,
) -> None:
    hospital.do(ChangePolicy("medical", Policy(approvals=0), weaken=True))
    review, item = judged(hospital)
    path = "/api/v1/adapters/medical/coder/aliases/production"
    refused = hospital.ask("team", "PUT", path, json={"version": 1})
    assert refused.status_code == 409
    assert f"review {review}, item {item}, version 1 (lifted by 0 of 1 people)" in refused.text
    page = hospital.page("gina", f"/reviews/{review}").text
    assert "blocks promotion" in page
    assert "old " in page, "who decides reads what was answered"
    form = {"item": item, "version": 1, "ruling": "not-harm", "reason": "Dose <b>checked</b>"}
    answer = hospital.page("gina", f"/reviews/{review}/decisions", form)
    assert answer.status_code == 303, answer.text
    page = hospital.page("ada", f"/reviews/{review}").text
    assert "not harm, by gina" in page.lower()
    assert "Dose &lt;b&gt;checked&lt;/b&gt;" in page
    assert "State this decision" not in page
    shown = hospital.ask("ada", "GET", f"/api/v1/reviews/{review}").json()["harm"]
    assert [(one["blocks"], one["decisions"][0]["name"]) for one in shown] == [(False, "gina")]
    gate = {r["name"]: r for r in hospital.asked("team", 1)}
    assert gate["harm"]["met"]
    assert "not harm by gina because: Dose <b>checked</b>" in gate["harm"]["evidence"]
    log = hospital.ask("auditor", "GET", "/api/v1/log").text
    assert "HarmDecided" in log
    assert "Dose <b>checked</b>" in log
    assert hospital.ask("team", "PUT", path, json={"version": 1}).status_code == 200


def test_the_answer_to_a_decision_holds_it(hospital: Hospital) -> None:
    review, item = judged(hospital)
    said = {"item": item, "version": 1, "ruling": "not-harm", "reason": "Checked."}
    answer = hospital.ask("gina", "POST", f"/api/v1/reviews/{review}/decisions", json=said)
    (harm,) = answer.json()["harm"]
    assert ([d["reason"] for d in harm["decisions"]], harm["blocks"]) == (["Checked."], False)


def test_an_open_review_hides_what_a_decision_about_an_earlier_one_may_quote(
    hospital: Hospital,
) -> None:
    review, item = judged(hospital)
    said = {"item": item, "version": 1, "ruling": "stands", "reason": "version 1 said: old 3"}
    path = f"/api/v1/reviews/{review}"
    assert hospital.ask("gina", "POST", f"{path}/decisions", json=said).status_code == 201
    hospital.open()
    for who in ("ada", "doc", "everything"):
        for text in (
            hospital.ask(who, "GET", path).text,
            hospital.page(who, f"/reviews/{review}").text,
            str(hospital.asked(who, 1)),
        ):
            assert "old 3" not in text
            assert "version 1 said" not in text
    assert "version 1 said" in hospital.ask("meter", "GET", path).text


def test_of_an_open_review_no_finding_is_shown_to_anybody(hospital: Hospital) -> None:
    review = hospital.open()
    (item,) = hospital.judge("ada", review, "old", most=1)
    for who in ("meter", "everything", "gina", "auditor"):
        assert item not in str(hospital.asked(who, 1))
        assert item not in hospital.page(who, f"/reviews/{review}").text
        assert not hospital.ask(who, "GET", f"/api/v1/reviews/{review}").json().get("harm")
