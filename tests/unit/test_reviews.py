"""Expert review: who may judge, what settles an item, what is taught from it."""

import hashlib
import json
from typing import get_args

import msgspec
import pytest

from adapters.names import AdapterRef
from adapters.tasks.criteria import Criterion
from eval.review_items import choose
from registry import errors
from registry.log.commits import Commit
from registry.maintain.auditing import audit
from registry.maintain.collection import outdated
from registry.model.aliases import AliasMoved, MoveAlias
from registry.model.base import Entry, Event
from registry.model.canary import SplitAlias
from registry.model.catalog import Catalog, File, Grant
from registry.model.collection import blobs_in_use
from registry.model.domains import ChangePolicy, CreateDomain
from registry.model.gates import requirements
from registry.model.harm import DecideHarm
from registry.model.index import Index, is_record
from registry.model.keys import IssueKey, RevokeKey
from registry.model.machine import decide
from registry.model.policies import Policy
from registry.model.reviewing import (
    Item,
    Judgement,
    Notes,
    Outcome,
    Preference,
    Review,
    Verdict,
    agreement,
    is_harmful,
    left,
    order,
    progress,
    queue,
    settled,
    settled_verdicts,
)
from registry.model.reviews import (
    CloseReview,
    EraseReview,
    JudgeItem,
    OpenReview,
    WithdrawJudgement,
    counted,
    holders,
)
from registry.model.versions import ApproveVersion, PublishVersion
from registry.review_export import (
    from_label_studio,
    make_item,
    preferences,
    sft,
    to_label_studio,
)
from registry.store.blobs import content_digest
from registry.times import instant
from tests.support.catalogs import FACTS, files
from tests.unit.test_gates import ALICE, METER, NOW, OPERATOR, digest, do
from tests.unit.test_gates import start as start_gates

DORA, EMIL, FRED = "dora", "emil", "fred"
ITEMS = tuple(f"item{i}" for i in range(4))
CONTENT = "d" * 64


def start(versions: tuple[int, ...] = (2, 1)) -> Catalog:
    """An open review of two versions by three experts; none of them published."""
    catalog = start_gates(Policy())
    for key in (DORA, EMIL, FRED):
        command = IssueKey(key, key, "0" * 64, (Grant("review", "medical"),))
        catalog = do(catalog, command, OPERATOR)
    opened = OpenReview("r1", "medical", "coder", versions, "Forty answers", ITEMS, CONTENT)
    return do(catalog, opened, METER)


def said(
    item: str = "item0",
    *verdicts: Verdict,
    preferred: Preference = "neither",
    notes: str | None = None,
) -> JudgeItem:
    severity = 2 if "harmful" in verdicts else 0
    return JudgeItem("r1", item, verdicts or ("correct", "incorrect"), severity, preferred, notes)


def review(catalog: Catalog) -> Review:
    return catalog.reviews["r1"]


def test_two_who_agree_settle_an_item() -> None:
    catalog = do(do(start(), said(), DORA), said(), EMIL)
    assert progress(review(catalog)) == (1, 0, 4)
    outcome = settled(review(catalog).of("item0"))
    assert outcome is not None
    assert outcome.verdicts == ("correct", "incorrect")
    with pytest.raises(errors.Conflict, match="settled"):
        decide(catalog, said(), FRED, NOW)


def test_two_who_differ_need_a_third_who_decides() -> None:
    catalog = do(start(), said("item0", "correct", "correct"), DORA)
    catalog = do(catalog, said("item0", "harmful", "correct"), EMIL)
    assert progress(review(catalog)) == (0, 1, 4)
    assert "item0" in queue(review(catalog), FRED, {})
    catalog = do(catalog, said("item0", "incorrect", "correct"), FRED)
    outcome = settled(review(catalog).of("item0"))
    assert outcome is not None
    assert outcome.verdicts == ("incorrect", "correct")


def test_nobody_judges_an_item_twice_not_even_with_a_second_key() -> None:
    catalog = do(start(), said(), DORA)
    second = IssueKey("dora2", "Dora", "0" * 64, (Grant("review", "medical"),))
    catalog = do(catalog, second, OPERATOR)
    for key in (DORA, "dora2"):
        with pytest.raises(errors.Conflict, match="judged it before"):
            decide(catalog, said(), key, NOW)


def test_a_publisher_does_not_judge_her_own_version() -> None:
    grant = IssueKey("a2", "alice", "0" * 64, (Grant("review", "medical"),))
    catalog = do(start(), grant, OPERATOR)
    with pytest.raises(errors.Forbidden, match="Ask a colleague"):
        decide(catalog, said(), "a2", NOW)


def test_only_reviewers_judge_and_only_evaluators_open() -> None:
    with pytest.raises(errors.Forbidden, match="review"):
        decide(start(), said(), METER, NOW)
    command = OpenReview("r2", "medical", "coder", (2,), "x", ITEMS, CONTENT)
    with pytest.raises(errors.Forbidden, match="evaluate"):
        decide(start(), command, DORA, NOW)


@pytest.mark.parametrize(
    "command",
    [
        said("item9"),
        said("item0", "correct"),
        JudgeItem("r1", "item0", ("correct", "incorrect"), 4),
        JudgeItem("r1", "item0", ("correct", "fine"), 0),  # type: ignore[arg-type]
    ],
)
def test_a_judgement_that_makes_no_sense_is_refused(command: JudgeItem) -> None:
    with pytest.raises(errors.BadRequest):
        decide(start(), command, DORA, NOW)


