"""The registry's pages without a browser: where sign-in leads, and which forms are carried out."""

import re
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from registry.http.app import create_app
from registry.model.access import Secret
from registry.model.aliases import MoveAlias
from registry.model.domains import ChangePolicy, CreateDomain
from registry.model.policies import Policy
from registry.model.versions import RevokeVersion
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from tests.support.catalogs import publish_bytes

ALIASES = "/adapters/medical/coder/aliases"


class Desk:
    """A browser without a session, and the registry behind it."""

    def __init__(self, client: TestClient, registry: Registry, operator: Secret) -> None:
        self.client, self.registry, self.operator = client, registry, operator

    def sign_in(self, after: str = "/") -> str:
        """Where the browser is sent."""
        answer = self.client.post("/login", data={"key": self.operator.text, "next": after})
        assert answer.status_code == 303
        return answer.headers["location"]

    def move(self, version: int, seen: int, **headers: str) -> int:
        """The status of the form's answer; the alias named `seen` on the page (0: nothing)."""
        form = {"alias": "beta", "version": version, "seen": [f"beta={seen}"] if seen else []}
        return self.client.post(ALIASES, data=form, headers=headers).status_code

    @property
    def beta(self) -> int | None:
        """The version that the alias names."""
        return self.registry.refresh().adapters["medical/coder"].aliases.get("beta")


@pytest.fixture
def desk(local_store: LocalStore) -> Iterator[Desk]:
    operator = Registry.create(local_store, name="test", key_name="operator")
    app = create_app(RegistrySettings(store=str(local_store.root)))
    headers = {"Origin": "http://testserver"}
    with TestClient(app, headers=headers, follow_redirects=False) as client:
        made = Desk(client, app.state.registry, operator)
        made.registry.execute(CreateDomain("medical", Policy()), operator.id)
        for seed in (1, 2):
            publish_bytes(made.registry, operator.id, "medical", "coder", seed)
        yield made


def test_sign_in_leads_to_no_other_site(desk: Desk) -> None:
    for elsewhere in ("//evil", "/\\evil", "https://evil", "evil", ""):
        assert desk.sign_in(elsewhere) == "/"
    assert desk.sign_in("/log?before=7") == "/log?before=7"


def test_a_form_from_another_site_changes_nothing(desk: Desk) -> None:
    desk.sign_in()
    assert desk.move(1, 0, Origin="https://evil") == 403
    assert desk.beta is None
    assert desk.move(1, 0) == 303
    assert desk.beta == 1


def test_a_versions_page_begins_with_whether_it_may_be_promoted_and_what_it_lacks(
    desk: Desk,
) -> None:
    desk.sign_in()
    address = "/adapters/medical/coder/versions/1"
    shown = desk.client.get(address).text
    assert shown.index("medical/coder@1 may not become production yet") < shown.index("Digest")
    assert "1 more approval(s) needed" in shown[: shown.index("Digest")]
    desk.registry.execute(
        ChangePolicy("medical", Policy(approvals=0), weaken=True), desk.operator.id
    )
    shown = desk.client.get(address).text
    assert "medical/coder@1 may become production: the domain&#39;s policy asks nothing." in shown
    desk.registry.execute(
        RevokeVersion("medical", "coder", 1, "it invents codes"), desk.operator.id
    )
    shown = desk.client.get(address).text
    assert "may not become production yet" in shown
    assert "not revoked: it invents codes" in shown


def test_an_alias_that_moved_since_the_page_was_shown_is_not_moved(desk: Desk) -> None:
    desk.registry.execute(MoveAlias("medical", "coder", "beta", 2), desk.operator.id)
    desk.sign_in()
    assert desk.move(1, 0) == 409
    assert desk.beta == 2
    assert desk.move(1, 2) == 303
    assert desk.beta == 1


def test_a_new_alias_is_not_taken_for_the_one_in_production(desk: Desk) -> None:
    desk.registry.execute(MoveAlias("medical", "coder", "candidate", 2), desk.operator.id)
    desk.sign_in()
    page = desk.client.get("/adapters/medical/coder").text
    seen = re.findall(r'name="seen" value="([^"]+)"', page)
    assert seen == ["candidate=2"]
    form = {"alias": "beta", "version": 1, "seen": seen}
    assert desk.client.post(ALIASES, data=form).status_code == 303
    assert desk.beta == 1
    assert desk.client.post(ALIASES, data=form | {"seen": ["beta=x"]}).status_code == 400


def test_a_refusal_keeps_the_navigation_and_an_unknown_address_is_a_page(desk: Desk) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml"}
    assert 'href="/reviews"' not in desk.client.get("/nowhere", headers=browser).text
    desk.sign_in()
    for address in ("/adapters/medical/nothing", "/nowhere", "/medical/nothing"):
        answer = desk.client.get(address, headers=browser)
        assert answer.status_code == 404
        assert 'href="/reviews"' in answer.text
        assert "operator" in answer.text
    assert desk.client.get("/api/v1/nowhere", headers=browser).json()["error"]
    assert desk.client.get("/nowhere").json()["error"], "a program gets JSON"


def test_pages_of_the_log_hold_each_commit_once(desk: Desk) -> None:
    desk.sign_in()
    last = desk.registry.refresh().sequence
    key = {"Authorization": f"Bearer {desk.operator.text}"}
    listed = desk.client.get("/api/v1/log?after=2&limit=2", headers=key).json()
    assert [commit["sequence"] for commit in listed] == [3, 4]
    shown = desk.client.get(f"/log?before={last}").text
    assert f'<th scope="row">{last - 1}</th>' in shown
    assert f'<th scope="row">{last}</th>' not in shown
