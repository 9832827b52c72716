"""A registry's service, and those who work with it from a shell and from Python."""

import os
import subprocess
from dataclasses import dataclass

from registry.client import RegistryClient
from registry.store import LocalStore
from tests.support.servers import BIN


@dataclass
class Desk:
    """Where the service listens, a client for each of three keys, and the keys by name."""

    url: str
    operator: RegistryClient
    team: RegistryClient
    meter: RegistryClient
    keys: dict[str, str]
    store: LocalStore

    def run(
        self, *arguments: str, who: str = "operator", **more: str
    ) -> subprocess.CompletedProcess[str]:
        """A `lorary` command with the key of `who`."""
        variables = {"LORARY_REGISTRY_URL": self.url, "LORARY_KEY": self.keys[who], **more}
        return subprocess.run(
            [str(BIN / "lorary"), *arguments],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
