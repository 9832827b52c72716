"""The registry of the settings, for commands of packages that do not import this one."""

from pathlib import Path

from adapters.admission import WEIGHTS
from registry.cli.output import client
from registry.errors import NotFound

LOOKED_AT = 100
"""Newest versions of an adapter among which a parent is looked for."""


class SettingsRegistry:
    """`adapters.handover.Registry`, with the key of the settings."""

    def version_with(self, path: str, weights: str) -> str | None:
        """The newest version of `domain/adapter` whose weights have this SHA-256, or None."""
        with client() as registry:
            try:
                versions = registry.adapter(path)["versions"]
            except NotFound:
                return None
            for listed in reversed(versions[-LOOKED_AT:]):
                if listed["tombstone"] is not None:
                    continue
                found = registry.resolve(f"{path}@{listed['version']}")
                if any(f["path"] == WEIGHTS and f["sha256"] == weights for f in found["files"]):
                    return str(found["ref"])
        return None

    def publish(self, directory: Path, path: str, base: str) -> str:
        """Publish a directory as the next version of `domain/adapter`; its reference."""
        with client() as registry:
            return str(registry.push(directory, path, base=base)["ref"])
