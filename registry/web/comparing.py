"""What differs between two versions. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from registry.model.catalog import Version


@dataclass(frozen=True, slots=True)
class Row:
    """One named value on both sides."""

    name: str
    left: str
    right: str

    @property
    def differs(self) -> bool:
        """Whether the sides differ."""
        return self.left != self.right


def compare_json(left: bytes, right: bytes) -> list[Row]:
    """Two JSON objects key by key, nested ones by dotted names; what is no object is empty."""
    return compare(_flat(_parsed(left)), _flat(_parsed(right)))


def compare_versions(left: Version, right: Version) -> list[Row]:
    """What was measured of two versions, number by number."""
    sides = []
    for version in (left, right):
        measured = {"size in bytes": version.size, **msgspec.to_builtins(version.facts)}
        if version.spectrum is not None:
            spectrum = msgspec.to_builtins(version.spectrum)
            measured |= {f"update's {name}": f"{value:.4g}" for name, value in spectrum.items()}
        sides.append(_flat(measured))
    return compare(*sides)


def compare(left: Mapping[str, str], right: Mapping[str, str]) -> list[Row]:
    """Every name of either side, those that differ first."""
    names = sorted({*left, *right})
    rows = [Row(name, left.get(name, "—"), right.get(name, "—")) for name in names]
    return sorted(rows, key=lambda row: not row.differs)


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return {}


def _flat(value: Any, prefix: str = "", depth: int = 4) -> dict[str, str]:
    if not isinstance(value, Mapping) or depth == 0:
        return {prefix: _shown(value)} if prefix else {}
    found: dict[str, str] = {}
    for name, inner in value.items():
        found |= _flat(inner, f"{prefix}.{name}" if prefix else str(name), depth - 1)
    return found


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