def test_texts_that_a_collection_may_have_removed_are_named_by_no_review_and_no_judgement() -> None:
    opened = OpenReview("r2", "medical", "coder", (2, 1), "Forty answers", ITEMS, CONTENT)
    catalog = start()
    for command, by in ((opened, METER), (said(notes="e" * 64), DORA)):
        assert decide(catalog, command, by, NOW)
        with pytest.raises(errors.BeingCollected):
            decide(catalog.changed(swept=1), command, by, NOW)


def test_a_closed_review_takes_no_more() -> None:
    catalog = do(start(), CloseReview("r1"), METER)
    with pytest.raises(errors.Conflict, match="closed"):
        decide(catalog, said(), DORA, NOW)
    assert queue(review(catalog), DORA, {}) == []


def test_texts_can_be_given_up_once_it_is_closed_and_verdicts_stay() -> None:
    catalog = do(start(), said(notes="e" * 64), DORA)
    assert {CONTENT, "e" * 64} <= blobs_in_use(catalog)
    with pytest.raises(errors.Conflict, match="Close the review first"):
        decide(catalog, EraseReview("r1"), OPERATOR, NOW)
    catalog = do(do(catalog, CloseReview("r1"), METER), EraseReview("r1"), OPERATOR)
    assert not {CONTENT, "e" * 64} & blobs_in_use(catalog)
    assert len(review(catalog).judgements) == 1


def test_after_a_restart_texts_that_were_given_up_are_still_a_record_and_no_file() -> None:
    catalog = do(do(start(), CloseReview("r1"), METER), EraseReview("r1"), OPERATOR)
    assert review(catalog).content is None
    assert is_record(Index.of(catalog), CONTENT)


def test_each_expert_sees_answers_in_an_order_of_their_own_and_always_the_same() -> None:
    shown = review(start())
    items = [Item(id=f"x{i}", prompt="", answers=("", ""), secret=f"{i}") for i in range(2000)]
    for expert in (DORA, EMIL):
        orders = [order(shown, item, expert) for item in items]
        assert 880 < orders.count((0, 1)) < 1120
        assert orders == [order(shown, item, expert) for item in items]
    assert queue(shown, DORA, {}) != queue(shown, EMIL, {})


def test_the_order_cannot_be_computed_without_the_items_secret() -> None:
    """Half of the orders change with the secret: without it, guessing is all that is left."""
    shown = review(start())
    items = [Item(id=f"x{i}", prompt="", answers=("", ""), secret="one") for i in range(2000)]
    other = [msgspec.structs.replace(item, secret="two") for item in items]
    same = sum(
        order(shown, a, DORA) == order(shown, b, DORA) for a, b in zip(items, other, strict=True)
    )
    assert 880 < same < 1120


def test_a_review_opened_before_there_were_secrets_keeps_its_orders() -> None:
    shown = review(start())
    item = Item(id="item1", prompt="", answers=("", ""))
    digest = hashlib.sha256("\n".join(("order", "r1", "item1", DORA)).encode()).digest()
    wanted = (1, 0) if int.from_bytes(digest[:8]) / 2**64 < 0.5 else (0, 1)
    assert order(shown, item, DORA) == wanted


class Compared(str):
    """An item's id that counts how often ids are compared."""

    __slots__ = ()
    times = 0

    def __eq__(self, other: object) -> bool:
        Compared.times += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_a_review_is_read_in_one_pass_over_its_judgements() -> None:
    def compared(items: int) -> int:
        names = tuple(Compared(f"item{number}") for number in range(items))
        judgements = tuple(
            Judgement(item=Compared(name), expert=expert, time=NOW, verdicts=("correct", "correct"))
            for expert in (DORA, EMIL)
            for name in names
        )
        whole = msgspec.structs.replace(review(start()), items=names, judgements=judgements)
        Compared.times = 0
        assert progress(whole) == (items, 0, items)
        assert queue(whole, FRED, {}) == []
        assert left(whole, FRED, {}) == 0
        assert len(settled_verdicts(whole, 0, lambda _: True)) == items
        assert agreement(whole).n == 2 * items
        return Compared.times

    assert compared(400) < 12 * compared(40)


def test_a_harmful_answer_takes_a_severity() -> None:
    without = JudgeItem("r1", "item0", ("harmful", "correct"), 0)
    with pytest.raises(errors.BadRequest, match="its harm is not none"):
        decide(start(), without, DORA, NOW)


def test_agreement_is_of_the_two_who_did_not_know_of_each_other() -> None:
    catalog = start()
    for item in ITEMS:
        catalog = do(catalog, said(item, "correct", "incorrect"), DORA)
        last = item == ITEMS[-1]
        catalog = do(catalog, said(item, "incorrect" if last else "correct", "incorrect"), EMIL)
    catalog = do(catalog, said(ITEMS[-1], "correct", "incorrect"), FRED)
    found = agreement(review(catalog))
    assert found.n == 8
    assert found.kappa is not None
    # Eight answers, seven alike: observed 7/8; expected (4·3 + 4·5) / 64.
    assert found.kappa[0] == pytest.approx((7 / 8 - 0.5) / 0.5)


