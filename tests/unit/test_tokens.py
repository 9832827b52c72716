"""Signed tokens: session cookies and upload addresses."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from registry import tokens
from registry.errors import Unauthenticated
from registry.http.app import create_app
from registry.hub import tickets
from registry.model.access import Secret
from registry.model.catalog import Catalog, Key
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from registry.web.session import COOKIE

KEY = Key(id="0a1b", name="n", secret_sha256="0" * 64, grants=(), issued="2026-01-01T00:00:00Z")
CATALOG = Catalog(keys={KEY.id: KEY})


def test_a_token_proves_its_key_for_its_purpose_only() -> None:
    text = tokens.issue("secret", "session", KEY, "claims-1", 60)
    assert tokens.verify(CATALOG, "secret", "session", text).claims == "claims-1"
    forged = [
        text[:-1] + ("0" if text[-1] != "0" else "1"),
        text.replace("claims-1", "claims-2"),
        text[:-64] + "é" * 64,
        f"{KEY.id}-a-1-9-é",
        f"{KEY.id}.a.9.é",
        f"{KEY.id}.a.x.{'0' * 64}",
        f"{KEY.id}.a.{'9' * 5000}.{'0' * 64}",
        f"{KEY.id}.a.\N{FULLWIDTH DIGIT NINE}.{'0' * 64}",
        "",
        "...",
        "\ud800.a.9." + "0" * 64,
    ]
    for wrong in forged:
        with pytest.raises(Unauthenticated):
            tokens.verify(CATALOG, "secret", "session", wrong)
    for secret, purpose in (("other", "session"), ("secret", "upload")):
        with pytest.raises(Unauthenticated):
            tokens.verify(CATALOG, secret, purpose, text)


def test_a_token_expires() -> None:
    text = tokens.issue("secret", "session", KEY, "", -1)
    with pytest.raises(Unauthenticated, match="expired"):
        tokens.verify(CATALOG, "secret", "session", text)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[tuple[TestClient, str]]:
    store = LocalStore(tmp_path / "store")
    secret = Registry.create(store, name="test", key_name="operator")
    app = create_app(RegistrySettings(store=str(store.root)))
    headers = {"Origin": "http://testserver"}
    with TestClient(app, headers=headers, raise_server_exceptions=False) as client:
        yield client, secret.text


def test_a_copied_session_cookie_is_refused_after_signing_out(
    browser: tuple[TestClient, str],
) -> None:
    client, key = browser
    client.post("/login", data={"key": key})
    copied = client.cookies[COOKIE]
    assert client.get("/", follow_redirects=False).status_code == 200
    client.post("/logout")
    client.cookies.clear()
    with_copy = client.get("/", headers={"Cookie": f"{COOKIE}={copied}"}, follow_redirects=False)
    assert with_copy.status_code == 303
    client.post("/login", data={"key": key})
    assert client.get("/", follow_redirects=False).status_code == 200


@pytest.mark.parametrize("cookie", ["0a1b.9.\xe9", "KEYID.\xff", "KEYID.a.9.\xff", "a.b.c.d"])
def test_a_malformed_cookie_is_no_session(browser: tuple[TestClient, str], cookie: str) -> None:
    client, key = browser
    value = cookie.replace("KEYID", key.split("_")[1]).encode("latin-1")
    headers = {"Cookie": f"{COOKIE}=".encode() + value}
    assert client.get("/", headers=headers, follow_redirects=False).status_code == 303  # type: ignore[arg-type]


@pytest.mark.parametrize("ticket", ["KEYID-a-1-9-%C3%A9", "KEYID.a.9.%C3%A9", "%00", "x" * 5000])
def test_an_upload_address_that_nobody_issued_is_refused(
    browser: tuple[TestClient, str], ticket: str
) -> None:
    client, key = browser
    path = "/lfs/" + ticket.replace("KEYID", key.split("_")[1])
    assert client.put(path, content=b"x").status_code == 401
    assert client.put(path).status_code == 401


@pytest.mark.parametrize("method", ["PUT", "GET", "POST"])
def test_an_upload_address_stands_in_no_log(
    browser: tuple[TestClient, str], caplog: pytest.LogCaptureFixture, method: str
) -> None:
    client, key = browser
    state = client.app.state  # type: ignore[attr-defined]
    issuer = state.registry.catalog.keys[Secret.parse(key).id]
    service_secret = state.settings.session_secret.get_secret_value()
    ticket = tickets.issue(issuer, "0" * 64, 1, service_secret)
    assert client.request(method, f"/lfs/{ticket}", content=b"x").status_code >= 400
    assert '"event": "refused"' in caplog.text
    assert ticket[-64:] not in caplog.text


@pytest.mark.parametrize("origin", ["http://[", "http://testserver@evil", "null", "http://[::1"])
def test_a_form_with_a_malformed_origin_is_refused(
    browser: tuple[TestClient, str], origin: str
) -> None:
    client, key = browser
    refused = client.post("/login", data={"key": key}, headers={"Origin": origin})
    assert refused.status_code == 403


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/oauth2-redirect"])
def test_no_page_loads_scripts_from_elsewhere(browser: tuple[TestClient, str], path: str) -> None:
    client, _ = browser
    assert client.get(path).status_code == 404


def test_an_upload_address_is_no_session_and_a_session_no_upload_address(
    browser: tuple[TestClient, str],
) -> None:
    client, key = browser
    state = client.app.state  # type: ignore[attr-defined]
    issuer = state.registry.catalog.keys[Secret.parse(key).id]
    service_secret = state.settings.session_secret.get_secret_value()
    ticket = tickets.issue(issuer, "0" * 64, 1, service_secret)
    with_ticket = client.get("/", headers={"Cookie": f"{COOKIE}={ticket}"}, follow_redirects=False)
    assert with_ticket.status_code == 303
    client.post("/login", data={"key": key})
    assert client.put(f"/lfs/{client.cookies[COOKIE]}", content=b"x").status_code == 401
