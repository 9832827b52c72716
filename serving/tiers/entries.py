"""What a replica tracks about each adapter's files while something uses them."""

import asyncio
from dataclasses import dataclass, field

from registry.model.catalog import Version


@dataclass
class Entry:
    """The state of one adapter's files, which are identified by their digest.

    Several versions may have the same files; the engine holds each under its own name.
    """

    holders: int = 0
    """Requests, loads and trials that need them now; while there are any, nothing is evicted."""
    names: dict[str, Version] = field(default_factory=dict)
    """The versions that the engine holds, by pinned name."""
    moving: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the engine loads or unloads them, or while the files are deleted."""

    @property
    def idle(self) -> bool:
        """Whether they have no holder and are not moving, so that they may be evicted."""
        return not self.holders and not self.moving.locked()


class NoneToEvict(Exception):
    """No idle adapter in the engine may be evicted for the one that is to be loaded."""
