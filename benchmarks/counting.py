"""How many requests each operation makes to the object store. On S3 each has its price."""

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from registry.model.aliases import MoveAlias
from registry.model.catalog import File
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.publish.publishing import publish, register_base
from registry.registry import Registry
from registry.store import LocalStore
from registry.store.blobs import Blobs
from tests.support.adapters import TINY, write_adapter

COUNTED = ("get", "stream", "head", "put", "put_file", "list", "delete")


class CountingStore:
    """Passes everything on and counts it."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self.counts: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in COUNTED:
            return found

        def counted(*arguments: Any, **named: Any) -> Any:
            self.counts[name] += 1
            return found(*arguments, **named)

        return counted


def requests_per_operation() -> dict[str, str]:
    """Each operation's requests by kind."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        counting = CountingStore(LocalStore(folder / "store"))
        store: Any = counting
        key = Registry.create(store, name="count", key_name="count")
        registry = Registry(store)
        register_base(registry, TINY, key.id)
        registry.execute(CreateDomain("bench", Policy(guarded=())), key.id)
        adapter = write_adapter(folder / "adapter")
        found = {}

        def measure(name: str, operation: Callable[[], Any]) -> None:
            counting.counts.clear()
            operation()
            counts = counting.counts
            found[name] = f"{counts.total()} ({', '.join(f'{n} {k}' for k, n in counts.items())})"

        listed: list[File] = []

        def upload() -> None:
            blobs = Blobs(store)
            for path in adapter.iterdir():
                listed.append(
                    File(path.name, path.stat().st_size, blobs.put_bytes(path.read_bytes()))
                )

        measure("upload of 3 files", upload)
        measure(
            "publish",
            lambda: publish(
                registry, domain="bench", adapter="a", base="tiny", files=listed, actor=key.id
            ),
        )
        measure("move an alias", lambda: registry.execute(MoveAlias("bench", "a", "x", 1), key.id))
        measure("resolve or list (any size)", registry.refresh)
        measure("start of a registry", lambda: Registry(store).close())
        registry.close()
        return found
