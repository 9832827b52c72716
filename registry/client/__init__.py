"""A registry's service from Python, with the same verbs as the command line.

    with RegistryClient("http://127.0.0.1:8100", key) as registry:
        version = registry.push(Path("out/icd10-coder"), "medical/icd10-coder")

Every refusal arrives as the class that `registry.errors` has for it. Pushing is safe to repeat.
"""

from registry.client.aio import AsyncRegistryClient
from registry.client.connection import RemoteError
from registry.client.progress import Progress
from registry.client.verbs import RegistryClient

__all__ = ["AsyncRegistryClient", "Progress", "RegistryClient", "RemoteError"]
