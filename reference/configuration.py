"""docs/reference/configuration.md: every setting, its default and meaning."""

import json
from importlib.metadata import entry_points
from typing import Any

from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from adapters.home import home
from reference.markdown import code, first_paragraph, limits, table
from registry.cli.setup import SETTINGS

READ_BY = {
    "client": "Command line",
    "registry": "Registry (`lorary serve-registry`, and commands on the store)",
    "serving": "Server (`lorary serve`)",
}


def settings() -> dict[str, type[BaseSettings]]:
    """The settings classes by what reads them."""
    found = entry_points(group=SETTINGS)
    return {name: found[name].load() for name in READ_BY}


def _default(field: Any) -> str:
    if field.default_factory is not None:
        value = str(field.default_factory()).replace(str(home()), "$LORARY_HOME")
        return {"$LORARY_HOME": "~/.lorary"}.get(value, value if "$" in value else "random")
    if field.default is PydanticUndefined or field.default is None:
        return ""
    value = getattr(field.default, "get_secret_value", lambda: field.default)()
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _allowed(schema: dict[str, Any]) -> str:
    """The values that a setting takes, from its JSON schema."""
    for choice in schema.get("anyOf", ()):
        if choice.get("type") != "null":
            schema = choice | schema
    if "enum" in schema or "const" in schema:
        return ", ".join(str(one) for one in schema.get("enum", [schema.get("const")]))
    names = {"integer": "integer", "number": "number", "boolean": "true, false"}
    return " ".join([names.get(schema.get("type", ""), "text"), limits(schema)]).strip()


def page() -> str:
    """The page."""
    parts = []
    for name, kind in settings().items():
        properties = kind.model_json_schema()["properties"]
        rows = [
            (
                code(f"LORARY_{field.upper()}"),
                code(_default(info)),
                _allowed(properties[field]),
                info.description,
            )
            for field, info in kind.model_fields.items()
        ]
        titles = ("setting", "default", "values", "meaning")
        parts.append(f"## {READ_BY[name]}\n\n{first_paragraph(kind)}\n\n{table(titles, rows)}")
    text = "\n".join(parts)
    return f"""# Configuration

Settings are environment variables, read once when a process starts. `lorary config` shows the
values in force; [the chart](../../helm/lorary/README.md) sets them from its values. An empty
default means that the setting is not set.

{text}
"""
