"""Who may read without changing anything, and how access is recovered when nobody has it."""

import stat
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from registry.cli.setup import init, recover
from registry.errors import BadRequest, Conflict, Forbidden
from registry.http import create_app
from registry.maintain.verify import verify
from registry.model.access import ANY_DOMAIN, RECOVERY, ROLES, Secret, authenticate
from registry.model.catalog import Catalog, Grant
from registry.model.domains import CreateDomain
from registry.model.keys import IssueKey, RecoverAccess, RevokeKey
from registry.model.machine import decide
from registry.model.policies import Policy
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from registry.times import utc_now


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def operator(store: LocalStore) -> Secret:
    return Registry.create(store, name="hospital", key_name="operator")


def give(registry: Registry, operator: Secret, name: str, *grants: Grant) -> Secret:
    secret = Secret.generate()
    registry.execute(IssueKey(secret.id, name, secret.digest, grants), operator.id)
    return secret


def test_the_first_operator_may_do_all_but_an_experts_part(
    store: LocalStore, operator: Secret
) -> None:
    registry = Registry(store)
    roles = {grant.role for grant in registry.refresh().keys[operator.id].grants}
    registry.close()
    assert roles == {*ROLES} - {"review", "approve"}


def test_an_auditor_reads_the_log_of_the_own_domains_and_changes_nothing(
    store: LocalStore, operator: Secret
) -> None:
    registry = Registry(store)
    for domain in ("medical", "legal"):
        registry.execute(CreateDomain(domain, Policy()), operator.id)
    whole = give(registry, operator, "whole", Grant("audit", ANY_DOMAIN))
    part = give(registry, operator, "part", Grant("audit", "medical"))
    app = give(registry, operator, "app", Grant("infer", ANY_DOMAIN))
    registry.close()
    client = TestClient(create_app(RegistrySettings(store=str(store.root))))

    def ask(who: Secret, method: str, path: str, **arguments: object) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {who.text}"}
        answer = client.request(method, f"/api/v1{path}", headers=headers, **arguments)  # type: ignore[arg-type]
        return answer.status_code, answer.text

    status, text = ask(app, "GET", "/log")
    assert (status, "--grant audit:DOMAIN" in text) == (403, True)
    assert "KeyIssued" in ask(whole, "GET", "/log")[1]
    status, text = ask(part, "GET", "/log")
    assert (status, "medical" in text) == (200, True)
    assert not any(word in text for word in ("legal", "KeyIssued", "whole"))
    assert ask(whole, "GET", "/keys")[0] == 200
    assert ask(part, "GET", "/keys")[0] == 403
    body = {"name": "mine", "grants": [{"role": "operate", "domain": "*"}]}
    assert ask(whole, "POST", "/keys", json=body)[0] == 403
    assert ask(whole, "PATCH", "/domains/medical/policy", json={"approvals": 0})[0] == 403


def test_access_is_recovered_by_the_store_alone_and_the_log_shows_it(
    store: LocalStore, operator: Secret
) -> None:
    registry, new = Registry(store), Secret.generate()
    command = RecoverAccess(new.id, "recovered", new.digest, "the operator left")
    with pytest.raises(Forbidden, match="store"):
        registry.execute(command, operator.id)
    registry.execute(command, RECOVERY)
    assert authenticate(registry.catalog, new, utc_now())
    registry.execute(RevokeKey(operator.id, "left"), new.id)
    registry.close()
    assert verify(store).sound


def test_the_log_shows_no_digest_of_an_issued_or_a_recovered_keys_secret(
    store: LocalStore, operator: Secret
) -> None:
    registry, recovered = Registry(store), Secret.generate()
    command = RecoverAccess(recovered.id, "recovered", recovered.digest, "the operator left")
    registry.execute(command, RECOVERY)
    registry.close()
    client = TestClient(create_app(RegistrySettings(store=str(store.root))))
    shown = client.get("/api/v1/log", headers={"Authorization": f"Bearer {recovered.text}"}).text
    assert recovered.id in shown
    assert operator.id in shown
    assert not any(secret.digest in shown for secret in (operator, recovered))


def test_a_recovered_key_is_readable_by_its_owner_alone(
    store: LocalStore, operator: Secret, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORARY_STORE", store.url)
    key_file = tmp_path / "operator.key"
    key_file.write_text("the old key, which everybody could read")
    key_file.chmod(0o644)
    recover("the operator left", key_file)
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert Secret.parse(key_file.read_text().strip()).id != operator.id


def test_a_recovered_key_is_not_read_by_who_had_the_file_open_or_linked_before(
    store: LocalStore, operator: Secret, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORARY_STORE", store.url)
    key_file, linked, target = (tmp_path / name for name in ("operator.key", "linked", "target"))
    key_file.write_text("old")
    linked.hardlink_to(key_file)
    with key_file.open() as opened:
        recover("the operator left", key_file)
        assert opened.read() == linked.read_text() == "old"
    target.write_text("another's")
    linked.unlink()
    linked.symlink_to(target)
    recover("the operator left", linked)
    assert target.read_text() == "another's"


def test_no_key_is_issued_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "empty")
    monkeypatch.setenv("LORARY_STORE", store.url)
    (tmp_path / "file").write_text("x")
    for key_file in (tmp_path, tmp_path / "file" / "operator.key"):
        with pytest.raises(BadRequest, match=str(tmp_path)):
            init("test", key_file)
    assert [*store.list("log/"), *tmp_path.glob(".*.part")] == []


def test_a_refused_beginning_leaves_the_key_that_is_there(
    store: LocalStore, operator: Secret, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORARY_STORE", store.url)
    (tmp_path / "operator.key").write_text("the key")
    with pytest.raises(Conflict):
        init("test", tmp_path / "operator.key")
    assert (tmp_path / "operator.key").read_text() == "the key"


def test_nothing_is_recovered_where_there_is_no_registry() -> None:
    command = RecoverAccess("k", "recovered", "0" * 64, "lost")
    with pytest.raises(Conflict, match="lorary init"):
        decide(Catalog(), command, RECOVERY, utc_now())


def test_a_head_request_opens_no_stream_of_events(store: LocalStore, operator: Secret) -> None:
    client = TestClient(create_app(RegistrySettings(store=str(store.root))))
    headers = {"Authorization": f"Bearer {operator.text}", "Accept": "text/event-stream"}
    answer = client.head("/api/v1/events", headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert client.head("/health").status_code == 200
