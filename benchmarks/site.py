"""A registry with one adapter of random weights on the small model: enough to be loaded."""

from dataclasses import dataclass
from pathlib import Path

from adapters.base_model import BaseModel
from adapters.home import SMALL_MODEL, default_model
from adapters.small_model import build
from registry.blobs import Blobs
from registry.commands import CreateDomain, MoveAlias
from registry.events import File, Policy
from registry.publishing import publish, register_base
from registry.registry import Registry
from registry.store import LocalStore
from tests.support.adapters import write_adapter

MODEL = "bench/random@1"


@dataclass(frozen=True, slots=True)
class Site:
    """Where the registry and the adapter lie, and how to authenticate."""

    folder: Path
    store: str
    adapter: Path
    headers: dict[str, str]


def one_adapter(folder: Path) -> Site:
    """Make the site in `folder`; builds the small model first if need be."""
    build(default_model())
    base = BaseModel.from_directory(default_model(), SMALL_MODEL)
    adapter = write_adapter(folder / "adapter", base, rank=16)
    store = LocalStore(folder / "store")
    secret = Registry.create(store, name="bench", key_name="bench")
    registry, blobs = Registry(store), Blobs(store)
    register_base(registry, base, secret.id)
    registry.execute(CreateDomain("bench", Policy(guarded=())), secret.id)
    files = [
        File(path.name, path.stat().st_size, blobs.put_bytes(path.read_bytes()))
        for path in adapter.iterdir()
    ]
    publish(
        registry, domain="bench", adapter="random", base=SMALL_MODEL, files=files, actor=secret.id
    )
    registry.execute(MoveAlias("bench", "random", "production", 1), secret.id)
    registry.close()
    return Site(folder, str(store.root), adapter, {"Authorization": f"Bearer {secret.text}"})
