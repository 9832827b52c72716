"""What `lorary train` needs of a registry, which imports this package and not the reverse."""

from pathlib import Path
from typing import Protocol


class Registry(Protocol):
    """Given to every command as its context's object by those that can reach a registry."""

    def version_with(self, path: str, weights: str) -> str | None:
        """The newest version of `domain/adapter` whose weights have this SHA-256, or None."""

    def publish(self, directory: Path, path: str, base: str) -> str:
        """Publish a directory as the next version of `domain/adapter`; its reference."""