def test_a_harmful_finding_keeps_a_version_from_production_even_on_the_way_back() -> None:
    catalog = do(start(), ChangePolicy("medical", Policy(approvals=0), weaken=True), OPERATOR)
    move = MoveAlias("medical", "coder", "production", 2)
    catalog = do(catalog, move, ALICE)
    catalog = do(catalog, MoveAlias("medical", "coder", "production", 1), ALICE)
    for expert in (DORA, EMIL):
        catalog = do(catalog, said("item1", "harmful", "correct"), expert)
    with pytest.raises(errors.PromotionNotEarned, match=r"experts judged 1 answer\(s\) harmful"):
        decide(catalog, move, ALICE, NOW)


@pytest.mark.parametrize("reviewed_items", [0, 1])
@pytest.mark.parametrize("place", [0, 1])
def test_harm_blocks_a_first_promotion_and_a_canary_whatever_the_policy_asks(
    reviewed_items: int, place: int
) -> None:
    policy = Policy(approvals=0, reviewed_items=reviewed_items)
    catalog = do(
        start((2, 1) if place == 0 else (1, 2)),
        ChangePolicy("medical", policy, weaken=True),
        OPERATOR,
    )
    verdicts: tuple[Verdict, Verdict] = ("harmful", "correct")
    for expert in (DORA, EMIL):
        first, second = verdicts if place == 0 else verdicts[::-1]
        catalog = do(catalog, said("item1", first, second), expert)
    for command in (
        MoveAlias("medical", "coder", "production", 2),
        SplitAlias("medical", "coder", "production", 2, 10),
    ):
        with pytest.raises(errors.PromotionNotEarned, match="harm: experts judged 1"):
            decide(catalog, command, ALICE, NOW)


def test_harm_that_one_expert_saw_blocks_until_two_others_disagree() -> None:
    catalog = do(start(), ChangePolicy("medical", Policy(approvals=0), weaken=True), OPERATOR)
    move = MoveAlias("medical", "coder", "production", 2)
    catalog = do(catalog, said("item1", "harmful", "correct"), DORA)
    for expert in (EMIL, FRED):
        with pytest.raises(errors.PromotionNotEarned, match="harm"):
            decide(catalog, move, ALICE, NOW)
        catalog = do(catalog, said("item1", "correct", "correct"), expert)
    assert decide(catalog, move, ALICE, NOW)


@pytest.mark.parametrize("place", [0, 1])
def test_harm_that_two_experts_found_stands_although_they_differ_about_the_other_answer(
    place: int,
) -> None:
    """The third decides about the answer in dispute alone."""
    catalog = start((2, 1) if place == 0 else (1, 2))
    catalog = do(catalog, ChangePolicy("medical", Policy(approvals=0), weaken=True), OPERATOR)
    move = MoveAlias("medical", "coder", "production", 2)
    said_by: list[tuple[str, tuple[Verdict, Verdict]]] = [
        (DORA, ("harmful", "correct")),
        (EMIL, ("harmful", "incorrect")),
        (FRED, ("correct", "correct")),
    ]
    for expert, verdicts in said_by:
        first, second = verdicts if place == 0 else verdicts[::-1]
        catalog = do(catalog, said("item1", first, second), expert)
        with pytest.raises(errors.PromotionNotEarned, match="harm"):
            decide(catalog, move, ALICE, NOW)
    outcome = settled(review(catalog).of("item1"))
    assert outcome is not None
    assert outcome.verdicts == (("harmful", "correct") if place == 0 else ("correct", "harmful"))
    assert progress(review(catalog)) == (1, 0, 4)


@pytest.mark.parametrize("third", get_args(Verdict))
@pytest.mark.parametrize("second", get_args(Verdict))
@pytest.mark.parametrize("first", get_args(Verdict))
@pytest.mark.parametrize("other", [("correct", "correct"), ("correct", "incorrect")])
def test_harm_by_two_persons_stands_whatever_a_third_says(
    first: Verdict, second: Verdict, third: Verdict, other: tuple[Verdict, Verdict]
) -> None:
    made = judged(
        ("i", (first, other[0]), "neither", None),
        ("i", (second, other[1]), "neither", None),
        ("i", (third, "correct"), "neither", None),
    )
    found = settled_verdicts(made, 0, lambda _: True)
    harmful = is_harmful(made.of("i"), 0, lambda _: True)
    if (first, second, third).count("harmful") >= 2:
        assert (found, harmful) == ({"i": "harmful"}, True)
    elif first == second:
        assert (found, harmful) == ({"i": first}, False)
    else:
        assert (found, harmful) == ({"i": third}, third == "harmful")


def test_a_third_experts_preference_does_not_stand_beside_verdicts_that_were_overruled() -> None:
    made = judged(
        ("i", ("harmful", "correct"), "second", None),
        ("i", ("harmful", "incorrect"), "second", None),
        ("i", ("correct", "correct"), "first", None),
    )
    outcome = settled(made.of("i"))
    assert outcome == Outcome(verdicts=("harmful", "correct"), preferred="neither")


def is_forged(catalog: Catalog, event: Event) -> bool:
    """What the audit calls a commit in which Alice causes the event."""
    commit = Commit(
        sequence=catalog.sequence + 1, previous="0" * 64, id="x", time=NOW,
        entries=(Entry(ALICE, event),),
    )  # fmt: skip
    (doubt,) = audit(catalog, commit)
    return doubt.forged


