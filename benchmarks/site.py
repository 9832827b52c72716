"""A registry with one adapter on the small model."""

from dataclasses import dataclass
from pathlib import Path

from adapters.base_model import BaseModel
from adapters.home import SMALL_MODEL, default_model
from adapters.small_model import build
from registry.model.aliases import MoveAlias
from registry.model.catalog import File
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.publish.publishing import publish, register_base
from registry.registry import Registry
from registry.store import LocalStore
from registry.store.blobs import Blobs
from tests.support.adapters import write_adapter

MODEL = "bench/only@1"


@dataclass(frozen=True, slots=True)
class Site:
    """Where the registry and the adapter lie, and how to authenticate."""

    folder: Path
    store: str
    adapter: Path
    headers: dict[str, str]


def one_adapter(folder: Path, trained: Path | None = None) -> Site:
    """Make the site in `folder`; builds the small model first if need be.

    trained: the adapter's directory. Without one its weights are random: enough to be loaded.
    """
    build(default_model())
    base = BaseModel.from_directory(default_model(), SMALL_MODEL)
    adapter = trained or write_adapter(folder / "adapter", base, rank=16)
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
        registry, domain="bench", adapter="only", base=SMALL_MODEL, files=files, actor=secret.id
    )
    registry.execute(MoveAlias("bench", "only", "production", 1), secret.id)
    registry.close()
    return Site(folder, str(store.root), adapter, {"Authorization": f"Bearer {secret.text}"})
