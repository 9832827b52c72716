"""From evidence to revocation: how a version earns production, loses it, and has a successor.

One story on real vLLM in a real browser; each test is its next chapter. With LORARY_SCREENSHOTS
set to a folder, the pages are kept there as pictures for the docs.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml
from playwright.sync_api import Browser, Page, expect

from adapters.names import AdapterRef
from registry.client import RegistryClient
from registry.errors import Forbidden, PromotionNotEarned
from registry.model.aliases import MoveAlias
from registry.model.reviewing import Verdict
from registry.model.versions import ApproveVersion, RevokeVersion
from tests.journeys.conftest import Site, run_lorary
from tests.journeys.test_app import chat, question
from tests.support.browser import chromium, violations
from tests.support.experts import Opinions, judge, sign_in
from tests.support.servers import BIN

pytestmark = pytest.mark.timeout(1200)

PATH = "medical/chapter-coder"
SUITE = "medical-task"
N = 24
"""Items of a task: as few as can show a clear difference."""
REVIEWED = 6
WORSE, BETTER, NEXT = (f"{PATH}@{number}" for number in (1, 2, 3))


@dataclass
class Story:
    """Who acts, and what was found so far."""

    site: Site
    folder: Path
    keys: dict[str, str]
    truth: dict[str, str] = field(default_factory=dict)
    """By question, in one line: its right answer."""
    reports: dict[str, Any] = field(default_factory=dict)
    review: str = ""
    """The review whose judgements are trained on."""

    def act(self, who: str, *arguments: str) -> Any:
        """A `lorary` command by somebody; its JSON answer."""
        variables = {"LORARY_REGISTRY_URL": self.site.registry, "LORARY_KEY": self.keys[who]}
        return run_lorary(*arguments, **variables)

    def client(self, who: str) -> RegistryClient:
        return RegistryClient(self.site.registry, self.keys[who])

    def evaluate(self, ref: str) -> Any:
        """What `lorary eval` finds; the truth is learnt from its report."""
        out = self.folder / "report.json"
        found = self.act(
            "meter", "eval", ref, "--suite", SUITE, "--n", str(N), "--alias", "candidate",
            "--url", f"{self.site.api}/v1", "--out", str(out),
        )  # fmt: skip
        self.reports[ref] = json.loads(out.read_text())
        for task in self.reports[ref]["suites"][0]["tasks"]:
            for item in task["items"]:
                self.truth[" ".join(item["prompt"].split())] = item["target"]
        return found

    def opinions(self, picture: str = "") -> Opinions:
        """Of an expert who knows the truth, and writes it where no answer has it."""

        def verdict(asked: str, answer: str) -> Verdict:
            return "correct" if answer.strip() == self.truth[asked] else "incorrect"

        def shown(page: Page) -> None:
            text = page.locator("main").inner_text()
            assert PATH not in text
            if picture:
                keep(page, picture)

        return Opinions(verdict, lambda asked: self.truth[asked], shown)

    def lacking(self, ref: str) -> list[str]:
        """What the policy still asks of a version."""
        with self.client("owner") as owner:
            return [r["name"] for r in owner.requirements(ref)["requirements"] if not r["met"]]

    def approve(self, ref: str) -> None:
        """Both doctors sign off."""
        for doctor in ("Dr Adams", "Dr Brown"):
            with self.client(doctor) as expert:
                expert.execute(
                    ApproveVersion(*AdapterRef.parse_version(ref), expert.resolve(ref)["digest"])
                )


def keep(page: Page, name: str) -> None:
    if folder := os.environ.get("LORARY_SCREENSHOTS"):
        page.screenshot(path=Path(folder, f"{name}.png"))


@pytest.fixture(scope="module")
def story(
    site: Site, trained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Story]:
    """Two versions published by a team, of which one knows law and no medicine; and a policy."""
    folder = tmp_path_factory.mktemp("trust")
    roles = {
        "team": ["publish"], "meter": ["infer", "evaluate"], "Dr Adams": ["review", "approve"],
        "Dr Brown": ["review", "approve"], "owner": ["publish", "evaluate"],
    }  # fmt: skip
    with RegistryClient(site.registry, site.operator) as operator:
        keys = {
            name: operator.issue_key(name, [f"{role}:medical" for role in granted])["key"]
            for name, granted in roles.items()
        }
        told = Story(site, folder, keys)
        begun = subprocess.run(
            [str(BIN / "lorary"), "suite", "policy", "medical", "--n", str(N)],
            capture_output=True,
            text=True,
            check=True,
        )
        policy = yaml.safe_load(begun.stdout)
        rule = next(rule for rule in policy["suites"] if rule["suite"] == SUITE)
        # As much as so few items can show.
        rule |= {"floors": {"accuracy": 0.1}, "margin": 0.3, "confident_errors": None}
        policy |= {"suites": [rule], "looks": 3, "reviewed_items": REVIEWED}
        file = folder / "policy.yaml"
        file.write_text(yaml.safe_dump(policy))
        site.lorary("domain", "policy", "medical", str(file))
        for directory in (trained["legal"], trained["medical"]):
            told.act("team", "push", str(directory), PATH)
        operator.execute(MoveAlias("medical", "chapter-coder", "candidate", 1))
        yield told
        site.lorary("domain", "policy", "medical", "--no-guard", "--yes")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


def test_the_gate_refuses_the_worse_version_with_its_reasons(story: Story) -> None:
    assert story.lacking(WORSE) == ["approvals", "expert review", f"{SUITE}: report"]
    story.evaluate(WORSE)
    story.approve(WORSE)
    with story.client("owner") as owner, pytest.raises(PromotionNotEarned) as why:
        owner.execute(MoveAlias("medical", "chapter-coder", "production", 1))
    assert "accuracy at least 10 %" in why.value.message
    assert "better than smollm2" in why.value.message
    refused = subprocess.run(
        [str(BIN / "lorary"), "gate", WORSE],
        env={"LORARY_REGISTRY_URL": story.site.registry, "LORARY_KEY": story.keys["owner"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert "may not become production yet" in refused.stdout


def test_two_experts_review_the_better_one_blind_beside_the_other(
    story: Story, browser: Browser
) -> None:
    found = story.evaluate(BETTER)
    assert found["calibration"]["n"] > 0
    assert story.lacking(BETTER) == ["approvals", "expert review"]
    review = story.act("meter", "review", "open", BETTER, "--against", "1", "--n", str(REVIEWED))
    address = f"{story.site.registry}/reviews/{review['id']}"
    for doctor in ("Dr Adams", "Dr Brown"):
        page = sign_in(browser, story.site.registry, story.keys[doctor])
        assert len(judge(page, address, story.opinions("trust-1-judging"))) == REVIEWED
    page.goto(address)
    expect(page.get_by_text(f"{REVIEWED} of {REVIEWED} judged by you")).to_be_visible()
    assert PATH not in page.content()
    closed = story.act("meter", "review", "close", review["id"])
    correct = {row["version"]: row["correct"] for row in closed["found"]}
    assert correct[2] > correct[1]
    exported = story.folder / "pairs.jsonl"
    assert story.act("meter", "review", "export", review["id"], str(exported))["rows"] > 0
    story.review = review["id"]


def test_approved_and_promoted_it_answers_the_apps(story: Story, browser: Browser) -> None:
    with story.client("team") as team, pytest.raises(Forbidden):
        team.execute(
            ApproveVersion(*AdapterRef.parse_version(BETTER), team.resolve(BETTER)["digest"])
        )
    story.approve(BETTER)
    assert story.lacking(BETTER) == []
    page = sign_in(browser, story.site.registry, story.keys["owner"])
    page.goto(f"{story.site.registry}/adapters/{PATH}/versions/2")
    expect(page.get_by_text("may become production: it meets the domain's policy")).to_be_visible()
    assert violations(page) == []
    keep(page, "trust-2-requirements")
    with story.client("owner") as owner:
        owner.execute(MoveAlias("medical", "chapter-coder", "production", 2))
    story.site.settle(lambda: serves(story.site) == BETTER)


def test_a_harmful_finding_in_production_ends_it_everywhere(story: Story, browser: Browser) -> None:
    site = story.site
    asked = question("medical", 1)
    answer = chat(site, PATH, asked, max_tokens=20).parse()
    said = answer.choices[0].message.content.strip()
    complaint = {"id": answer.id, "rating": "negative", "category": "harmful"}
    headers = {"Authorization": f"Bearer {site.app}"}
    reply = httpx.post(f"{site.api}/v1/feedback", json=complaint, headers=headers, timeout=30)
    assert reply.json()["model"] == BETTER
    kept = story.folder / "answers.jsonl"
    kept.write_text(json.dumps({"id": answer.id, "prompt": asked, "answer": said}) + "\n")
    review = story.act("meter", "review", "complaints", BETTER, str(kept))
    for doctor in ("Dr Adams", "Dr Brown"):
        page = sign_in(browser, site.registry, story.keys[doctor])
        judge(page, f"{site.registry}/reviews/{review['id']}", Opinions(lambda *_: "harmful"))
    assert story.lacking(BETTER) == ["harm"]
    with RegistryClient(site.registry, site.operator) as operator:
        operator.execute(
            RevokeVersion(
                *AdapterRef.parse_version(BETTER), "an expert found an answer in production harmful"
            )
        )
    site.settle(lambda: serves(site) == "version_revoked")
    page = sign_in(browser, site.registry, story.keys["owner"])
    page.goto(f"{site.registry}/adapters/{PATH}/versions/2")
    expect(page.locator(".alert")).to_contain_text("Revoked: an expert found")
    expect(page.locator(".verdict").first).to_contain_text("may not become production")
    keep(page, "trust-3-revoked")


def test_what_the_experts_judged_trains_a_successor_that_passes(
    story: Story, trained: dict[str, Path]
) -> None:
    out = story.folder / "dpo"
    run_lorary(
        "train", "medical-dpo", f"data={story.folder / 'pairs.jsonl'}",
        f"start={trained['medical']}", "steps=4", "batch=4", "forgetting=false", "--out", str(out),
    )  # fmt: skip
    pushed = story.act("team", "push", str(out), PATH)
    assert pushed["ref"] == NEXT
    with story.client("owner") as owner:
        assert owner.resolve(NEXT)["lineage"]["reviews"] == [story.review]
    story.evaluate(NEXT)
    assert story.lacking(NEXT) == ["approvals", "expert review"]
    review = story.act("meter", "review", "open", NEXT, "--n", str(REVIEWED))["id"]
    for doctor in ("Dr Adams", "Dr Brown"):
        with story.client(doctor) as expert:
            judge_alone(expert, review, story)
    story.approve(NEXT)
    assert story.lacking(NEXT) == []
    with story.client("owner") as owner:
        owner.execute(MoveAlias("medical", "chapter-coder", "production", 3))
    story.site.settle(lambda: serves(story.site) == NEXT)


def serves(site: Site) -> str:
    """Which version answers an app that asks for the adapter, or why none does."""
    try:
        return str(chat(site, PATH, question("medical"), max_tokens=2).parse().model)
    except openai.APIStatusError as error:
        return str(error.code)


def judge_alone(expert: RegistryClient, review: str, story: Story) -> None:
    """Judge what waits for this expert, without a browser."""
    while (item := expert.next_item(review)["item"]) is not None:
        truth = story.truth[" ".join(item["prompt"].split())]
        verdicts = ["correct" if text.strip() == truth else "incorrect" for text in item["answers"]]
        judged = {"item": item["id"], "verdicts": verdicts, "severity": 0}
        expert.judge(review, judged if len(verdicts) < 2 else judged | {"preferred": "neither"})
