"""docs/reference/policy.md: the fields of a domain's policy."""

from typing import Any

import msgspec

from reference.markdown import code, described_fields, first_paragraph, limits, table
from registry.model.evidence import SuiteRule
from registry.model.policies import POLICY_FIELDS, RULE_FIELDS, Policy


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "$ref" in schema:
        return "engine" if schema["$ref"].endswith("/Engine") else "a suite's rule"
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    kind = schema.get("type", "text")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object":
        return f"map of names to {_type(schema.get('additionalProperties', {}))}"
    named = {"boolean": "true or false", "string": "text", "null": "nothing"}.get(kind, kind)
    return " ".join([named, limits(schema)]).strip()


def _rows(kind: type[msgspec.Struct], order: Any) -> list[tuple[str, str, str, str]]:
    schema = msgspec.json.schema(kind)["$defs"][kind.__name__]
    meanings = described_fields(kind)
    return [
        (
            code(name),
            _type(schema["properties"][name]),
            code(msgspec.json.encode(schema["properties"][name]["default"]).decode())
            if "default" in schema["properties"][name]
            else "required",
            meanings[name],
        )
        for name in order
    ]


def page() -> str:
    """The page."""
    titles = ("field", "type", "default", "meaning")
    return f"""# Policy

{first_paragraph(Policy)} Show it with `lorary domain policy DOMAIN`, change it with
`lorary domain policy DOMAIN --set FIELD=VALUE`, with a YAML file or with `--edit`. What the gates
promise is in [design note 010](../design/010-what-a-gate-promises.md).

{table(titles, _rows(Policy, POLICY_FIELDS))}
## Rules of `suites`

{first_paragraph(SuiteRule)} `lorary suite policy DOMAIN` prints rules to begin with.

{table(titles, _rows(SuiteRule, RULE_FIELDS))}"""
