"""An expert at a browser: signs in with a key, and judges everything that waits, by keyboard."""

from collections.abc import Callable
from dataclasses import dataclass

from playwright.sync_api import Browser, Page, expect

from registry.model.reviewing import VERDICTS, Verdict

PATIENCE = 20_000
"""Milliseconds."""


@dataclass(frozen=True, slots=True)
class Opinions:
    """What an expert thinks. Questions come as one line."""

    verdict: Callable[[str, str], Verdict]
    """Of a question and an answer to it."""
    correction: Callable[[str], str] = lambda _question: ""
    """What should have been answered; empty writes nothing."""
    shown: Callable[[Page], None] = lambda _page: None
    """Called before each judgement is sent, with everything filled in."""


def sign_in(browser: Browser, url: str, key: str) -> Page:
    """A page of the expert's own, at the list of reviews."""
    expect.set_options(timeout=PATIENCE)
    page = browser.new_context(viewport={"width": 1100, "height": 900}).new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{url}/reviews")
    page.get_by_label("Your Lorary key").fill(key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Reviews")).to_be_visible()
    return page


def judge(page: Page, review: str, opinions: Opinions) -> list[str]:
    """Judge what waits in the review at this address; the questions, in the order shown."""
    asked: list[str] = []
    page.goto(f"{review}/judge")
    while "/items/" in page.url:
        question = " ".join(page.locator(".asked").inner_text().split())
        answers = page.locator(".answer-text").all_inner_texts()
        ranks = [VERDICTS.index(opinions.verdict(question, answer)) for answer in answers]
        for place, rank in enumerate(ranks):
            page.keyboard.press(str(1 + rank + len(VERDICTS) * place))
        if len(ranks) > 1:
            page.keyboard.press(
                "n" if ranks[0] == ranks[1] else "a" if ranks[0] < ranks[1] else "b"
            )
        if max(ranks) > 0:
            page.keyboard.press("8" if VERDICTS[max(ranks)] == "incorrect" else "9")
        if correction := opinions.correction(question):
            page.keyboard.press("c")
            page.keyboard.type(correction)
        opinions.shown(page)
        page.keyboard.press("Escape")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        asked.append(question)
    return asked
