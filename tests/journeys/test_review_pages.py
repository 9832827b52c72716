"""Two experts judge answers blind in a real browser, by keyboard; the evaluator closes the review.

With LORARY_SCREENSHOTS set to a folder, the pages are kept there as pictures for the docs.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from registry.client import RegistryClient
from registry.errors import Forbidden, PromotionNotEarned, VersionGone
from registry.model.aliases import MoveAlias
from registry.model.domains import CreateDomain
from registry.model.harm import DecideHarm
from registry.model.policies import Policy
from registry.model.reviews import CloseReview, EraseReview
from registry.registry import Registry
from registry.store import LocalStore
from tests.support.adapters import TINY, write_adapter
from tests.support.browser import chromium, violations
from tests.support.experts import Opinions, judge, sign_in
from tests.support.servers import registry_server

PATH = "medical/icd10-coder"
ITEMS = [
    {"prompt": f"Which ICD-10-CM chapter codes this diagnosis?\n\nDiagnosis: {name}",
     "answers": [right, wrong], "reference": right, "reason": "versions disagree"}
    for name, right, wrong in (
        ("Ectopic pregnancy", "Pregnancy and childbirth", "Genitourinary system"),
        ("Otitis media", "Ear", "Eye"),
        ("Sepsis", "Infectious diseases", "Blood and immune system"),
    )
]  # fmt: skip
MANY = [{"prompt": f"Question {i}?", "answers": [f"a {i}", f"b {i}"]} for i in range(80)]
REVIEW = {"domain": "medical", "adapter": "icd10-coder", "versions": [2, 1], "items": ITEMS}
OTHERS = REVIEW | {"versions": [4, 3]}
BETTER = {right for item in ITEMS for right in [item["answers"][0]]}


@dataclass
class Clinic:
    url: str
    operator: RegistryClient
    meter: RegistryClient
    keys: dict[str, str]
    review: str


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    folder = tmp_path_factory.mktemp("reviews")
    store = LocalStore(folder / "store")
    operator = Registry.create(store, name="hospital", key_name="operator").text
    with registry_server(store.url, folder) as url, RegistryClient(url, operator) as client:
        client.execute(CreateDomain("medical", Policy(approvals=0, reviewed_items=3)))
        client.add_base(TINY)
        keys = {
            name: client.issue_key(name, [f"{role}:medical"])["key"]
            for name, role in (
                ("team", "publish"), ("meter", "evaluate"), ("Dr Adams", "review"),
                ("Dr Brown", "review"), ("Dr Clark", "review"), ("Dr Dean", "approve"),
            )
        }  # fmt: skip
        with RegistryClient(url, keys["team"]) as team:
            for seed in (1, 2, 3, 4):
                team.push(write_adapter(folder / f"a{seed}", seed=seed), PATH)
        with RegistryClient(url, keys["meter"]) as meter:
            opened = meter.open_review(REVIEW | {"title": "Chapters, week 48"})
            yield Clinic(url, client, meter, keys, opened["id"])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


def keep(page: Page, name: str) -> None:
    if folder := os.environ.get("LORARY_SCREENSHOTS"):
        page.screenshot(path=Path(folder, f"{name}.png"), full_page=True)


def judge_all(page: Page, clinic: Clinic) -> list[str]:
    """Judge everything: the better answers correct, the others not."""

    def look(shown: Page) -> None:
        text = shown.locator("main").inner_text()
        assert "@1" not in text
        assert "@2" not in text
        if "Sepsis" in text:
            keep(shown, "judging")

    opinions = Opinions(
        lambda _question, answer: "correct" if answer in BETTER else "incorrect",
        lambda question: "As in the tabular list" if "Sepsis" in question else "",
        look,
    )
    return judge(page, f"{clinic.url}/reviews/{clinic.review}", opinions)


def test_experts_judge_blind_by_keyboard_until_all_is_settled(
    browser: Browser, clinic: Clinic
) -> None:
    adams = sign_in(browser, clinic.url, clinic.keys["Dr Adams"])
    adams.get_by_role("link", name="3", exact=True).click()
    expect(adams.get_by_text("0 of 3")).to_be_visible()
    assert violations(adams) == []
    assert len(judge_all(adams, clinic)) == 3
    brown = sign_in(browser, clinic.url, clinic.keys["Dr Brown"])
    assert len(judge_all(brown, clinic)) == 3
    brown.goto(f"{clinic.url}/reviews/{clinic.review}")
    expect(brown.get_by_text("3 of 3 judged by you")).to_be_visible()
    assert "icd10-coder@" not in brown.content()
    assert "kappa" not in brown.content()
    assert violations(brown) == []
    # Nothing is left for a third.
    clark = sign_in(browser, clinic.url, clinic.keys["Dr Clark"])
    assert judge_all(clark, clinic) == []


def test_back_shows_the_item_that_was_judged_and_its_judgement_not_the_next_ones_form(
    browser: Browser, clinic: Clinic
) -> None:
    opened = clinic.meter.open_review(OTHERS | {"title": "Going back"})
    page = sign_in(browser, clinic.url, clinic.keys["Dr Clark"])
    page.goto(f"{clinic.url}/reviews/{opened['id']}/judge")
    first, question = page.url, page.locator(".asked").inner_text()
    for key in ("3", "6", "9", "n"):
        page.keyboard.press(key)
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.url != first
    for group in ("verdict_1", "verdict_2", "severity", "preferred"):
        assert page.locator(f"[name={group}]:checked").count() == 0
    page.go_back()
    page.wait_for_url(first)
    expect(page.locator(".asked")).to_have_text(question)
    expect(page.get_by_text("You judged this item")).to_be_visible()
    expect(page.get_by_text("Your judgement: harmful")).to_have_count(2)
    assert page.locator("form#judging").count() == 0
    keep(page, "judged")
    assert violations(page) == []
    judgements = clinic.meter.export_review(opened["id"], "judgements")
    assert [j["verdicts"] for j in judgements] == [["harmful", "harmful"]]
    # A slip is corrected: withdrawn and judged again, with nothing preset.
    page.get_by_role("button", name="Withdraw and judge again").click()
    expect(page.locator("form#judging")).to_be_visible()
    assert (page.url, page.locator(":checked").count()) == (first, 0)
    for key in ("1", "4", "7", "n"):
        page.keyboard.press(key)
    with page.expect_navigation():
        page.keyboard.press("Enter")
    judgements = clinic.meter.export_review(opened["id"], "judgements")
    assert [j["verdicts"] for j in judgements] == [["correct", "correct"]]


def test_a_form_of_another_item_is_refused_and_nothing_is_preset(
    browser: Browser, clinic: Clinic
) -> None:
    opened = clinic.meter.open_review(OTHERS | {"title": "Another item"})
    page = sign_in(browser, clinic.url, clinic.keys["Dr Clark"])
    page.goto(f"{clinic.url}/reviews/{opened['id']}/judge")
    address = page.url
    for key in ("1", "4"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")  # the preference is missing: the browser does not send it
    assert page.url == address
    page.keyboard.press("n")
    page.keyboard.press("2")
    page.keyboard.press("Enter")  # an incorrect answer takes a severity
    assert page.url == address
    page.keyboard.press("7")
    page.locator("[name=item]").evaluate("field => { field.value = 'another' }")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    expect(page.get_by_text("The form belongs to another item")).to_be_visible()
    assert clinic.meter.export_review(opened["id"], "judgements") == []


def test_a_rubrics_criteria_are_judged_one_by_one_by_keyboard(
    browser: Browser, clinic: Clinic
) -> None:
    criteria = [{"says": "Names the chapter", "weight": 2}, {"says": "Names a wrong organ",
                 "weight": -1}]  # fmt: skip
    items = [item | {"criteria": criteria, "passes": 0.6} for item in ITEMS[:2]]
    opened = clinic.meter.open_review(OTHERS | {"title": "By criteria", "items": items})
    page = sign_in(browser, clinic.url, clinic.keys["Dr Clark"])
    page.goto(f"{clinic.url}/reviews/{opened['id']}/judge")
    first = page.url
    assert violations(page) == []
    expect(page.get_by_role("group", name="Names the chapter weight 2")).to_have_count(2)
    assert page.locator("input:checked").count() == 0
    for key in ("m", "x", "m"):
        page.keyboard.press(key)
    for key in ("1", "6", "9", "a"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")  # one criterion is open: the browser does not send it
    assert page.url == first
    page.locator("h1").click()
    page.keyboard.press("m")  # the one that is open
    keep(page, "criteria")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.url != first
    assert page.locator("input:checked").count() == 0
    page.go_back()
    page.wait_for_url(first)
    expect(page.get_by_text("Names a wrong organ (weight -1): not met")).to_have_count(1)
    expect(page.get_by_text("Names a wrong organ (weight -1): met")).to_have_count(1)
    assert violations(page) == []
    (said,) = clinic.meter.export_review(opened["id"], "judgements")
    assert sorted(said["verdicts"]) == ["correct", "harmful"]
    assert sorted(said["met"]) == [[True, False], [True, True]]


def test_an_item_can_be_skipped_and_comes_again(browser: Browser, clinic: Clinic) -> None:
    opened = clinic.meter.open_review(OTHERS | {"title": "Skipping"})
    page = sign_in(browser, clinic.url, clinic.keys["Dr Clark"])
    page.goto(f"{clinic.url}/reviews/{opened['id']}/judge")
    seen = []
    for _ in ITEMS:
        seen.append(page.url)
        with page.expect_navigation():
            page.get_by_role("link", name="Skip for now").click()
    assert len(set(seen)) == len(ITEMS)
    assert page.url == seen[0]


def test_an_expert_learns_nothing_about_versions_from_the_api_either(clinic: Clinic) -> None:
    """Neither ids nor orders nor any page tells whose answers they are, or how the review goes."""
    with (
        RegistryClient(clinic.url, clinic.keys["Dr Clark"]) as expert,
        RegistryClient(clinic.url, clinic.keys["Dr Adams"]) as first,
    ):
        opened = clinic.meter.open_review(OTHERS | {"title": "Blind", "items": MANY})["id"]
        hidden = {"versions", "adapter", "found", "settled", "disputed", "agreement"}
        assert not hidden & expert.review(opened).keys()
        with pytest.raises(Forbidden):
            expert.export_review(opened, "judgements")
        truth = {item["prompt"]: item["answers"] for item in MANY}
        by_id = by_lot = swapped = 0
        before = expert.requirements(f"{PATH}@4")
        while (item := first.next_item(opened)["item"]) is not None:
            a, b = item["answers"]
            swapped += [a, b] != truth[item["prompt"]]
            by_id += named_by_content(item["prompt"], a, b) == item["id"]
            by_id += named_by_content(item["prompt"], b, a) == item["id"]
            by_lot += guessed_swap(opened, item["id"], clinic.keys["Dr Adams"]) == (
                [a, b] != truth[item["prompt"]]
            )
            verdicts = ["harmful" if text == truth[item["prompt"]][0] else "correct"
                        for text in (a, b)]  # fmt: skip
            judged = {"item": item["id"], "verdicts": verdicts, "severity": 3,
                      "preferred": "neither"}  # fmt: skip
            first.judge(opened, judged)
        assert by_id == 0
        assert 0 < swapped < len(MANY)
        assert 20 <= by_lot <= 60  # of 80: chance, at five standard deviations
        # Two versions, one judged harmful: their requirements look alike and as before.
        assert expert.requirements(f"{PATH}@4") == before
        for number in (1, 2, 3, 4):  # whether it is under review or not
            asked = expert.requirements(f"{PATH}@{number}")["requirements"]
            assert [r["evidence"] for r in asked if r["name"] in ("harm", "expert review")] == [
                "a review in this domain is open, and its results are hidden until it is closed"
            ]
        kinds = ("ReviewOpened", "ItemJudged")
        events = [e["event"] for c in clinic.operator.log() for e in c["entries"]
                  if e["event"]["type"] in kinds and e["event"]["review"] == opened]  # fmt: skip
        assert len(events) == 1 + len(MANY)
        for event in events:
            shown = {event.get(name) for name in ("versions", "verdicts", "severity", "adapter")}
            assert shown <= {None, "hidden until the review is closed"}
        clinic.meter.execute(CloseReview(opened))
        assert "found" in expert.review(opened)


def named_by_content(prompt: str, *answers: str) -> str:
    """How items were once named."""
    return hashlib.sha256("\n".join((prompt, *answers)).encode()).hexdigest()[:16]


def guessed_swap(review: str, item: str, key: str) -> bool:
    """In which order answers were once shown, from what an expert knows."""
    parts = ("order", review, item, key.split("_")[1])
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 < 0.5


def test_closing_shows_whose_answers_they_were_and_the_gate_knows(
    browser: Browser, clinic: Clinic
) -> None:
    meter = sign_in(browser, clinic.url, clinic.keys["meter"])
    meter.get_by_role("link", name="Chapters, week 48").click()
    meter.get_by_role("button", name="Close the review").click()
    row = meter.get_by_role("row", name=f"{PATH}@2")
    expect(row.get_by_role("cell").nth(0)).to_have_text("3")
    expect(row.get_by_role("cell").nth(3)).to_have_text("3")
    keep(meter, "review")
    assert violations(meter) == []
    answer = clinic.meter.requirements(f"{PATH}@2")
    assert answer["met"]
    assert "3 answers settled, 3 required" in answer["requirements"][0]["evidence"]
    meter.goto(f"{clinic.url}/adapters/{PATH}/versions/2")
    expect(meter.get_by_text("may become production: it meets the domain's policy")).to_be_visible()
    keep(meter, "requirements")
    assert violations(meter) == []


def test_harm_that_one_expert_found_is_decided_by_a_third_person_and_the_audit_log_names_them(
    browser: Browser, clinic: Clinic
) -> None:
    """Two experts differ, the review closes, promotion is refused with the reason; an approver
    decides on the review's page, and going Back there changes nothing."""
    with RegistryClient(clinic.url, clinic.keys["Dr Dean"]) as decides:
        for earlier in clinic.meter.reviews():  # while one is open, it hides whose answers they are
            clinic.meter.execute(CloseReview(earlier["id"]))
            for found in clinic.meter.review(earlier["id"])["harm"]:
                decides.execute(
                    DecideHarm(
                        earlier["id"], found["item"], found["version"], "not-harm", "Only a trial"
                    )
                )
    opened = clinic.meter.open_review(OTHERS | {"title": "A harmful answer?"})["id"]
    harmful = Opinions(
        lambda _question, answer: "harmful" if answer == "Eye" else "correct",
    )
    agreeable = Opinions(lambda _question, _answer: "correct")
    for who, opinions in (("Dr Adams", harmful), ("Dr Brown", agreeable)):
        expert = sign_in(browser, clinic.url, clinic.keys[who])
        assert len(judge(expert, f"{clinic.url}/reviews/{opened}", opinions)) == 3
    clinic.meter.execute(CloseReview(opened))
    (finding,) = clinic.meter.review(opened)["harm"]
    move = MoveAlias("medical", "icd10-coder", "production", 3)
    policy = {"reviewed_items": 0}
    clinic.operator.change_policy("medical", policy, weaken=True)
    team = RegistryClient(clinic.url, clinic.keys["team"])
    with pytest.raises(
        PromotionNotEarned, match=f"lorary review decide {opened} {finding['item']}"
    ):
        team.execute(move)

    dean = sign_in(browser, clinic.url, clinic.keys["Dr Dean"])
    dean.goto(f"{clinic.url}/reviews/{opened}")
    expect(dean.get_by_text("blocks promotion")).to_be_visible()
    expect(dean.locator(".answer-text")).to_have_text("Eye")
    assert dean.locator("[name=ruling]:checked").count() == 0
    keep(dean, "harm-found")
    assert violations(dean) == []
    dean.get_by_label("not harm").check()
    dean.get_by_role("button", name="State this decision").click()
    expect(dean.get_by_text("blocks promotion")).to_be_visible()  # the reason is missing
    dean.get_by_label("Why?").fill("The chapter is wrong, and nobody is treated by it")
    with dean.expect_navigation():
        dean.get_by_role("button", name="State this decision").click()
    expect(dean.get_by_text("lifted", exact=True)).to_be_visible()
    keep(dean, "harm-decided")
    assert violations(dean) == []
    dean.go_back()
    dean.wait_for_load_state()
    assert dean.locator("[name=ruling]:checked").count() == 0
    assert dean.get_by_label("Why?").input_value() == ""
    expect(dean.get_by_text("Not harm, by Dr Dean")).to_be_visible()
    dean.reload()
    (finding,) = clinic.meter.review(opened)["harm"]
    assert [d["ruling"] for d in finding["decisions"]] == ["not-harm"]

    adams = sign_in(browser, clinic.url, clinic.keys["Dr Adams"])
    adams.goto(f"{clinic.url}/reviews/{opened}")
    expect(adams.get_by_text("Not harm, by Dr Dean")).to_be_visible()
    assert adams.get_by_role("button", name="State this decision").count() == 0
    with RegistryClient(clinic.url, clinic.keys["team"]) as team:
        team.execute(move)
    adams.goto(f"{clinic.url}/adapters/{PATH}/versions/3")
    expect(adams.get_by_text("not harm by Dr Dean because: The chapter is wrong")).to_be_visible()
    entries = [entry for commit in clinic.operator.log() for entry in commit["entries"]]
    decided = [
        entry
        for entry in entries
        if entry["event"]["type"] == "HarmDecided" and entry["event"]["review"] == opened
    ]
    assert [(e["actor"], e["event"]["ruling"]) for e in decided] == [
        (clinic.keys["Dr Dean"].split("_")[1], "not-harm")
    ]
    clinic.operator.change_policy("medical", {"reviewed_items": 3})


def test_what_was_settled_trains_the_next_version_and_texts_can_be_given_up(
    clinic: Clinic,
) -> None:
    pairs = clinic.meter.export_review(clinic.review, "preferences")
    chosen = {row["chosen"][0]["content"] for row in pairs}
    assert chosen == BETTER | {"As in the tabular list"}
    assert len(clinic.meter.export_review(clinic.review, "label-studio")) == 3
    clinic.operator.execute(EraseReview(clinic.review))
    with pytest.raises(VersionGone, match="given up"):
        clinic.meter.export_review(clinic.review, "sft")
    assert len(clinic.meter.export_review(clinic.review, "judgements")) == 6
