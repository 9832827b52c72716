"""Keys: parsed strictly, compared by digest, never shown by accident."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from registry.errors import Conflict, Forbidden, Unauthenticated
from registry.http.app import create_app
from registry.model.access import (
    ROLES,
    Secret,
    authenticate,
    bearer,
    has_role,
    may_see,
    require,
    require_observe,
)
from registry.model.base import Entry
from registry.model.catalog import Catalog, Grant, Key
from registry.model.domains import CreateDomain
from registry.model.keys import IssueKey, RevokeKey, permanent_operators
from registry.model.machine import decide, fold
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from tests.support.catalogs import publish_bytes

NOW = "2026-11-24T03:00:00Z"


def known(secret: Secret, *grants: Grant) -> Catalog:
    key = Key(id=secret.id, name="n", secret_sha256=secret.digest, grants=tuple(grants), issued=NOW)
    return Catalog(keys={secret.id: key})


def test_a_key_opens_what_it_was_issued_for_and_nothing_else() -> None:
    secret = Secret.generate()
    key = authenticate(known(secret, Grant("infer", "medical")), Secret.parse(secret.text), NOW)
    require(key, "infer", "medical")
    for role, domain in (("infer", "legal"), ("publish", "medical"), ("infer", "*")):
        assert not has_role(key, role, domain)  # type: ignore[arg-type] # roles of a table
    with pytest.raises(Forbidden, match="lorary key issue"):
        require(key, "infer", "legal")


def test_a_wrong_secret_and_an_unknown_id_are_refused_alike() -> None:
    secret = Secret.generate()
    messages = set()
    for presented in (Secret(secret.id, "wrong"), Secret("unknown", secret.secret)):
        with pytest.raises(Unauthenticated) as refused:
            authenticate(known(secret), presented, NOW)
        messages.add(refused.value.message)
    assert len(messages) == 1


@given(st.text())
def test_any_header_is_a_key_or_refused(text: str) -> None:
    for header in (text, f"Bearer {text}", f"Bearer lry_{text}"):
        try:
            secret = bearer(header)
        except Unauthenticated:
            continue
        assert secret.id
        assert secret.secret


def test_a_secret_does_not_show_in_a_log() -> None:
    secret = Secret.generate()
    assert secret.secret not in repr(secret)
    assert Secret.parse(secret.text) == secret


def operators(*keys: tuple[str, str | None]) -> Catalog:
    """A registry whose operators' keys expire at the given times."""
    everything = (Grant("operate", "*"),)
    return Catalog(
        registry="r",
        keys={
            id: Key(id=id, name=id, secret_sha256="0" * 64, grants=everything, issued=NOW,
                    expires=expires)
            for id, expires in keys
        },
    )  # fmt: skip


@pytest.mark.parametrize(
    "others",
    [
        (),
        (("gone", "2026-11-24T02:59:59Z"),),
        (("going", "2026-11-24T03:00:01Z"),),
        (("later", "2036-11-24T03:00:00Z"), ("later still", "2099-12-31T00:00:00Z")),
    ],
)
def test_the_last_operators_key_cannot_be_revoked(others: tuple[tuple[str, str], ...]) -> None:
    catalog = operators(("op", None), *others)
    with pytest.raises(Conflict, match=r"last operator's key.*without --expires.*key issue"):
        decide(catalog, RevokeKey("op", "leaving"), "op", NOW)
    for id, _ in others:
        assert decide(catalog, RevokeKey(id, "leaving"), "op", NOW), "others are revoked as before"


def test_nobody_locks_operators_out_with_a_key_that_expires_soon() -> None:
    catalog = operators(("op", None))
    soon = IssueKey("soon", "soon", "0" * 64, (Grant("operate", "*"),), "2026-11-24T03:00:01Z")
    catalog = fold(catalog, [Entry("op", e) for e in decide(catalog, soon, "op", NOW)], NOW)
    with pytest.raises(Conflict, match="last operator's key"):
        decide(catalog, RevokeKey("op", "leaving"), "soon", NOW)
    assert permanent_operators(catalog) == ["op"]


