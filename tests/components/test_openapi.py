"""Whatever is sent to any route, the answer is one that the OpenAPI document describes."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from registry.client import RegistryClient
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import LocalStore
from tests.support.adapters import TINY, write_adapter
from tests.support.servers import registry_server

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A registry with an adapter in it, and an operator's key."""
    folder: Path = tmp_path_factory.mktemp("openapi")
    store = LocalStore(folder / "store")
    key = Registry.create(store, name="openapi", key_name="operator").text
    with registry_server(store.url, folder) as url, RegistryClient(url, key) as client:
        client.execute(CreateDomain("medical", Policy(guarded=())))
        client.add_base(TINY)
        client.push(write_adapter(folder / "adapter"), "medical/coder")
        yield url, key


def test_head_is_answered_as_get_without_a_body(served: tuple[str, str]) -> None:
    url, key = served
    headers = {"Authorization": f"Bearer {key}"}
    known = {"domain": "medical", "adapter": "coder", "revision": "1", "version": "1"}
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    asked = [
        path.format_map(known) for path in paths if set(re.findall(r"{(\w+)}", path)) <= set(known)
    ]
    with httpx.Client(base_url=url, headers=headers) as client:
        for path in ["/", *(path for path in asked if "get" in paths.get(path, {"get": ""}))]:
            get, head = client.get(path), client.head(path)
            assert (head.status_code, head.content) == (get.status_code, b""), path


def test_every_answer_is_one_that_the_document_describes(served: tuple[str, str]) -> None:
    url, key = served
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    failures: list[str] = []
    for found in schema.get_all_operations():
        operation: Any = found.ok()  # type: ignore[union-attr]

        @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def send(case: Any) -> None:
            case.call_and_validate(headers={"Authorization": f"Bearer {key}"}, checks=CHECKS)

        try:
            send()
        except (Exception, BaseExceptionGroup) as error:
            failures.append(f"{operation.label}: {error} {getattr(error, 'exceptions', '')}")
    assert not failures, "\n\n".join(failures)


def test_the_document_names_every_public_route(served: tuple[str, str]) -> None:
    url, _ = served
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    assert "/api/v1/adapters/{domain}/{adapter}/versions" in paths
    assert "/{domain}/{adapter}/resolve/{revision}/{path}" in paths
