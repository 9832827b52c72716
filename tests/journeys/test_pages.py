"""The registry's pages in a real browser: upload, search, compare, move an alias, a refusal.

With LORARY_SCREENSHOTS set to a folder, the pages are kept there as pictures for the docs.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from registry.client import RegistryClient
from registry.model.access import ROLES
from registry.model.aliases import MoveAlias
from registry.model.domains import CreateDomain, SetDefaultAdapter
from registry.model.policies import Policy
from registry.model.versions import ApproveVersion, RevokeVersion
from registry.registry import Registry
from registry.store import LocalStore
from tests.support.adapters import TINY, write_adapter
from tests.support.browser import chromium, violations
from tests.support.servers import registry_server


class Site:
    """A registry with something in it."""

    def __init__(self, url: str, operator: str, team: str) -> None:
        self.url, self.operator, self.team = url, operator, team


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("pages")
    store = LocalStore(folder / "store")
    operator = Registry.create(store, name="hospital", key_name="operator").text
    with registry_server(store.url, folder) as url, RegistryClient(url, operator) as client:
        client.execute(CreateDomain("medical", Policy(guarded=("production",), approvals=1)))
        client.execute(CreateDomain("legal", Policy(guarded=())))
        client.add_base(TINY)
        team = client.issue_key(
            "coding team", ["publish:medical", "publish:legal", "infer:medical"]
        )["key"]
        with RegistryClient(url, team) as publisher:
            for seed in range(1, 4):
                adapter = write_adapter(folder / f"a{seed}", seed=seed)
                publisher.push(adapter, "medical/icd10-coder")
            publisher.push(write_adapter(folder / "b", seed=9), "legal/citations")
            publisher.execute(MoveAlias("medical", "icd10-coder", "candidate", 2))
        chief = client.issue_key("chief", [f"{role}:*" for role in ROLES])["key"]
        with RegistryClient(url, chief) as expert:
            digest = expert.resolve("medical/icd10-coder@1")["digest"]
            expert.execute(ApproveVersion("medical", "icd10-coder", 1, digest))
        client.execute(MoveAlias("medical", "icd10-coder", "production", 1))
        client.execute(SetDefaultAdapter("medical", "icd10-coder"))
        yield Site(url, chief, team)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    opened = browser.new_context(viewport={"width": 1100, "height": 800})
    opened.set_default_timeout(20_000)
    expect.set_options(timeout=20_000)
    yield opened
    opened.close()


@pytest.fixture
def page(context: BrowserContext, site: Site) -> Page:
    """Signed in as the team."""
    return sign_in(context, site, site.team)


def sign_in(context: BrowserContext, site: Site, key: str) -> Page:
    page = context.new_page()
    page.goto(site.url)
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.get_by_label("Your Lorary key").fill(key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Catalogue")).to_be_visible()
    return page


def keep(page: Page, name: str) -> None:
    folder = os.environ.get("LORARY_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder, f"{name}.png"), full_page=True)


def test_a_wrong_key_does_not_open_the_registry(context: BrowserContext, site: Site) -> None:
    page = context.new_page()
    page.goto(f"{site.url}/log")
    page.get_by_label("Your Lorary key").fill("lry_000000000000_wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("not known here")


def test_searching_narrows_the_catalogue(page: Page) -> None:
    expect(page.get_by_role("status")).to_have_text("2 adapters")
    keep(page, "catalogue")
    page.get_by_label("Search").fill("icd10")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("1 adapter for “icd10”")
    page.get_by_label("Search").fill("nothing like it")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Nothing here yet")).to_be_visible()


def test_the_keyboard_alone_reaches_an_adapter(page: Page) -> None:
    page.reload()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    for _ in range(12):
        if page.evaluate("document.activeElement.textContent") == "medical/icd10-coder":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="medical/icd10-coder", level=1)).to_be_visible()


def test_dropped_files_become_the_next_version(page: Page, site: Site, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "dropped", seed=42)
    page.get_by_role("link", name="Upload").click()
    page.get_by_label("Domain").select_option("legal")
    page.get_by_label("Adapter", exact=True).fill("statutes")
    files = {path.name: list(path.read_bytes()) for path in adapter.iterdir()}
    page.evaluate(
        """(files) => {
            const transfer = new DataTransfer();
            for (const [name, bytes] of Object.entries(files))
                transfer.items.add(new File([new Uint8Array(bytes)], name));
            const event = new DragEvent("drop", {dataTransfer: transfer, bubbles: true});
            document.getElementById("drop").dispatchEvent(event);
        }""",
        files,
    )
    expect(page.locator("#chosen li")).to_have_count(3)
    keep(page, "upload")
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_role("heading", name="legal/statutes@1", level=1)).to_be_visible()
    expect(page.get_by_text("Intended use")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="README.md").click()
    assert download.value.path().read_bytes() == (adapter / "README.md").read_bytes()


def test_a_refused_upload_names_every_problem(page: Page, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "bad", seed=1, use_dora=True)
    (adapter / "optimizer.pt").write_bytes(b"a pickle")
    page.get_by_role("link", name="Upload").click()
    page.get_by_label("Adapter", exact=True).fill("bad")
    page.get_by_label("The files that PEFT saved").set_input_files(list(adapter.iterdir()))
    page.get_by_role("button", name="Publish").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Refused, for 2 reasons")
    expect(alert).to_contain_text("optimizer.pt")
    expect(alert).to_contain_text("DoRA")
    assert violations(page) == []
    keep(page, "refused")


def test_two_versions_are_compared(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/adapters/medical/icd10-coder")
    page.get_by_role("button", name="Compare the two").click()
    expect(page.get_by_role("heading", name="@2 and @3")).to_be_visible()
    expect(page.get_by_role("img", name="norm of the update by layer")).to_be_visible()
    expect(page.get_by_role("row", name="update's norm")).to_contain_text("differs")
    keep(page, "compare")


def test_an_alias_is_moved_and_the_move_is_signed_with_a_name(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/adapters/medical/icd10-coder")
    page.get_by_text("Move an alias").click()
    page.get_by_label("Alias", exact=True).fill("candidate")
    page.get_by_label("to version").select_option("3")
    page.get_by_role("button", name="Move").click()
    expect(page.get_by_role("listitem").filter(has_text="candidate")).to_contain_text("@3")
    moved = page.get_by_role("region", name="History").get_by_role("row").nth(1)
    expect(moved).to_contain_text("coding team")
    keep(page, "adapter")


def test_production_is_refused_until_an_expert_approves(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/adapters/medical/icd10-coder")
    page.get_by_text("Move an alias").click()
    page.get_by_label("Alias", exact=True).fill("production")
    page.get_by_label("to version").select_option("3")
    page.get_by_role("button", name="Move").click()
    expect(page.get_by_role("alert")).to_contain_text("1 more approval")
    assert violations(page) == []


def test_a_revoked_version_in_production_shows_as_an_outage_everywhere(
    page: Page, site: Site, tmp_path: Path
) -> None:
    with RegistryClient(site.url, site.operator) as client:
        client.push(write_adapter(tmp_path / "a", seed=20), "legal/withdrawn")
        client.execute(MoveAlias("legal", "withdrawn", "production", 1))
        client.execute(RevokeVersion("legal", "withdrawn", 1, "wrong limitation periods"))
    page.goto(f"{site.url}/?q=withdrawn")
    expect(page.get_by_role("row", name="legal/withdrawn")).to_contain_text("not served")
    page.get_by_role("link", name="legal/withdrawn").click()
    expect(page.locator(".alert")).to_contain_text("legal/withdrawn@production is not served")
    expect(page.locator(".alert")).to_contain_text("wrong limitation periods")
    keep(page, "outage")
    page.goto(f"{site.url}/adapters/legal/withdrawn/versions/1")
    expect(page.locator("h1").first).to_contain_text("production, not served")
    expect(page.locator("h1 .good")).to_have_count(0)


def test_the_audit_log_is_the_operators(context: BrowserContext, page: Page, site: Site) -> None:
    page.goto(f"{site.url}/log")
    expect(page.get_by_role("alert")).to_contain_text("no role 'audit'")
    page.goto(site.url)
    page.get_by_role("button", name="Sign out").click()
    operator = sign_in(context, site, site.operator)
    operator.get_by_role("link", name="Audit log").click()
    expect(operator.get_by_role("region", name="Commits")).to_contain_text("VersionPublished")
    keep(operator, "log")


def test_another_domain_is_not_disclosed(context: BrowserContext, site: Site) -> None:
    with RegistryClient(site.url, site.operator) as client:
        key = client.issue_key("lawyer", ["infer:legal"])["key"]
    page = sign_in(context, site, key)
    expect(page.get_by_role("status")).not_to_contain_text("medical")
    for path in ("icd10-coder", "nothing"):
        page.goto(f"{site.url}/adapters/medical/{path}")
        expect(page.get_by_role("alert")).to_contain_text("no role in domain 'medical'")


def test_a_form_from_another_site_is_refused(context: BrowserContext, site: Site) -> None:
    page = sign_in(context, site, site.team)
    answer = page.request.post(
        f"{site.url}/adapters/medical/icd10-coder/aliases",
        form={"alias": "candidate", "version": "1", "seen": "candidate=3"},
        headers={"Origin": "https://elsewhere.example"},
    )
    assert answer.status == 403


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 380])
def test_no_page_has_an_accessibility_violation(
    browser: Browser, site: Site, scheme: Any, width: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = sign_in(context, site, site.operator)
    for name, path in {
        "catalogue": "/",
        "adapter": "/adapters/medical/icd10-coder",
        "version": "/adapters/medical/icd10-coder/versions/3",
        "compare": "/adapters/medical/icd10-coder/compare?a=1&b=3",
        "log": "/log",
        "upload": "/upload",
        "login": "/login",
    }.items():
        page.goto(site.url + path)
        assert violations(page) == [], path
        overflow = "document.documentElement.scrollWidth > innerWidth"
        assert not page.evaluate(overflow), f"{path} scrolls sideways"
        keep(page, f"{name}-{scheme}-{width}")
    context.close()
