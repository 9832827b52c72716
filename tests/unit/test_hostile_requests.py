"""Hostile values in every field of every route: a refusal in the client's form, never a fault."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from registry.http.app import create_app
from registry.maintain.archive import import_
from registry.model.access import ANY_DOMAIN, ROLES, Secret
from registry.model.catalog import Grant
from registry.model.keys import IssueKey
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore

GOLDEN = Path(__file__).parents[1] / "support" / "golden" / "export-1.tar"
DEEP = 100_000
BODIES = [
    b"[" * DEEP,
    b'{"a":' * DEEP,
    b'{"$ref": "#"}',
    b'"\\ud800"',
    b'{"\\ud800": 1}',
    b"\xff\xfe\x00",
    b"\x00",
    b"",
    b"null",
    b"[]",
    b"1e999",
    b"9" * 5000,
    b"-" + b"9" * 4000,
    b"{",
    b'{"name": NaN}',
]
VALUES: list[Any] = [
    "\ud800",
    "x" * 100_000,
    "\x00\x1b[31m",
    10**400,
    -1,
    float("inf"),
    [],
    {"$ref": "#"},
]
PARTS = ["%ED%A0%80", "%C3%A9", "%00", "..%2f..", "9" * 400, "-1", "a" * 3000]
HEADERS: list[dict[str, bytes]] = [
    {"Range": b"bytes=9-1"},
    {"Range": b"bytes=" + b"9" * 18 + b"-"},
    {"Range": b"bytes=\xff"},
    {"Origin": b"http://["},
    {"Origin": b"\xff"},
    {"Host": b"[::1"},
    {"Cookie": b"lorary_session=\xe9.\xe9"},
    {"Authorization": b"Bearer lry_\xe9_\xe9"},
    {"Content-Type": b"application/json; charset=\xff"},
    {"Content-Type": b"multipart/form-data"},
    {"Content-Type": b"multipart/form-data; boundary=" + b"x" * 5000},
    {"Content-Length": b"-1"},
    {"Content-Length": b"9" * 30},
]

EVERYTHING = tuple(Grant(role, ANY_DOMAIN) for role in ROLES)


FORMS = ["/api/models/{domain}/{adapter}/paths-info/{revision}"]
"""Routes that take a form, too."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A registry with something of everything, asked with a key that may do everything."""
    store = LocalStore(tmp_path_factory.mktemp("hostile") / "store")
    import_(store, GOLDEN, without_trailer=True)
    registry = Registry(store)
    keys = registry.refresh().keys
    operator = next(key for key in keys.values() if Grant("operate", "*") in key.grants)
    secret = Secret.generate()
    registry.execute(IssueKey(secret.id, "all", secret.digest, EVERYTHING), operator.id)
    registry.close()
    app = create_app(RegistrySettings(store=str(store.root)))
    headers = {"Authorization": f"Bearer {secret.text}", "Origin": "http://testserver"}
    with TestClient(app, headers=headers, raise_server_exceptions=False) as made:
        assert made.post("/login", data={"key": secret.text}).status_code == 200
        yield made


def check(client: TestClient, method: str, path: str, **request: Any) -> None:
    """The answer is no fault, and an error has the form that the route's clients read."""
    answer = client.request(method, path, follow_redirects=False, **request)
    shown = f"{method} {path[:200]} {str(request)[:300]}: {answer.status_code} {answer.text[:300]}"
    assert answer.status_code < 500, shown
    if answer.status_code >= 400 and method != "HEAD":
        page = re.fullmatch(r"/(?:(?:adapters|reviews)(?:/.*)?|log|login|logout|upload)?", path)
        if page:
            assert "text/html" in answer.headers["content-type"], shown
            assert "frame-ancestors" in answer.headers["content-security-policy"], shown
        else:
            assert "error" in answer.json() or "errors" in answer.json(), shown


