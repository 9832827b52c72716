"""A registry in which adapters are served by real vLLM, set up through its HTTP API."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from adapters.base_model import BaseModel
from adapters.names import DEFAULT_ALIAS
from registry.client import RegistryClient
from registry.model.aliases import MoveAlias
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import LocalStore
from tests.support.servers import registry_in_thread


class Keys(NamedTuple):
    """What was issued."""

    operator: str
    apps: tuple[str, ...]
    """Each may infer in every domain."""


def published(
    store: Path, base: BaseModel, adapters: Mapping[str, Path], apps: Sequence[str] = ("app",)
) -> Keys:
    """Make a registry with domain `demo`, whose adapters are in production in it."""
    operator = Registry.create(LocalStore(store), name="test", key_name="operator").text
    with registry_in_thread(str(store)) as url, RegistryClient(url, operator) as client:
        client.add_base(base)
        client.execute(CreateDomain("demo", Policy(guarded=())))
        for name, directory in adapters.items():
            client.push(directory, f"demo/{name}")
            client.execute(MoveAlias("demo", name, DEFAULT_ALIAS, 1))
        issued = tuple(client.issue_key(app, ["infer:*"])["key"] for app in apps)
    return Keys(operator, issued)