def test_a_log_in_which_a_third_alone_decided_about_both_answers_is_not_called_forged() -> None:
    catalog = do(start(), ChangePolicy("medical", Policy(approvals=0), weaken=True), OPERATOR)
    catalog = do(catalog, said("item1", "harmful", "correct"), DORA)
    catalog = do(catalog, said("item1", "harmful", "incorrect"), EMIL)
    moved = AliasMoved(domain="medical", adapter="coder", alias="production", version=2, previous=1)
    commit = Commit(
        sequence=catalog.sequence + 1, previous="0" * 64, id="x", time=NOW,
        entries=(Entry(ALICE, moved),),
    )  # fmt: skip
    assert [doubt.forged for doubt in audit(catalog, commit)] == [True]
    catalog = do(catalog, said("item1", "correct", "correct"), FRED)
    assert [doubt.forged for doubt in audit(catalog, commit)] == [False]


def test_harm_follows_the_weights_whatever_number_and_card_they_are_published_with() -> None:
    catalog = do(start(), ChangePolicy("medical", Policy(approvals=0), weaken=True), OPERATOR)
    for expert in (DORA, EMIL):
        catalog = do(catalog, said("item1", "harmful", "correct"), expert)
    again = (*files(2), File("README.md", 1, "e" * 64))
    command = PublishVersion("medical", "other", content_digest(again), "tiny", again, FACTS)
    catalog = do(catalog, command, ALICE)
    with pytest.raises(errors.PromotionNotEarned, match="harm"):
        decide(catalog, MoveAlias("medical", "other", "production", 1), ALICE, NOW)


def test_judgements_by_a_revoked_key_settle_nothing_but_their_harm_still_counts() -> None:
    catalog = do(start(), ChangePolicy("medical", Policy(approvals=0), weaken=True), OPERATOR)
    move = MoveAlias("medical", "coder", "production", 2)
    catalog = do(catalog, said("item1", "harmful", "correct"), DORA)
    for expert in (EMIL, FRED):
        catalog = do(catalog, said("item1", "correct", "correct"), expert)
    assert decide(catalog, move, ALICE, NOW)
    catalog = do(catalog, RevokeKey(EMIL, "stolen"), OPERATOR)
    with pytest.raises(errors.PromotionNotEarned, match="harm"):
        decide(catalog, move, ALICE, NOW)


@pytest.mark.parametrize("again", ["gina", "emil2"])
def test_what_a_revoked_key_judged_is_judged_again(again: str) -> None:
    """By another expert, or by the same one with another key: else its harm could never be settled
    otherwise."""
    catalog = do(start(), ChangePolicy("medical", Policy(approvals=0), weaken=True), OPERATOR)
    move = MoveAlias("medical", "coder", "production", 2)
    for key, holder in (("gina", "gina"), ("emil2", " EMIL")):
        command = IssueKey(key, holder, "0" * 64, (Grant("review", "medical"),))
        catalog = do(catalog, command, OPERATOR)
    catalog = do(catalog, said("item1", "harmful", "correct"), DORA)
    for expert in (EMIL, FRED):
        catalog = do(catalog, said("item1", "correct", "correct"), expert)
    for expert in ("gina", "emil2"):
        with pytest.raises(errors.Conflict, match="settled"):
            decide(catalog, said("item1", "correct", "correct"), expert, NOW)
    catalog = do(catalog, RevokeKey(EMIL, "stolen"), OPERATOR)
    assert "item1" in queue(counted(catalog, review(catalog)), again, holders(catalog))
    catalog = do(catalog, said("item1", "correct", "correct"), again)
    assert decide(catalog, move, ALICE, NOW)
    for expert in (DORA, FRED, "gina", "emil2"):
        with pytest.raises(errors.Conflict, match="settled"):
            decide(catalog, said("item1", "correct", "correct"), expert, NOW)


def elsewhere(catalog: Catalog) -> Catalog:
    """With the same weights in the domain `sandbox`, where two experts judge them who have no role
    in `medical`; `ivy` and `jan` may judge in both."""
    catalog = do(catalog, CreateDomain("sandbox", Policy(guarded=())), OPERATOR)
    for key, grants in (
        ("maker", (Grant("publish", "sandbox"),)),
        ("tester", (Grant("evaluate", "sandbox"),)),
        ("gus", (Grant("review", "sandbox"),)),
        ("hal", (Grant("review", "sandbox"),)),
        ("ivy", (Grant("review", "sandbox"), Grant("review", "medical"))),
        ("jan", (Grant("review", "*"),)),
    ):
        catalog = do(catalog, IssueKey(key, key, "0" * 64, grants), OPERATOR)
    command = PublishVersion("sandbox", "copy", digest(2), "tiny", files(2), FACTS)
    catalog = do(catalog, command, "maker")
    opened = OpenReview("r1", "sandbox", "copy", (1,), "Four answers", ITEMS, CONTENT)
    return do(catalog, opened, "tester")


def start_elsewhere() -> Catalog:
    policy = Policy(approvals=0, reviewed_items=1)
    return elsewhere(start_gates(policy))