def routes(client: TestClient) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of every documented operation."""
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        for method, described in operations.items():
            yield method.upper(), path, described


def pages(client: TestClient) -> Iterator[tuple[str, str]]:
    """Method and path of every page."""
    for route in client.app.routes:  # type: ignore[attr-defined]
        if not getattr(route, "include_in_schema", True) and hasattr(route, "methods"):
            yield from ((method, route.path) for method in route.methods if method != "HEAD")


def filled(client: TestClient, path: str) -> str:
    """A path with names of things that exist."""
    catalog = client.app.state.registry.catalog  # type: ignore[attr-defined]
    adapter = next(iter(catalog.adapters.values()))
    known = {
        "domain": adapter.domain, "adapter": adapter.name, "version": "1", "number": "1",
        "alias": "production", "ref": f"{adapter.domain}/{adapter.name}@1", "revision": "1",
        "review": next(iter(catalog.reviews)), "key": "nobody", "item": "0" * 12,
        "sha256": "0" * 64,
        "path": "README.md", "name": "README.md", "report": "0" * 64, "ticket": "a.b.1.c",
        "branch": "dev", "webhook": next(iter(catalog.webhooks), "none"),
        "task": next((task.name for task in catalog.tasks.values()), "none"),
    }  # fmt: skip
    return re.sub(r"\{(\w+)(?::path)?\}", lambda m: known[m[1]], path)


def example(schema: dict[str, Any], parts: dict[str, Any]) -> Any:
    """A small value that a schema describes."""
    if "$ref" in schema:
        return example(parts[schema["$ref"].rpartition("/")[2]], parts)
    if "anyOf" in schema:
        return example(schema["anyOf"][0], parts)
    if "default" in schema:
        return schema["default"]
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            return {
                name: example(part, parts) for name, part in schema.get("properties", {}).items()
            }
        case "array":
            return [example(schema.get("items", {}), parts)]
        case "string":
            return "0" * 64 if "pattern" in schema else "x"
        case "integer" | "number":
            return schema.get("minimum", 1) or 1
        case "boolean":
            return True
    return {}


def spoiled(value: Any) -> Iterator[Any]:
    """`value` with each of its members replaced by each hostile value."""
    if isinstance(value, dict):
        for name, member in value.items():
            for hostile in (*VALUES, *spoiled(member)):
                yield {**value, name: hostile}
        yield {**value, "\ud800": 1}
    elif isinstance(value, list) and value:
        for hostile in (*VALUES, *spoiled(value[0])):
            yield [hostile]
        yield value * 3000


def test_hostile_bodies_are_refused_on_every_route(client: TestClient) -> None:
    json_, form = "application/json", "application/x-www-form-urlencoded"
    listed = [(method, path, (json_, "text/plain")) for method, path, _ in routes(client)]
    listed += [("POST", path, (form, "multipart/form-data; boundary=x")) for path in FORMS]
    listed += [(*page, (form, "multipart/form-data; boundary=x")) for page in pages(client)]
    for method, path, kinds in listed:
        if method in ("GET", "DELETE") or path == "/logout":
            continue
        for body in BODIES:
            for kind in kinds:
                headers = {"Content-Type": kind}
                check(client, method, filled(client, path), content=body, headers=headers)


def test_hostile_values_are_refused_in_every_field(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    tried = 0
    for method, path, described in routes(client):
        content = described.get("requestBody", {}).get("content", {})
        if "application/json" not in content:
            continue
        good = example(content["application/json"]["schema"], document["components"]["schemas"])
        for body in spoiled(good):
            try:
                data = json.dumps(body)
            except ValueError:
                continue
            headers = {"Content-Type": "application/json"}
            check(client, method, filled(client, path), content=data.encode(), headers=headers)
            tried += 1
    assert tried > 500


@pytest.mark.parametrize("field", ["results", "calibration", "engine"])
def test_half_a_surrogate_pair_is_refused_deep_in_an_evaluation(
    client: TestClient, field: str
) -> None:
    hits = {"hits": "\ud800", "n": 2}
    result = {"suite": "s", "digest": "a" * 64, "held_out": "b" * 64, "tallies": {"accuracy": hits}}
    body = {"digest": "0" * 64, "report": {}, "results": [result]}
    if field != "results":
        body |= {
            "results": [{**result, "tallies": {}}],
            field: {"threshold": "\ud800", "name": "\ud800"},
        }
    path = filled(client, "/api/v1/adapters/{domain}/{adapter}/versions/{version}/evaluations")
    headers = {"Content-Type": "application/json"}
    check(client, "POST", path, content=json.dumps(body).encode(), headers=headers)


def test_hostile_paths_queries_and_headers_are_refused(client: TestClient) -> None:
    listed = [(method, path, d.get("parameters", [])) for method, path, d in routes(client)]
    for method, path, parameters in [*listed, *((m, p, []) for m, p in pages(client))]:
        if path == "/logout":
            continue
        good = filled(client, path)
        for name in re.findall(r"\{\w+(?::path)?\}", path):
            for part in PARTS:
                check(client, method, filled(client, path.replace(name, part)))
        for parameter in parameters:
            if parameter["in"] == "query":
                for part in PARTS:
                    check(client, method, f"{good}?{parameter['name']}={part}")
        for headers in HEADERS:
            check(client, method, good, headers=headers)


def schema_parts(schema: Any, at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a JSON schema."""
    if isinstance(schema, dict):
        yield at, schema
        for name, part in schema.get("properties", {}).items():
            yield from schema_parts(part, f"{at}.{name}")
        for name in ("items", "additionalProperties"):
            yield from schema_parts(schema.get(name), f"{at}.{name}")
        for part in (*schema.get("anyOf", ()), *schema.get("prefixItems", ())):
            yield from schema_parts(part, at)


DOCUMENTS = tuple(
    f"EvaluationBody.{name}" for name in ("report", "results", "calibration", "engine")
)
"""Bounded as a whole, and field by field when they become a command."""


def test_every_field_of_a_body_has_a_bound(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    bodies: set[str] = set()
    inline: list[tuple[str, Any]] = []
    for _, path, described in routes(client):
        for content in described.get("requestBody", {}).get("content", {}).values():
            inline.append((path, content["schema"]))
    known = document["components"]["schemas"]
    found: list[tuple[str, dict[str, Any]]] = []
    waiting = list(inline)
    while waiting:
        at, schema = waiting.pop()
        for where, part in schema_parts(schema, at):
            found.append((where, part))
            if "$ref" in part and (name := part["$ref"].rpartition("/")[2]) not in bodies:
                bodies.add(name)
                waiting.append((name, known[name]))
    unbounded = [
        where
        for where, part in found
        if not where.startswith(DOCUMENTS)
        and not {"enum", "const", "$ref"} & part.keys()
        and (
            (part.get("type") == "string" and "maxLength" not in part)
            or (part.get("type") == "array" and "maxItems" not in part)
            or (part.get("type") in ("integer", "number") and not _bounded(part))
            or (part.get("type") == "object" and not _closed(part))
        )
    ]
    assert not unbounded
    assert len(bodies) > 15


def _bounded(part: dict[str, Any]) -> bool:
    return bool({"maximum", "exclusiveMaximum"} & part.keys()) and bool(
        {"minimum", "exclusiveMinimum"} & part.keys()
    )


def _closed(part: dict[str, Any]) -> bool:
    return "properties" in part or "maxProperties" in part
