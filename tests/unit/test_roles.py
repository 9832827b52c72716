"""Every route with every kind of key, held to the table in docs/reference/route-roles.md."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from registry.http import create_app
from registry.maintain.archive import import_
from registry.model.access import ANY_DOMAIN, ROLES, Secret
from registry.model.catalog import Grant
from registry.model.keys import IssueKey, RevokeKey
from registry.model.webhooks import AddWebhook
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from registry.times import write
from tests.unit.test_hostile_requests import GOLDEN, example, filled, routes

TABLE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "route-roles.md"
ROW = re.compile(r"^\| ([A-Z]+) \| (/\S*) \| (.+) \|$", re.MULTILINE)
READERS = frozenset(ROLES) - {"serve", "observe"}
HERE, ELSEWHERE = "medical", "legal"
DIGEST = "0" * 64


def utc_in(*, seconds: int) -> str:
    return write(datetime.now(UTC) + timedelta(seconds=seconds))


@dataclass(frozen=True)
class Caller:
    """Somebody who asks: with a role in a domain, or with no valid key."""

    header: str
    role: str = ""
    domain: str = ""


def may(caller: Caller, takes: str) -> bool:
    """What the table says of a caller."""
    if takes == "anybody":
        return True
    if not caller.role or takes.startswith("a ticket"):
        return False
    if takes == "any key":
        return True
    if takes == "reader":
        return caller.role in READERS and caller.domain in (HERE, ANY_DOMAIN)
    for role in takes.split(", "):
        where = {"*": (ANY_DOMAIN,), "(some)": (HERE, ELSEWHERE, ANY_DOMAIN)}
        name = role.removesuffix("*").removesuffix("(some)")
        if caller.role == name:
            return caller.domain in where.get(role.removeprefix(name), (HERE, ANY_DOMAIN))
    return False


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, list[Caller]]]:
    """A registry with something of everything, and every kind of caller."""
    store = LocalStore(tmp_path_factory.mktemp("roles") / "store")
    import_(store, GOLDEN, without_trailer=True)
    registry = Registry(store)
    keys = registry.refresh().keys
    operator = next(key.id for key in keys.values() if Grant("operate", "*") in key.grants)

    def issue(name: str, grant: Grant, expires: str | None = None) -> Secret:
        secret = Secret.generate()
        command = IssueKey(secret.id, name, secret.digest, (grant,), expires)
        registry.execute(command, operator)
        return secret

    callers = [Caller(""), Caller(f"Bearer {Secret.generate().text}"), Caller("Bearer x")]
    for role in ROLES:
        for domain in (HERE, ELSEWHERE, ANY_DOMAIN):
            secret = issue(f"{role} {domain}", Grant(role, domain))
            callers.append(Caller(f"Bearer {secret.text}", role, domain))
    revoked = issue("revoked", Grant("operate", "*"))
    registry.execute(RevokeKey(revoked.id, "left"), operator)
    callers.append(Caller(f"Bearer {revoked.text}"))
    expired = issue("expired", Grant("operate", "*"), utc_in(seconds=2))
    callers.append(Caller(f"Bearer {expired.text}"))
    registry.execute(AddWebhook("w1", "https://a.example/x", HERE), operator)
    registry.close()
    time.sleep(2.5)
    app = create_app(RegistrySettings(store=str(store.root)))
    with TestClient(app, raise_server_exceptions=False) as client:
        reader = next(c for c in callers if (c.role, c.domain) == ("operate", ANY_DOMAIN))
        client.headers["Authorization"] = reader.header
        yield client, callers


def bodies(client: TestClient) -> dict[tuple[str, str], Any]:
    """A body for each route that takes one, right enough to be asked for a role."""
    parts = client.get("/openapi.json").json()["components"]["schemas"]
    found = {}
    for method, path, described in routes(client):
        content = described.get("requestBody", {}).get("content", {})
        if "application/json" in content:
            found[method, path] = example(content["application/json"]["schema"], parts)
    version = "/api/v1/adapters/{domain}/{adapter}/versions"
    file = {"path": "adapter_config.json", "size": 1, "sha256": DIGEST}
    return found | {
        ("POST", "/api/v1/domains"): {"domain": "new"},
        ("PATCH", "/api/v1/domains/{domain}/policy"): {"keep": 5},
        ("POST", "/api/v1/bases"): {"name": "b", "digest": DIGEST, "modules": {"m": [1, 1]}},
        ("POST", version): {"base": "tiny", "files": [file]},
        ("POST", version + "/{version}/approvals"): {"digest": DIGEST},
        ("POST", version + "/{version}/runs"): {
            "digest": DIGEST, "run": "r", "held_out": [DIGEST],
        },
        ("POST", version + "/{version}/evaluations"): {
            "digest": DIGEST, "report": {},
            "results": [{"suite": "s", "digest": DIGEST, "held_out": DIGEST, "tallies": {}}],
        },
        ("POST", "/api/v1/domains/{domain}/tasks/{task}/versions"): {
            "files": [file], "suites": [{"suite": "s", "digest": DIGEST, "held_out": DIGEST}],
        },
        ("POST", "/api/v1/reviews"): {
            "domain": HERE, "adapter": "coder", "versions": [1], "title": "t",
            "items": [{"prompt": "p", "answers": ["a"]}],
        },
        ("POST", "/api/v1/webhooks"): {"url": "https://a.example/x", "domain": HERE},
        ("POST", "/api/repos/create"): {"name": "coder", "organization": HERE, "type": "model"},
        ("POST", "/{domain}/{adapter}.git/info/lfs/objects/batch"): {
            "operation": "upload", "objects": [{"oid": DIGEST, "size": 1}],
        },
    }  # fmt: skip


def test_the_table_names_every_route_and_no_other(
    service: tuple[TestClient, list[Caller]],
) -> None:
    client, _ = service
    listed = [(method, path) for method, path, _ in ROW.findall(TABLE.read_text())]
    assert len(listed) == len(set(listed))
    assert set(listed) == {(method, path) for method, path, _ in routes(client)}


def test_every_route_takes_the_roles_of_the_table_and_no_others(
    service: tuple[TestClient, list[Caller]],
) -> None:
    client, callers = service
    sent = bodies(client)
    rows = ROW.findall(TABLE.read_text())
    wrong = []
    # Whoever is refused changes nothing, so they come first.
    for allowed in (False, True):
        for method, path, takes in rows:
            for caller in callers:
                if may(caller, takes) != allowed:
                    continue
                answer = client.request(
                    method,
                    filled(client, path) + ("?path=README.md" if "/files" in path else ""),
                    headers={"Authorization": caller.header},
                    follow_redirects=False,
                    json=sent.get((method, path)) if method != "GET" else None,
                )
                refused = (403,) if caller.role else (401,)
                if path == "/lfs/{ticket}":
                    refused = (401,)
                if (answer.status_code in refused) == allowed:
                    about = f"{caller.role} in {caller.domain}" if caller.role else "no valid key"
                    told = f"{answer.status_code} {answer.text[:150]}"
                    wrong.append(f"{method} {path} with {about}: {told}")
    assert not wrong, "\n".join(wrong)
