"""The tutorials of a running demo, one after the other in one terminal."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, expect

from tests.support.experts import Opinions, judge, sign_in
from tests.walkthroughs.conftest import Newcomer, Terminal

pytestmark = pytest.mark.timeout(3600)

Document = Callable[..., list[str]]


@pytest.fixture(scope="module")
def terminal(newcomer: Newcomer) -> Terminal:
    clone = newcomer.clone()
    newcomer.demo(clone, "--fast")
    return newcomer.terminal(clone)


def test_first_adapter(terminal: Terminal, document: Document) -> None:
    printed = [terminal.follow(block) for block in document("docs/tutorials/first-adapter.md")]
    assert "medical/icd10-coder@1" in "".join(printed)
    assert "medical/icd10-coder@2" in "".join(printed)


def test_gated_promotion(terminal: Terminal, document: Document, browser: Browser) -> None:
    for block in document("docs/tutorials/gated-promotion.md"):
        if "review close" in block:
            review_three_answers(terminal, browser)
        terminal.follow(block)
    assert terminal.in_production("medical/icd10-coder") == "2"


def review_three_answers(terminal: Terminal, browser: Browser) -> None:
    """As the tutorial asks: each expert judges, and they agree."""
    url = terminal.variable("LORARY_REGISTRY_URL")
    for expert in ("adams", "brown"):
        page = sign_in(browser, url, terminal.variable(expert))
        page.get_by_role("row", name="Three codes").get_by_role("link").first.click()
        expect(page.get_by_text("0 of 3")).to_be_visible()
        asked = judge(page, page.url, Opinions(lambda _question, _answer: "correct"))
        assert len(asked) == 3