def test_experts_of_another_domain_settle_nothing_that_this_domains_policy_asks_for() -> None:
    catalog, move = start_elsewhere(), MoveAlias("medical", "coder", "production", 2)
    for expert in ("gus", "hal"):
        catalog = do(catalog, said("item0", "correct"), expert)
    with pytest.raises(errors.PromotionNotEarned, match="expert review"):
        decide(catalog, move, ALICE, NOW)
    for expert in ("ivy", "jan"):
        catalog = do(catalog, said("item1", "correct"), expert)
    assert decide(catalog, move, ALICE, NOW)
    catalog = do(catalog, said("item2", "harmful"), "gus")
    with pytest.raises(errors.PromotionNotEarned):
        decide(catalog, move, ALICE, NOW)
    for expert in ("hal", "ivy"):
        catalog = do(catalog, said("item2", "correct"), expert)
    assert decide(catalog, move, ALICE, NOW)


def test_a_log_in_which_experts_of_another_domain_counted_is_not_called_forged() -> None:
    catalog = start_elsewhere()
    moved = AliasMoved(domain="medical", adapter="coder", alias="production", version=2, previous=1)
    forged = []
    for expert in ("gus", "hal"):
        catalog = do(catalog, said("item0", "correct"), expert)
        commit = Commit(
            sequence=catalog.sequence + 1, previous="0" * 64, id="x", time=NOW,
            entries=(Entry(ALICE, moved),),
        )  # fmt: skip
        forged += [doubt.forged for doubt in audit(catalog, commit)]
    assert forged == [True, False]


def test_a_policy_may_ask_for_answers_that_experts_settled() -> None:
    catalog = do(start(), ChangePolicy("medical", Policy(reviewed_items=2), weaken=True), OPERATOR)
    catalog = do(catalog, ApproveVersion("medical", "coder", 2, digest(2)), "carol")
    move = MoveAlias("medical", "coder", "production", 2)
    with pytest.raises(errors.PromotionNotEarned, match="0 answers settled, 2 required"):
        decide(catalog, move, ALICE, NOW)
    for item in ITEMS[:2]:
        for expert in (DORA, EMIL):
            catalog = do(catalog, said(item), expert)
    moved = do(catalog, move, ALICE)
    assert moved.resolve(AdapterRef("medical", "coder")).number == 2


def test_a_policy_may_ask_how_many_of_the_settled_answers_are_correct() -> None:
    policy = Policy(approvals=0, reviewed_correct=0.05, alpha=0.3)
    catalog = do(start(), ChangePolicy("medical", policy, weaken=True), OPERATOR)
    move = MoveAlias("medical", "coder", "production", 2)
    lacking = "0 of them correct, lower bound 0 %, 5 % required"
    with pytest.raises(errors.PromotionNotEarned, match=lacking):
        decide(catalog, move, ALICE, NOW)
    for item in ITEMS[:2]:
        for expert in (DORA, EMIL):
            catalog = do(catalog, said(item, "correct" if item == ITEMS[0] else "incorrect",
                                       "correct"), expert)  # fmt: skip
    # One of two, looked at after each: less than the 16.33 % of a bound for one look.
    assert do(catalog, move, ALICE).resolve(AdapterRef("medical", "coder")).number == 2
    stricter = msgspec.structs.replace(policy, reviewed_correct=0.06)
    catalog = do(catalog, ChangePolicy("medical", stricter), OPERATOR)
    with pytest.raises(errors.PromotionNotEarned, match=r"lower bound 5\.556 %, 6 % required"):
        decide(catalog, move, ALICE, NOW)


def test_a_log_in_which_an_author_and_the_same_weights_twice_counted_is_not_called_forged() -> None:
    catalog = start((2,))
    again = (*files(2), File("README.md", 1, "e" * 64))
    command = PublishVersion("medical", "coder", content_digest(again), "tiny", again, FACTS)
    catalog = do(catalog, command, ALICE)
    opened = OpenReview("r2", "medical", "coder", (3, 2), "The same twice", ITEMS, CONTENT)
    catalog = do(catalog, opened, METER)
    for expert in (DORA, EMIL):
        catalog = do(catalog, JudgeItem("r2", "item0", ("correct", "correct")), expert)
    catalog = do(catalog, CreateDomain("sandbox", Policy(guarded=())), OPERATOR)
    issued = IssueKey("dora2", DORA, "0" * 64, (Grant("publish", "sandbox"),))
    catalog = do(catalog, issued, OPERATOR)
    copy = PublishVersion("sandbox", "copy", digest(2), "tiny", files(2), FACTS)
    catalog = do(catalog, copy, "dora2")
    moved = AliasMoved(domain="medical", adapter="coder", alias="production", version=2, previous=1)
    for needed, forged in ((2, False), (3, True)):
        policy = Policy(approvals=0, reviewed_items=needed)
        catalog = do(catalog, ChangePolicy("medical", policy, weaken=True), OPERATOR)
        assert is_forged(catalog, moved) == forged


def test_a_log_in_which_an_authors_review_and_a_bound_for_one_look_counted_is_not_forged() -> None:
    catalog = start((2,))
    grants = (Grant("evaluate", "medical"),)
    catalog = do(catalog, IssueKey("alice2", ALICE, "0" * 64, grants), OPERATOR)
    opened = OpenReview("r2", "medical", "coder", (2,), "My answers", ITEMS, CONTENT)
    catalog = do(catalog, opened, "alice2")
    for expert in (DORA, EMIL):
        for item in ITEMS[:3]:
            catalog = do(catalog, JudgeItem("r2", item, ("correct",)), expert)
    moved = AliasMoved(domain="medical", adapter="coder", alias="production", version=2, previous=1)
    for needed, share, forged in ((3, 0.3, False), (4, 0.3, True), (3, 0.4, True)):
        # The bound for one look at three correct answers is 36.84 %; for every look 25.57 %.
        policy = Policy(approvals=0, reviewed_items=needed, reviewed_correct=share)
        catalog = do(catalog, ChangePolicy("medical", policy, weaken=True), OPERATOR)
        assert is_forged(catalog, moved) == forged


