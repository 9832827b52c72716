"""What a registry shows to Prometheus: its own doings, and what its catalog says of quality."""

from pathlib import Path

import httpx
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from registry.http import metrics
from registry.model.access import Secret
from registry.model.aliases import MoveAlias
from registry.model.catalog import Catalog, Grant
from registry.model.domains import CreateDomain
from registry.model.keys import IssueKey
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import LocalStore
from tests.support.catalogs import publish_bytes
from tests.support.servers import registry_server

NOW = "2026-01-01T00:00:00Z"


def samples(page: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def value(page: str, name: str, **labels: str) -> float | None:
    return samples(page).get((name, frozenset(labels.items())))


def filled(store: LocalStore) -> tuple[Registry, Secret]:
    operator = Registry.create(store, name="test", key_name="operator")
    registry = Registry(store)
    policy = Policy(guarded=("stable",), approvals=1)
    registry.execute(CreateDomain("medical", policy), operator.id)
    for seed in (1, 2):
        publish_bytes(registry, operator.id, "medical", "coder", seed)
        registry.execute(MoveAlias("medical", "coder", "production", seed), operator.id)
    registry.execute(MoveAlias("medical", "coder", "production", 1), operator.id)
    return registry, operator


def test_the_catalog_tells_moves_rollbacks_and_what_versions_lack(local_store: LocalStore) -> None:
    registry, _ = filled(local_store)
    page = metrics.page(registry.refresh(), NOW).decode()
    registry.close()
    alias = {"domain": "medical", "adapter": "coder", "alias": "production"}
    assert value(page, "lorary_alias_version", **alias) == 1
    assert value(page, "lorary_alias_moves_total", **alias) == 3
    assert value(page, "lorary_alias_rollbacks_total", **alias) == 1
    for version in ("1", "2"):
        labels = {"domain": "medical", "adapter": "coder", "version": version}
        assert value(page, "lorary_gate_unmet", **labels) == 1
        assert value(page, "lorary_approvals", **labels) == 0
    assert value(page, "lorary_catalog_versions", domain="medical", state="kept") == 2
    assert value(page, "lorary_keys", state="active") == 1


def test_an_empty_catalog_has_a_page_too() -> None:
    assert value(metrics.page(Catalog(), NOW).decode(), "lorary_catalog_sequence") == 0


def test_series_are_bounded_however_many_adapters_there_are(local_store: LocalStore) -> None:
    registry, _ = filled(local_store)
    many = metrics.MAX_ADAPTERS + 20
    catalog = registry.refresh()
    registry.close()
    one = catalog.adapters["medical/coder"]
    adapters = {"medical/coder": one} | {f"medical/a{n}": one for n in range(many - 1)}
    page = metrics.page(replace(catalog, adapters=adapters), NOW).decode()
    series = [line for line in page.splitlines() if line.startswith("lorary_alias_version{")]
    assert len(series) == metrics.MAX_ADAPTERS
    assert value(page, "lorary_catalog_adapters", domain="medical") == many


def test_requests_and_refusals_are_counted_and_only_operators_see_the_page(
    local_store: LocalStore, tmp_path: Path
) -> None:
    registry, operator = filled(local_store)
    doctor = Secret.generate()
    command = IssueKey(doctor.id, "dr", doctor.digest, (Grant("infer", "medical"),))
    registry.execute(command, operator.id)
    registry.close()
    with registry_server(local_store.url, tmp_path) as url:
        as_operator = {"Authorization": f"Bearer {operator.text}"}
        as_doctor = {"Authorization": f"Bearer {doctor.text}"}
        assert httpx.get(f"{url}/metrics").status_code == 401
        assert httpx.get(f"{url}/metrics", headers=as_doctor).status_code == 403
        for ref in ("medical/coder", "medical/coder@2", "medical/none"):
            httpx.get(f"{url}/api/v1/resolve/{ref}", headers=as_operator)
        body = {"domain": "legal", "policy": {}}
        httpx.post(f"{url}/api/v1/domains", json=body, headers=as_operator)
        page = httpx.get(f"{url}/metrics", headers=as_operator).text
    route = {"method": "GET", "route": "/api/v1/resolve/{ref:path}"}
    name = "lorary_registry_requests_total"
    assert value(page, name, **route, status="200") == 2
    assert value(page, name, **route, status="404") == 1
    assert value(page, "lorary_registry_refusals_total", code="adapter_not_found") == 1
    assert value(page, "lorary_registry_refusals_total", code="invalid_api_key") == 1
    assert value(page, "lorary_registry_refusals_total", code="forbidden") == 1
    assert value(page, "lorary_registry_commits_total") == 1
