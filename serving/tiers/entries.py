"""What a replica notes of each set of bytes that is in use."""

import asyncio
from dataclasses import dataclass, field

from registry.model.catalog import Version


@dataclass
class Entry:
    """One set of bytes in use: how many hold it, and its versions in the engine."""

    holders: int = 0
    names: dict[str, Version] = field(default_factory=dict)
    moving: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def idle(self) -> bool:
        """Whether nobody holds it or is moving it."""
        return not self.holders and not self.moving.locked()


class AllBusier(Exception):
    """All adapters in the engine are more popular than the one to be warmed."""