def test_an_expert_withdraws_a_judgement_and_judges_again_until_the_review_is_closed() -> None:
    catalog = do(start((2,)), ChangePolicy("medical", Policy(approvals=0), weaken=True), OPERATOR)
    grants = (Grant("review", "medical"),)
    catalog = do(catalog, IssueKey("dora2", DORA, "0" * 64, grants), OPERATOR)
    move = MoveAlias("medical", "coder", "production", 2)
    withdraw = WithdrawJudgement("r1", "item0")
    catalog = do(catalog, said("item0", "harmful"), DORA)
    with pytest.raises(errors.PromotionNotEarned, match="harm"):
        decide(catalog, move, ALICE, NOW)
    with pytest.raises(errors.Conflict, match="have not judged"):
        decide(catalog, withdraw, EMIL, NOW)
    with pytest.raises(errors.Forbidden):
        decide(catalog, withdraw, METER, NOW)
    # By whichever of the expert's keys.
    catalog = do(catalog, withdraw, "dora2")
    assert decide(catalog, move, ALICE, NOW)
    assert "item0" in queue(review(catalog), DORA, holders(catalog))
    assert [j.verdicts for j in review(catalog).withdrawn] == [("harmful",)]
    with pytest.raises(errors.Conflict, match="have not judged"):
        decide(catalog, withdraw, DORA, NOW)
    # What two agreed on is open again without one of them.
    for expert in (DORA, EMIL):
        catalog = do(catalog, said("item0", "correct"), expert)
    assert settled_for_production(catalog) == "1 answers settled, 1 required"
    assert settled_for_production(do(catalog, withdraw, EMIL)).startswith("0 answers settled")
    closed = do(catalog, CloseReview("r1"), METER)
    with pytest.raises(errors.Conflict, match="This review is closed"):
        decide(closed, withdraw, DORA, NOW)


def test_an_expert_withdraws_judgements_of_one_item_three_times_at_most() -> None:
    """Else one key could make the review larger and larger."""
    catalog = start((2,))
    for _ in range(3):
        catalog = do(catalog, said("item0", "correct"), DORA)
        catalog = do(catalog, WithdrawJudgement("r1", "item0"), DORA)
    catalog = do(catalog, said("item0", "correct"), DORA)
    with pytest.raises(errors.Conflict, match="The last one stays"):
        decide(catalog, WithdrawJudgement("r1", "item0"), DORA, NOW)
    catalog = do(catalog, said("item1", "correct"), DORA)
    assert decide(catalog, WithdrawJudgement("r1", "item1"), DORA, NOW)


def test_who_withdrew_a_judgement_of_an_item_does_not_decide_about_its_harm() -> None:
    catalog = start((2,))
    grants = (Grant("approve", "medical"),)
    catalog = do(catalog, IssueKey("dora2", DORA, "0" * 64, grants), OPERATOR)
    catalog = do(catalog, said("item0", "correct"), DORA)
    catalog = do(catalog, WithdrawJudgement("r1", "item0"), DORA)
    for expert in (EMIL, FRED):
        catalog = do(catalog, said("item0", "harmful"), expert)
    catalog = do(catalog, CloseReview("r1"), METER)
    with pytest.raises(errors.Forbidden, match="You judged this item"):
        decide(catalog, DecideHarm("r1", "item0", 2, "not-harm", "A slip"), "dora2", NOW)


def settled_for_production(catalog: Catalog) -> str:
    """What the gate says of the answers of version 2 that experts settled."""
    version = catalog.find(AdapterRef("medical", "coder", 2))
    policy = Policy(approvals=0, reviewed_items=1)
    (asked,) = requirements(version, policy, catalog, now=NOW)
    return asked.evidence


def test_what_a_review_shows_that_an_author_of_the_weights_opened_is_no_evidence_but_of_harm() -> (
    None
):
    """Who opens a review supplies its answers."""
    catalog = start((2,))
    grants = (Grant("evaluate", "medical"),)
    catalog = do(catalog, IssueKey("alice2", ALICE, "0" * 64, grants), OPERATOR)
    opened = OpenReview("r2", "medical", "coder", (2,), "My answers", ITEMS, CONTENT)
    catalog = do(catalog, opened, "alice2")
    for expert in (DORA, EMIL):
        catalog = do(catalog, said("item0", "correct"), expert)
        catalog = do(catalog, JudgeItem("r2", "item1", ("correct",)), expert)
    not_counted = "1 review(s) that an author of the weights opened do not count"
    assert settled_for_production(catalog) == f"1 answers settled, 1 required; {not_counted}"
    for expert in (DORA, EMIL):
        catalog = do(catalog, JudgeItem("r2", "item2", ("harmful",), severity=2), expert)
    version = catalog.find(AdapterRef("medical", "coder", 2))
    unmet = [asked.name for asked in requirements(version, Policy(approvals=0), catalog, now=NOW)]
    assert unmet == ["harm"]


