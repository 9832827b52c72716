"""Listings come in pages, and the pages together are the whole."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from registry.client import RegistryClient
from registry.http import create_app
from registry.http.paging import LIMIT
from registry.log.commits import CommitLog
from registry.model.access import Secret
from registry.model.base import Entry
from registry.model.catalog import Grant
from registry.model.domains import CreateDomain, DomainCreated
from registry.model.keys import IssueKey
from registry.model.policies import Policy
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from registry.times import utc_now
from tests.support.catalogs import publish_bytes
from tests.support.servers import registry_server

MANY = LIMIT + 5


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalStore, Secret]:
    """A registry with more domains than a page holds, and an adapter with many versions."""
    store = LocalStore(tmp_path_factory.mktemp("full") / "store")
    operator = Registry.create(store, name="r", key_name="op")
    registry = Registry(store)
    made = [DomainCreated(domain=f"d{n:04}", policy=Policy(guarded=())) for n in range(MANY)]
    entries = [Entry(operator.id, event) for event in made]
    CommitLog(store).append(registry.refresh(), entries, utc_now())
    for seed in range(12):
        publish_bytes(registry, operator.id, "d0000", "coder", seed)
    for number in range(3):
        secret = Secret.generate()
        grants = (Grant("infer", f"d000{number}"),)
        registry.execute(IssueKey(secret.id, f"k{number}", secret.digest, grants), operator.id)
    registry.close()
    return store, operator


@pytest.fixture(scope="module")
def client(full: tuple[LocalStore, Secret]) -> Iterator[TestClient]:
    store, operator = full
    with TestClient(create_app(RegistrySettings(store=str(store.root)))) as made:
        made.headers["Authorization"] = f"Bearer {operator.text}"
        yield made


@pytest.mark.parametrize(
    ("route", "name", "limit"),
    [("/domains", "name", 400), ("/keys", "id", 1), ("/bases", "name", 1)],
)
def test_the_pages_of_a_listing_are_the_whole_in_order(
    client: TestClient, route: str, name: str, limit: int
) -> None:
    found: list[str] = []
    while True:
        query = {"limit": str(limit), "after": found[-1] if found else ""}
        page = client.get(f"/api/v1{route}", params=query).json()
        assert len(page) <= limit
        found += [entry[name] for entry in page]
        if len(page) < limit:
            break
    catalog = client.app.state.registry.catalog  # type: ignore[attr-defined]
    assert found == sorted(getattr(catalog, route.strip("/")))


def test_a_listing_without_a_limit_is_bounded_all_the_same(client: TestClient) -> None:
    assert len(client.get("/api/v1/domains").json()) == LIMIT
    assert client.get(f"/api/v1/domains?limit={LIMIT + 1}").status_code == 400


def test_a_listed_adapter_shows_its_newest_versions_and_how_many_there_are(
    client: TestClient,
) -> None:
    (listed,) = client.get("/api/v1/adapters").json()
    assert listed["version_count"] == 12
    assert [version["version"] for version in listed["versions"]] == [*range(3, 13)]
    shown = client.get("/api/v1/adapters/d0000/coder").json()
    assert [version["version"] for version in shown["versions"]] == [*range(1, 13)]


def test_a_search_finds_names_in_any_case(local_store: LocalStore) -> None:
    operator = Registry.create(local_store, name="r", key_name="op")
    registry = Registry(local_store)
    registry.execute(CreateDomain("medical", Policy(guarded=())), operator.id)
    publish_bytes(registry, operator.id, "medical", "ICD-Coder", 0)
    registry.close()
    with TestClient(create_app(RegistrySettings(store=str(local_store.root)))) as client:
        client.headers["Authorization"] = f"Bearer {operator.text}"
        for search in ("icd-coder", "ICD-C", "Icd"):
            for route in ("/api/v1/adapters", "/api/models"):
                assert len(client.get(route, params={"search": search}).json()) == 1, route


def test_the_client_reads_all_pages(full: tuple[LocalStore, Secret], tmp_path: Path) -> None:
    store, operator = full
    with (
        registry_server(str(store.root), tmp_path) as url,
        RegistryClient(url, operator.text) as registry,
    ):
        assert len({domain["name"] for domain in registry.domains()}) == MANY
