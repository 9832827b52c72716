"""Which fields a catalog has, as one digest: checkpoints are only for readers with the same."""

import hashlib
from typing import Any

import msgspec

from registry.model.catalog import Catalog

FOLD = 1
"""Raise it when `fold` gives a field another meaning without changing any field."""


def layout_of(kind: type[msgspec.Struct]) -> str:
    """SHA-256 of the names, types and defaults of every field that `kind` holds, at any depth.

    A reader that lacks a field would drop its content without noticing, so a checkpoint is read
    only by the layout that wrote it.
    """
    schema = _without_texts(msgspec.json.schema(kind))
    return hashlib.sha256(msgspec.json.encode([FOLD, schema], order="sorted")).hexdigest()


def _without_texts(schema: Any) -> Any:
    """A JSON schema without its titles and descriptions, which change no layout."""
    if isinstance(schema, list):
        return [_without_texts(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: _without_texts(part)
        for name, part in schema.items()
        if not (name in ("title", "description") and isinstance(part, str))
    }


LAYOUT = layout_of(Catalog)
"""Of the catalog as this Lorary knows it. Checkpoints of any other layout are not used."""