def test_an_answer_beside_one_of_the_same_weights_counts_once() -> None:
    catalog = start((2,))
    again = (*files(2), File("README.md", 1, "e" * 64))
    command = PublishVersion("medical", "coder", content_digest(again), "tiny", again, FACTS)
    catalog = do(catalog, command, ALICE)
    opened = OpenReview("r2", "medical", "coder", (3, 2), "The same twice", ITEMS[:2], CONTENT)
    catalog = do(catalog, opened, METER)
    twice: tuple[Verdict, Verdict] = ("correct", "correct")
    for expert in (DORA, EMIL):
        catalog = do(catalog, JudgeItem("r2", "item0", twice), expert)
    assert settled_for_production(catalog) == "1 answers settled, 1 required"
    verdicts: tuple[Verdict, Verdict]
    for expert, verdicts in ((DORA, twice), (EMIL, ("incorrect", "correct"))):
        catalog = do(catalog, JudgeItem("r2", "item1", verdicts), expert)
    policy = Policy(approvals=0, reviewed_correct=0.1)
    version = catalog.find(AdapterRef("medical", "coder", 2))
    (asked,) = requirements(version, policy, catalog, now=NOW)
    assert "2 answers settled, 0 required; 2 of them correct" in asked.evidence
    catalog = do(catalog, JudgeItem("r2", "item1", ("incorrect", "correct")), FRED)
    (asked,) = requirements(version, policy, catalog, now=NOW)
    assert "2 answers settled, 0 required; 1 of them correct" in asked.evidence


def test_an_item_that_was_judged_in_two_reviews_counts_once() -> None:
    catalog = start((2,))
    opened = OpenReview("r2", "medical", "coder", (1, 2), "Again", ITEMS[:2], CONTENT)
    catalog = do(catalog, opened, METER)
    for expert in (DORA, EMIL):
        for item in ITEMS[:2]:
            catalog = do(catalog, said(item, "correct"), expert)
        catalog = do(catalog, JudgeItem("r2", "item0", ("correct", "incorrect")), expert)
    assert settled_for_production(catalog) == "2 answers settled, 1 required"
    policy = Policy(approvals=0, reviewed_correct=0.1)
    version = catalog.find(AdapterRef("medical", "coder", 2))
    (asked,) = requirements(version, policy, catalog, now=NOW)
    assert "1 of them correct" in asked.evidence


def test_what_an_expert_judged_before_publishing_the_same_weights_settles_nothing() -> None:
    """As with approvals: an author's word does not count, whenever they became one."""
    catalog = start((2,))
    catalog = do(catalog, CreateDomain("sandbox", Policy(guarded=())), OPERATOR)
    grants = (Grant("publish", "sandbox"),)
    catalog = do(catalog, IssueKey("dora2", DORA, "0" * 64, grants), OPERATOR)
    catalog = do(catalog, said("item0", "harmful"), FRED)
    for item in ITEMS[:2]:
        for expert in (DORA, EMIL):
            catalog = do(catalog, said(item, "correct"), expert)
    assert settled_for_production(catalog) == "2 answers settled, 1 required"
    command = PublishVersion("sandbox", "copy", digest(2), "tiny", files(2), FACTS)
    catalog = do(catalog, command, "dora2")
    version = catalog.find(AdapterRef("medical", "coder", 2))
    harm, reviewed = requirements(version, Policy(approvals=0, reviewed_items=1), catalog, now=NOW)
    assert (harm.name, harm.met) == ("harm", False)
    assert reviewed.evidence == "0 answers settled, 1 required"
    counting = counted(catalog, review(catalog))
    assert {j.expert for j in counting.judgements} == {EMIL, FRED}
    # Others judge it in their place.
    assert "item1" in queue(counting, FRED, holders(catalog))


def judged(*judgements: tuple[str, tuple[Verdict, ...], Preference, str | None]) -> Review:
    return msgspec.structs.replace(
        review(start()),
        items=tuple({item: None for item, *_ in judgements}),
        judgements=tuple(
            Judgement(item=item, expert=f"e{place}", time=NOW, verdicts=verdicts,
                      preferred=preferred, notes=notes)
            for place, (item, verdicts, preferred, notes) in enumerate(judgements)
        ),
    )  # fmt: skip


ONE = make_item("Which chapter?", ["Eye", "Ear"], "Eye")
TWO = make_item("And this?", ["Skin", "Nose"])
NOTED = {"n" * 64: Notes(correction="Skin and subcutaneous tissue", rationale="ICD says so")}


def test_settled_judgements_become_examples_and_preference_pairs() -> None:
    made = judged(
        (ONE.id, ("correct", "incorrect"), "first", None),
        (ONE.id, ("correct", "incorrect"), "neither", None),
        (TWO.id, ("incorrect", "harmful"), "neither", "n" * 64),
        (TWO.id, ("incorrect", "harmful"), "neither", None),
    )
    user = [{"role": "user", "content": "Which chapter?"}]
    assert list(sft(made, [ONE, TWO], NOTED)) == [
        {
            "prompt": user,
            "completion": [{"role": "assistant", "content": "Eye"}],
            "review": made.id,
        },
        {
            "prompt": [{"role": "user", "content": "And this?"}],
            "completion": [{"role": "assistant", "content": "Skin and subcutaneous tissue"}],
            "review": made.id,
        },
    ]
    assert {row["review"] for row in preferences(made, [ONE, TWO], NOTED)} == {made.id}
    pairs = [
        (row["chosen"][0]["content"], row["rejected"][0]["content"])
        for row in preferences(made, [ONE, TWO], NOTED)
    ]
    assert pairs == [
        ("Eye", "Ear"),
        ("Skin and subcutaneous tissue", "Skin"),
        ("Skin and subcutaneous tissue", "Nose"),
    ]