def test_where_every_operators_key_expires_none_is_revoked_before_one_that_does_not() -> None:
    catalog = operators(("a", "2027-01-01T00:00:00Z"), ("b", "2027-01-01T00:00:00Z"))
    with pytest.raises(Conflict, match="without --expires"):
        decide(catalog, RevokeKey("a", "stolen"), "b", NOW)
    grants = (Grant("operate", "*"),)
    issue = IssueKey("c", "c", "0" * 64, grants)
    catalog = fold(catalog, [Entry("b", e) for e in decide(catalog, issue, "b", NOW)], NOW)
    assert decide(catalog, RevokeKey("a", "stolen"), "b", NOW)


def test_one_of_two_operators_keys_can_be_revoked() -> None:
    catalog = operators(("op", None), ("other", None))
    assert decide(catalog, RevokeKey("op", "leaving"), "op", NOW)


def test_a_scrapers_key_reads_metrics_and_nothing_else() -> None:
    scraper = operators(("scrape", None)).keys["scrape"]
    scraper = msgspec.structs.replace(scraper, grants=(Grant("observe", "*"),))
    require_observe(scraper)
    assert not may_see(scraper, "medical")
    for role in ROLES:
        assert has_role(scraper, role, "*") == (role == "observe")
    app = msgspec.structs.replace(scraper, grants=(Grant("infer", "*"),))
    with pytest.raises(Forbidden, match="observe"):
        require_observe(app)
    require_observe(operators(("op", None)).keys["op"])


@pytest.mark.parametrize("is_near", [True, False])
def test_a_key_that_another_process_revoked_opens_nothing_any_more(
    local_store: LocalStore, monkeypatch: pytest.MonkeyPatch, is_near: bool
) -> None:
    monkeypatch.setattr(LocalStore, "is_near", is_near)
    operator = Registry.create(local_store, name="test", key_name="operator")
    other, secret = Registry(local_store), Secret.generate()
    grants = (Grant("infer", "*"),)
    other.execute(IssueKey(secret.id, "app", secret.digest, grants), operator.id)
    app = create_app(RegistrySettings(store=str(local_store.root)))
    with TestClient(app, headers={"Authorization": f"Bearer {secret.text}"}) as client:
        assert client.get("/api/v1/adapters").status_code == 200
        other.execute(RevokeKey(secret.id, "lost"), operator.id)
        other.close()
        assert client.get("/api/v1/adapters").status_code == 401


def test_a_missing_adapters_answer_names_none_of_other_domains(local_store: LocalStore) -> None:
    operator = Registry.create(local_store, name="test", key_name="operator")
    registry = Registry(local_store)
    for domain in ("medical", "legal"):
        registry.execute(CreateDomain(domain), operator.id)
        publish_bytes(registry, operator.id, domain, f"{domain}-coder", 1)
    doctor = Secret.generate()
    grants = tuple(Grant(role, "medical") for role in ("publish", "review", "serve"))
    registry.execute(IssueKey(doctor.id, "doctor", doctor.digest, grants), operator.id)
    registry.close()
    client = TestClient(
        create_app(RegistrySettings(store=str(local_store.root))),
        headers={"Origin": "http://testserver", "Authorization": f"Bearer {doctor.text}"},
    )
    client.post("/login", data={"key": doctor.text}, follow_redirects=False)
    missing = "medical/legal-coder"
    for method, path in (
        ("GET", f"/api/v1/adapters/{missing}"),
        ("GET", f"/api/v1/resolve/{missing}@1"),
        ("GET", f"/api/models/{missing}"),
        ("PUT", f"/api/v1/adapters/{missing}/aliases/candidate"),
        ("GET", f"/adapters/{missing}"),
    ):
        answer = client.request(method, path, json={"version": 1})
        assert answer.status_code == 404
        told = answer.text + str(answer.headers)
        assert "legal/legal-coder" not in told
        assert "medical/medical-coder" in told
    headers = {"Authorization": f"Bearer {operator.text}"}
    answer = client.get(f"/api/v1/adapters/{missing}", headers=headers)
    assert "legal/legal-coder" in answer.text
