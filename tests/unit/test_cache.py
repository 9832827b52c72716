"""The adapter cache: one download, verified bytes, failures that hurt only themselves."""

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.errors import StoreUnavailable
from registry.model.catalog import Version
from registry.store import LocalStore
from registry.store.blobs import Blobs
from serving.errors import ColdLoadFailed, TooManyColdLoads
from serving.tiers.cache import STRAY, AdapterCache
from tests.support.replicas import Site

WEIGHTS = "adapter_model.safetensors"


class WatchedStore(LocalStore):
    """Counts reads, how many ran at once, and can be slow or unreachable."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads = self.now = self.most = 0
        self.pause = 0.0
        self.broken = False
        self._lock = threading.Lock()

    def stream(self, key: str, *, start: int = 0, chunk: int = 1 << 20) -> Iterator[bytes]:
        with self._lock:
            self.reads += 1
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            time.sleep(self.pause)
            if self.broken:
                raise StoreUnavailable("The store is away. Wait.")
            yield from super().stream(key, start=start, chunk=chunk)
        finally:
            with self._lock:
                self.now -= 1


@pytest.fixture
def store(site: Site) -> WatchedStore:
    return WatchedStore(site.folder / "store")


def versions(site: Site, count: int) -> list[Version]:
    for number in range(count):
        site.publish("medical", "many", f"weights {number}".encode())
    return list(site.registry.catalog.adapters["medical/many"].versions)


def made(site: Site, store: LocalStore, **bounds: Any) -> AdapterCache:
    return AdapterCache(site.folder / "cache", Blobs(store), **bounds)


def test_however_many_ask_at_once_it_is_downloaded_once(site: Site, store: WatchedStore) -> None:
    (version,) = versions(site, 1)
    store.pause = 0.05

    async def ask() -> None:
        cache = made(site, store)
        paths = await asyncio.gather(*(cache.ensure(version) for _ in range(50)))
        assert len(set(paths)) == 1
        assert (paths[0] / WEIGHTS).read_bytes() == b"weights 0"

    asyncio.run(ask())
    assert store.reads == 2  # its two files


def test_downloads_are_few_at_a_time_and_the_queue_is_bounded(
    site: Site, store: WatchedStore
) -> None:
    many = versions(site, 6)
    store.pause = 0.02

    async def ask() -> list[object]:
        cache = made(site, store, at_once=2, waiting=4)
        jobs = (cache.ensure(version) for version in many)
        return list(await asyncio.gather(*jobs, return_exceptions=True))

    outcomes = asyncio.run(ask())
    assert store.most <= 2
    assert sum(isinstance(outcome, TooManyColdLoads) for outcome in outcomes) == 2


def test_a_restart_keeps_what_is_sound_and_fetches_again_what_is_not(
    site: Site, store: WatchedStore
) -> None:
    first, second = versions(site, 2)

    async def both(cache: AdapterCache) -> None:
        await cache.ensure(first)
        await cache.ensure(second)

    asyncio.run(both(made(site, store)))
    reads = store.reads
    damaged = made(site, store).path(second) / WEIGHTS
    damaged.write_bytes(b"weights X")
    asyncio.run(both(made(site, store)))
    assert store.reads == reads + 2
    assert damaged.read_bytes() == b"weights 1"


def test_a_process_that_starts_deletes_what_was_abandoned_and_no_download_under_way(
    site: Site, store: WatchedStore
) -> None:
    folders = [site.folder / "cache" / name for name in (".load-old", ".load-new")]
    for folder in folders:
        folder.mkdir(parents=True)
    long_ago = time.time() - STRAY - 60
    os.utime(folders[0], (long_ago, long_ago))
    assert len(made(site, store)) == 0
    assert [folder.exists() for folder in folders] == [False, True]


def test_what_is_verified_for_somebody_is_not_deleted_under_them(
    site: Site, store: WatchedStore
) -> None:
    (version,) = versions(site, 1)

    async def ask() -> None:
        cache = made(site, store)
        path = await cache.ensure(version)
        for again in range(40):
            wanted, given_up = cache.ensure(version), cache.discard(version.digest)
            pair = (wanted, given_up) if again % 2 else (given_up, wanted)
            await asyncio.gather(*pair)
            assert cache.holds(version)
            assert (path / WEIGHTS).read_bytes() == b"weights 0"

    asyncio.run(ask())


def test_a_failed_download_is_reported_and_not_repeated_for_a_moment(
    site: Site, store: WatchedStore
) -> None:
    (version,) = versions(site, 1)
    store.broken = True

    async def ask() -> None:
        cache = made(site, store, retry_seconds=0.2)
        for _ in range(3):
            with pytest.raises(ColdLoadFailed) as failed:
                await cache.ensure(version)
            assert "The store is away" in failed.value.detail
            assert "The store is away" not in failed.value.message
        assert store.reads == 1
        assert not cache.path(version).exists()
        store.broken = False
        await asyncio.sleep(0.25)
        await cache.ensure(version)

    asyncio.run(ask())


def test_a_caller_who_leaves_does_not_stop_the_others(site: Site, store: WatchedStore) -> None:
    (version,) = versions(site, 1)
    store.pause = 0.05

    async def ask() -> None:
        cache = made(site, store)
        first = asyncio.create_task(cache.ensure(version))
        second = asyncio.create_task(cache.ensure(version))
        await asyncio.sleep(0.01)
        first.cancel()
        assert (await second / WEIGHTS).exists()

    asyncio.run(ask())
