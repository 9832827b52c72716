"""Two experts judge answers blind in a real browser, by keyboard; the evaluator closes the review.

With LORARY_SCREENSHOTS set to a folder, the pages are kept there as pictures for the docs.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from registry.client import RegistryClient
from registry.errors import Forbidden, VersionGone
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
        client.create_domain("medical", {"approvals": 0, "reviewed_items": 3})
        client.add_base(TINY)
        keys = {
            name: client.issue_key(name, [f"{role}:medical"])["key"]
            for name, role in (
                ("team", "publish"), ("meter", "evaluate"), ("Dr Adams", "review"),
                ("Dr Brown", "review"), ("Dr Clark", "review"),
            )
        }  # fmt: skip
        with RegistryClient(url, keys["team"]) as team:
            for seed in (1, 2):
                team.push(write_adapter(folder / f"a{seed}", seed=seed), PATH)
        with RegistryClient(url, keys["meter"]) as meter:
            opened = meter.open_review(
                {"domain": "medical", "adapter": "icd10-coder", "versions": [2, 1],
                 "title": "Chapters, week 48", "items": ITEMS}
            )  # fmt: skip
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
    expect(brown.get_by_text("3 of 3 settled")).to_be_visible()
    expect(brown.get_by_text("Cohen's kappa")).to_be_visible()
    assert "icd10-coder@" not in brown.content()
    assert violations(brown) == []
    # Nothing is left for a third.
    clark = sign_in(browser, clinic.url, clinic.keys["Dr Clark"])
    assert judge_all(clark, clinic) == []


def test_an_expert_learns_nothing_about_versions_from_the_api_either(clinic: Clinic) -> None:
    with RegistryClient(clinic.url, clinic.keys["Dr Clark"]) as expert:
        view = expert.review(clinic.review)
        assert not {"versions", "adapter", "found"} & view.keys()
        with pytest.raises(Forbidden):
            expert.export_review(clinic.review, "judgements")


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
    assert "3 of 3 answers settled, 0 as harmful" in answer["requirements"][0]["evidence"]
    meter.goto(f"{clinic.url}/adapters/{PATH}/versions/2")
    expect(meter.get_by_text("It meets the domain's policy")).to_be_visible()
    keep(meter, "requirements")
    assert violations(meter) == []


def test_what_was_settled_trains_the_next_version_and_texts_can_be_given_up(
    clinic: Clinic,
) -> None:
    pairs = clinic.meter.export_review(clinic.review, "preferences")
    chosen = {row["chosen"][0]["content"] for row in pairs}
    assert chosen == BETTER | {"As in the tabular list"}
    assert len(clinic.meter.export_review(clinic.review, "label-studio")) == 3
    clinic.operator.erase_review(clinic.review)
    with pytest.raises(VersionGone, match="given up"):
        clinic.meter.export_review(clinic.review, "sft")
    assert len(clinic.meter.export_review(clinic.review, "judgements")) == 6
