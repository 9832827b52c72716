"""Pages show when what happened: approvals, revocations, canaries and moves."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from registry.http import create_app
from registry.model.access import Secret
from registry.model.aliases import MoveAlias, RemoveAlias
from registry.model.canary import SplitAlias
from registry.model.catalog import Grant
from registry.model.domains import CreateDomain
from registry.model.keys import IssueKey
from registry.model.policies import Policy
from registry.model.versions import ApproveVersion, RevokeVersion
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from tests.support.catalogs import publish_bytes

CODER = ("medical", "coder")


@pytest.fixture
def browser(local_store: LocalStore) -> Iterator[TestClient]:
    """A signed-in operator's browser, after one change a day."""
    operator = Registry.create(local_store, name="test", key_name="operator")
    days = iter(range(1, 30))
    registry = Registry(local_store, clock=lambda: f"2030-01-{next(days):02}T03:04:05Z")
    registry.execute(CreateDomain("medical", Policy(guarded=())), operator.id)
    for seed in (1, 2):
        publish_bytes(registry, operator.id, *CODER, seed)
    expert = IssueKey("bob", "bob", "0" * 64, (Grant("approve", "medical"),))
    registry.execute(expert, operator.id)
    first = registry.catalog.adapters["medical/coder"].versions[0]
    for command, by in (
        (ApproveVersion(*CODER, 1, first.digest), "bob"),
        (MoveAlias(*CODER, "production", 1), operator.id),
        (SplitAlias(*CODER, "production", 2, 5), operator.id),
        (SplitAlias(*CODER, "production", 2, 0), operator.id),
        (MoveAlias(*CODER, "prodcution", 2), operator.id),
        (RemoveAlias(*CODER, "prodcution"), operator.id),
        (RevokeVersion(*CODER, 2, "wrong codes"), operator.id),
    ):
        registry.execute(command, by)
    registry.close()
    headers = {"Origin": "http://testserver"}
    app = create_app(RegistrySettings(store=str(local_store.root)))
    with TestClient(app, headers=headers) as client:
        client.post("/login", data={"key": operator.text})
        yield client


def test_an_adapters_history_has_moves_canaries_and_revocations(browser: TestClient) -> None:
    page = browser.get("/adapters/medical/coder").text
    history = page[page.index("<h2>History</h2>") :]
    rows = [
        "revoked: wrong codes", "prodcution removed", "prodcution moved", "0 % get @2",
        "5 % get @2", "production moved",
    ]  # fmt: skip
    places = [history.index(text) for text in rows]
    assert places == sorted(places), "the newest first"
    assert "operator" in history
    assert "2030-01-" in history


def test_a_versions_page_says_when_it_was_approved_and_revoked(browser: TestClient) -> None:
    approved = browser.get("/adapters/medical/coder/versions/1").text
    assert "2030-01-" in approved[approved.index("Approved</dt>") :].partition("</dd>")[0]
    revoked = browser.get("/adapters/medical/coder/versions/2").text
    alert = revoked[revoked.index("Revoked: wrong codes") :].partition("</p>")[0]
    assert "2030-01-" in alert
    assert "operator" in alert


def test_an_approval_on_the_page_takes_a_statement_which_is_shown(browser: TestClient) -> None:
    registry: Registry = browser.app.state.registry  # type: ignore[attr-defined]
    carol = Secret.generate()
    operator = next(key for key in registry.catalog.keys if key != "bob")
    grants = (Grant("approve", "medical"),)
    registry.execute(IssueKey(carol.id, "carol", carol.digest, grants), operator)
    browser.post("/login", data={"key": carol.text})
    page = "/adapters/medical/coder/versions/1"
    form = {"digest": registry.catalog.adapters["medical/coder"].versions[0].digest}
    assert browser.post(f"{page}/approval", data=form).status_code == 400
    assert carol.id not in browser.get(page).text.partition("</dl>")[0]
    assert browser.post(f"{page}/approval", data={**form, "statement": " \n"}).status_code == 400
    said = {**form, "statement": "200 answers read, <none> harmful"}
    assert browser.post(f"{page}/approval", data=said).status_code == 200
    assert "200 answers read, &lt;none&gt; harmful" in browser.get(page).text


def test_a_revoked_version_in_production_shows_as_an_outage(browser: TestClient) -> None:
    registry: Registry = browser.app.state.registry  # type: ignore[attr-defined]
    operator = next(key for key in registry.catalog.keys if key != "bob")
    registry.execute(RevokeVersion(*CODER, 1, "wrong, too"), operator)
    for path in ("/", "/adapters/medical/coder", "/adapters/medical/coder/versions/1"):
        assert "not served" in browser.get(path).text, path
    assert '<span class="tag good">production' not in browser.get(path).text


def test_the_audit_page_shows_grants_and_the_contents_of_policies(browser: TestClient) -> None:
    page = browser.get("/log").text
    assert "approve:medical" in page
    assert "approvals=1" in page
