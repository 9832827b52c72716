"""Manifests against the schemas of Kubernetes and of its extensions.

Kubernetes' own come with `kubernetes-validate`. Of the extensions we keep the fields that the chart
writes (`crds/`). Where the extensions' whole definitions are at hand, LORARY_CRDS names their
folder: then manifests are checked against those as well, and so is what we keep.
"""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import jsonschema
import kubernetes_validate
import yaml

KUBERNETES = "1.37"
OURS = Path(__file__).parent / "crds"
Schema = dict[str, Any]
Kind = tuple[str, str]


def strict(schema: Schema) -> Schema:
    """A structural schema as JSON Schema that also refuses fields it does not know."""
    made = dict(schema)
    if made.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    if made.pop("nullable", False) and "type" in made:
        made["type"] = [made["type"], "null"]
    if "properties" in made:
        made["properties"] = {name: strict(of) for name, of in made["properties"].items()}
        if not made.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    for inner in ("items", "additionalProperties"):
        if isinstance(made.get(inner), dict):
            made[inner] = strict(made[inner])
    return made


@functools.cache
def ours() -> dict[Kind, Schema]:
    """What we keep: each kind's `spec`."""
    kept = {}
    for path in sorted(OURS.glob("*.yaml")):
        document = yaml.safe_load(path.read_text())
        kept[document["apiVersion"], document["kind"]] = document["spec"]
    return kept


@functools.cache
def whole() -> dict[Kind, Schema]:
    """The whole definitions' `spec`, where they are at hand; else nothing."""
    folder = os.environ.get("LORARY_CRDS")
    found = {}
    for path in sorted(Path(folder).glob("*.yaml")) if folder else ():
        for document in yaml.load_all(path.read_text(), yaml.CSafeLoader):
            if document and document["kind"] == "CustomResourceDefinition":
                spec = document["spec"]
                for version in spec["versions"]:
                    kind = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                    schema = version["schema"]["openAPIV3Schema"]
                    found[kind] = schema["properties"]["spec"]
    return found


def problems(manifest: dict[str, Any]) -> list[str]:
    """What is wrong with one manifest by every schema that knows its kind."""
    kind = (manifest["apiVersion"], manifest["kind"])
    known = [schemas[kind] for schemas in (ours(), whole()) if kind in schemas]
    if known:
        return [
            f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
            for schema in known
            for error in jsonschema.Draft202012Validator(strict(schema)).iter_errors(
                manifest["spec"]
            )
        ]
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return [f"no schema knows {kind[0]} {kind[1]}"]
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message[:200]}"]
    return []


def fields(schema: Schema, path: str = "") -> Iterator[tuple[str, str]]:
    """Every field that a schema names, and its type."""
    yield path, cast(str, schema.get("type", "any"))
    for name, of in schema.get("properties", {}).items():
        yield from fields(of, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from fields(schema["items"], f"{path}[]")
