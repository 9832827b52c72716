"""`/v1/models`: what a caller may ask for, in OpenAI's schema. Pure."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from adapters.names import DEFAULT_ALIAS, AdapterRef
from registry.model.access import has_role
from registry.model.catalog import Adapter, Catalog, Key, Version
from registry.model.evidence import Engine
from registry.times import instant


@dataclass(frozen=True, slots=True)
class Base:
    """The base model that is served."""

    name: str
    max_model_len: int
    """Longest prompt and answer together, in tokens; clients read it from the list."""
    engine: Engine | None = None
    """What serves it, for whoever records answers as evidence."""
    can_serve: Callable[[Version], bool] = lambda _: True
    """Whether the server's task is a version's."""


def models(catalog: Catalog, key: Key, base: Base) -> list[dict[str, Any]]:
    """The base model, then each adapter that `key` may infer with: its domain's name where it is
    the default, its own name, its aliases and its versions. Revoked versions are left out."""
    listed = [named(base.name, None, base)]
    for _, adapter in sorted(catalog.adapters.items()):
        if has_role(key, "infer", adapter.domain):
            listed += _names(catalog, adapter, base)
    return listed


def encoded(catalog: Catalog, key: Key, base: Base) -> bytes:
    """The whole answer. Of thousands of adapters it takes a while: call it in a thread, where it is
    encoded one by one, so that streams go on meanwhile."""
    pieces = ",".join(json.dumps(model) for model in models(catalog, key, base))
    return f'{{"object": "list", "data": [{pieces}]}}'.encode()


def served_names(catalog: Catalog, pinned: Iterable[str]) -> Iterator[str]:
    """Every name by which callers get one of the versions `pinned`: its own, its aliases, its
    adapter's and its domain's. Versions that are served no more are left out."""
    for name in pinned:
        ref = AdapterRef.parse(name)
        adapter = catalog.adapters.get(ref.path)
        if adapter is None or not 1 <= (ref.version or 0) <= len(adapter.versions):
            continue
        version = adapter.versions[(ref.version or 0) - 1]
        if version.revoked is not None or version.tombstone is not None:
            continue
        yield name
        for alias, number in adapter.aliases.items():
            if number == version.number:
                yield f"{ref.path}@{alias}"
                if alias == DEFAULT_ALIAS:
                    yield ref.path
                    if catalog.domain(adapter.domain).default == adapter.name:
                        yield adapter.domain


def named(name: str, version: Version | None, base: Base) -> dict[str, Any]:
    """The one model that `name` means now; None for the base model, whose entry has the engine."""
    told = base.engine if version is None else None
    head = None if version is None else version.facts.head
    return {
        "id": name,
        "object": "model",
        "created": 0 if version is None else _unix(version.published),
        "owned_by": "lorary",
        "root": base.name if version is None else str(version.ref),
        "parent": None if version is None else base.name,
        "max_model_len": base.max_model_len,
        **({} if head is None else {"labels": head.labels}),
        **({} if told is None else {"engine": msgspec.to_builtins(told)}),
    }


def _names(catalog: Catalog, adapter: Adapter, base: Base) -> list[dict[str, Any]]:
    found: dict[str, Version] = {}
    path = AdapterRef(adapter.domain, adapter.name)
    servable = {
        v.number: v
        for v in adapter.versions
        if v.revoked is None and v.tombstone is None and v.base == base.name and base.can_serve(v)
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


def _unix(time: str) -> int:
    return int(instant(time).timestamp())
