"""docs/reference/registry-api.md and serving-api.md: the HTTP APIs."""

import re
import tempfile
from pathlib import Path
from typing import Any

from reference.markdown import code, table
from registry.http import create_app
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import open_store
from serving.counting import COUNT_TOKENS
from serving.gate import FEEDBACK, MODELS, PREFETCH
from serving.request.reference import table as bounds
from serving.request.routes import ROUTES

ROLES = re.compile(r"^\| ([A-Z]+) \| (/\S*) \| (.+) \|$", re.MULTILINE)
ROLES_PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "route-roles.md"
OTHERS = {
    ("GET", MODELS): "List the models that the key may use, with what they are.",
    (
        "GET",
        f"{MODELS}/NAME",
    ): "Show one model. For the base model: the engine and its fingerprint.",
    ("POST", COUNT_TOKENS): "Count the tokens of a request of Anthropic's Messages API.",
    ("POST", FEEDBACK): "Record a caller's rating of an answer, by the answer's `id`.",
    ("POST", PREFETCH): "Load adapters that will soon be requested.",
    ("POST", "/v1/files"): "Upload a batch's requests; also `GET`, `GET /v1/files/ID`, "
    "`GET /v1/files/ID/content` and `DELETE /v1/files/ID`.",
    ("POST", "/v1/batches"): "Start a batch; also `GET`, `GET /v1/batches/ID` and "
    "`POST /v1/batches/ID/cancel`.",
    ("GET", "/health"): "200 while the server takes requests, 503 while it shuts down. No key.",
    ("GET", "/metrics"): "[Metrics](metrics.md) for Prometheus.",
}
"""Routes of a server beside those that make answers."""


def document() -> dict[str, Any]:
    """The registry's OpenAPI document."""
    with tempfile.TemporaryDirectory() as folder:
        Registry.create(open_store(folder), name="reference", key_name="operator")
        found: dict[str, Any] = create_app(RegistrySettings(store=folder)).openapi()
    return found


def registry_page() -> str:
    """The registry's routes by tag, with fields of their bodies."""
    found = document()
    takes = {(method, path): role for method, path, role in ROLES.findall(ROLES_PAGE.read_text())}
    sections: dict[str, list[tuple[str, ...]]] = {}
    for path, methods in sorted(found["paths"].items()):
        for method, described in methods.items():
            about = " ".join(described.get("description", described.get("summary", "")).split())
            (tag,) = described.get("tags", ["other"])
            row = (
                code(f"{method.upper()} {path}"),
                takes[method.upper(), path],
                _body(described, found["components"]["schemas"]),
                about,
            )
            sections.setdefault(tag, []).append(row)
    titles = ("route", "role", "body", "meaning")
    parts = "\n".join(
        f"## {tag.capitalize()}\n\n{table(titles, rows)}" for tag, rows in sorted(sections.items())
    )
    return f"""# Registry API

The registry's routes. `/openapi.json` has the types of all fields. Send the key as
`Authorization: Bearer lry_...`; what it takes is explained in [roles](route-roles.md), and
[errors](errors.md) have one form. `*` marks a field that is required.

{parts}"""


def _body(described: dict[str, Any], schemas: dict[str, Any]) -> str:
    content = described.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    schema = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
    required = schema.get("required", ())
    return ", ".join(
        f"{code(name)}{'*' if name in required else ''}" for name in schema.get("properties", {})
    )


def serving_page() -> str:
    """A server's routes and the bounds of their fields."""
    titles = ("route", "meaning")
    generation = [(code(f"POST {path}"), "Classifies" if route.classifies else "Generates")
                  for path, route in ROUTES.items()]  # fmt: skip
    others = [(code(f"{method} {path}"), about) for (method, path), about in OTHERS.items()]
    return f"""# Serving API

The routes of `lorary serve`: OpenAI's and Anthropic's APIs, and a few of Lorary's own. Every other
route gets 404. Headers are in [Serving](../how-to/call-models.md), errors in [errors](errors.md).

{table(titles, [*generation, *others])}
## Fields and their bounds

A field that is not within its bound gets a 400 that names the field and the bound.

{bounds()}
"""
