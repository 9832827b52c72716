"""`/v1/models`: what a caller may ask for, in OpenAI's schema. Pure."""

import json
from typing import Any

from adapters.names import DEFAULT_ALIAS, AdapterRef
from registry.access import has_role
from registry.catalog import Adapter, Catalog, Key, Version
from registry.times import instant


def models(catalog: Catalog, key: Key, base: str) -> list[dict[str, Any]]:
    """The base model, then each adapter that `key` may infer with: its domain's name where it is
    the default, its own name, its aliases and its versions. Revoked versions are left out."""
    listed = [named(base, None, base)]
    for _, adapter in sorted(catalog.adapters.items()):
        if has_role(key, "infer", adapter.domain):
            listed += _names(catalog, adapter, base)
    return listed


def encoded(catalog: Catalog, key: Key, base: str) -> bytes:
    """The whole answer. Of thousands of adapters it takes a while: call it in a thread, where it is
    encoded one by one, so that streams go on meanwhile."""
    pieces = ",".join(json.dumps(model) for model in models(catalog, key, base))
    return f'{{"object": "list", "data": [{pieces}]}}'.encode()


def named(name: str, version: Version | None, base: str) -> dict[str, Any]:
    """The one model that `name` means now; None for the base model."""
    if version is None:
        return _model(name, created=0, root=base, parent=None)
    return _model(name, created=_unix(version.published), root=str(version.ref), parent=base)


def _names(catalog: Catalog, adapter: Adapter, base: str) -> list[dict[str, Any]]:
    found: dict[str, Version] = {}
    path = AdapterRef(adapter.domain, adapter.name)
    servable = {
        v.number: v
        for v in adapter.versions
        if v.revoked is None and v.tombstone is None and v.base == base
    }
    production = servable.get(adapter.aliases.get(DEFAULT_ALIAS, 0))
    if production is not None:
        if catalog.domain(adapter.domain).default == adapter.name:
            found[adapter.domain] = production
        found[str(path)] = production
    for alias, number in sorted(adapter.aliases.items()):
        if number in servable:
            found[f"{path}@{alias}"] = servable[number]
    for version in servable.values():
        found[str(version.ref)] = version
    return [named(name, version, base) for name, version in found.items()]


def _model(name: str, *, created: int, root: str, parent: str | None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "lorary",
        "root": root,
        "parent": parent,
    }


def _unix(time: str) -> int:
    return int(instant(time).timestamp())
