"""A real browser: Debian's Chromium, driven by Playwright, and axe-core to judge pages."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import axe_playwright_python
from playwright.sync_api import Browser, Page, sync_playwright

AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, headless."""
    path = shutil.which("chromium")
    assert path is not None, "install chromium: sh scripts/install-browser.sh"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


def violations(page: Page) -> list[str]:
    """What axe-core finds wrong with the page as it stands, WCAG 2.2 A and AA and best practice."""
    # Evaluated, not added as a script: the page's own policy forbids foreign scripts.
    page.evaluate(AXE.read_text())
    found: Any = page.evaluate("axe.run()")
    return [
        f"{item['id']}: {item['help']} {json.dumps([node['target'] for node in item['nodes']])}"
        for item in found["violations"]
    ]