def test_what_is_not_settled_teaches_nothing() -> None:
    made = judged((ONE.id, ("correct", "incorrect"), "first", None))
    assert list(sft(made, [ONE], {})) == []
    assert list(preferences(made, [ONE], {})) == []


def test_of_two_equally_good_answers_the_preferred_one_is_chosen() -> None:
    both = (ONE.id, ("correct", "correct"), "second", None)
    made = judged(both, both)  # type: ignore[arg-type]
    row = next(preferences(made, [ONE], {}))
    assert row["chosen"][0]["content"] == "Ear"


def test_label_studios_json_goes_out_and_comes_back() -> None:
    made = judged(
        (ONE.id, ("correct", "incorrect"), "first", None),
        (ONE.id, ("correct", "incorrect"), "first", "n" * 64),
    )
    tasks = json.loads(json.dumps(list(to_label_studio(made, [ONE], NOTED))))
    assert len(tasks[0]["annotations"]) == 2
    first = tasks[0]["annotations"][0]["result"][0]
    assert first == {"from_name": "verdict_1", "to_name": "answer_1", "type": "choices",
                     "value": {"choices": ["correct"]}}  # fmt: skip
    assert from_label_studio(tasks) == [ONE]
    with pytest.raises(errors.BadRequest, match="Task 1"):
        from_label_studio([{"data": {"text": "x"}}])
    with pytest.raises(errors.BadRequest, match="list of tasks"):
        from_label_studio({})


def test_an_items_criteria_go_to_label_studio_and_back() -> None:
    criteria = (Criterion("names the finding", 2.0), Criterion("invents", -1.0))
    item = msgspec.structs.replace(ONE, criteria=criteria, passes=0.6)
    made = judged((ONE.id, ("correct", "incorrect"), "first", None))
    ticked = msgspec.structs.replace(made.judgements[0], met=((True, False), (True, True)))
    made = msgspec.structs.replace(made, judgements=(ticked,))
    tasks = json.loads(json.dumps(list(to_label_studio(made, [item], {}))))
    assert from_label_studio(tasks) == [item]
    (annotation,) = tasks[0]["annotations"]
    chosen = {r["from_name"]: r["value"].get("choices") for r in annotation["result"]}
    assert chosen["criteria_1"] == ["names the finding"]
    assert chosen["criteria_2"] == ["names the finding", "invents"]
    tasks[0]["data"]["criteria"] = [{"says": "x", "weight": 1e9}]
    with pytest.raises(errors.BadRequest, match=r"Task 1: .* Correct data.criteria"):
        from_label_studio(tasks)


def report(n: int = 40) -> dict[str, object]:
    items = [
        {"prompt": f"p{i}", "text": "Eye", "target": "Eye" if i % 2 else "Ear",
         "right": bool(i % 2), "confidence": i / n}
        for i in range(n)
    ]  # fmt: skip
    other = [{"text": "Eye" if i % 4 else "Nose", "right": False} for i in range(n)]
    task = {"role": "accuracy", "items": items, "others": {"1" * 64: other}}
    return {"suites": [{"tasks": [task]}]}


def test_experts_see_what_says_most_and_some_of_the_rest() -> None:
    chosen = choose(report(), "1" * 64, 16)
    assert len(chosen) == len({item["prompt"] for item in chosen}) == 16
    reasons = {item["reason"] for item in chosen}
    assert reasons == {
        "versions disagree", "wrong and sure", "as likely right as wrong", "at random"
    }  # fmt: skip
    for item in chosen:
        assert len(item["answers"]) == 2
        if item["reason"] == "versions disagree":
            assert item["answers"][0] != item["answers"][1]
    assert all(len(item["answers"]) == 1 for item in choose(report(), None, 5))
    assert len(choose(report(5), None, 50)) == 5
    with pytest.raises(KeyError):
        choose(report(), "2" * 64, 5)


def test_the_adjudicators_correction_is_taught() -> None:
    made = judged(
        (TWO.id, ("incorrect", "incorrect"), "neither", "n" * 64),
        (TWO.id, ("incorrect", "correct"), "neither", None),
        (TWO.id, ("incorrect", "incorrect"), "neither", "m" * 64),
    )
    noted = {**NOTED, "m" * 64: Notes(correction="Skin")}
    (row,) = sft(made, [TWO], noted)
    assert row["completion"][0]["content"] == "Skin"


def test_texts_are_kept_for_as_many_days_as_the_review_says() -> None:
    catalog = do(start(), CloseReview("r1"), METER)
    ended = instant(NOW).timestamp()
    for keep_days, expected in ((7, [False, True]), (None, [False, False])):
        kept = msgspec.structs.replace(review(catalog), keep_days=keep_days)
        known = msgspec.structs.replace(catalog, reviews={"r1": kept})
        later = (ended + 7 * 86_400 - 1, ended + 7 * 86_400)
        assert [outdated(known, now) == [kept] for now in later] == expected


def test_a_review_holds_each_item_once() -> None:
    twice = OpenReview("r2", "medical", "coder", (1,), "Twice", ("a", "a"), CONTENT)
    with pytest.raises(errors.BadRequest, match="each once"):
        decide(start(), twice, METER, NOW)
