"""Keeps a folded catalog in memory and follows the log, for processes that only read."""

import logging
import math
import threading
import time

from adapters.errors import LoraryError
from registry import checkpoints
from registry.catalog import Catalog
from registry.errors import StoreError
from registry.log import CommitLog, catch_up
from registry.store.base import ObjectStore

logger = logging.getLogger("lorary.registry")


class Follower:
    """The newest catalog it has read; one thread writes it, any thread may read it.

    A store that cannot be reached changes nothing but `age_seconds`: what was read stays true.
    """

    def __init__(self, store: ObjectStore, *, poll_seconds: float = 1.0) -> None:
        self.catalog = Catalog()
        self.error: LoraryError | None = None
        """Why the last look failed; None if it did not."""
        self._store = store
        self._log = CommitLog(store)
        self._poll_seconds = poll_seconds
        self._looked = -math.inf
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._looking = threading.Lock()
        self._looked_once = threading.Event()

    @property
    def age_seconds(self) -> float:
        """Since the last look that succeeded; infinite before the first."""
        return time.monotonic() - self._looked

    @property
    def has_read(self) -> bool:
        """Whether a registry was ever read."""
        return self.catalog.sequence > 0

    def refresh(self) -> Catalog:
        """Look now. Raises what the store or a broken chain raises; the catalog then stays."""
        with self._looking:
            began = time.monotonic()
            if self.has_read:
                self.catalog = catch_up(self._log, self.catalog)
            else:
                self.catalog = checkpoints.load(self._store)
            self._looked = began
            return self.catalog

    def start(self) -> None:
        """Follow in a background thread until `stop`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
            self._thread.start()

    def wait_for_first_look(self, seconds: float) -> None:
        """Wait until the first look ended, well or not; at once where nothing follows."""
        if self._thread is not None:
            self._looked_once.wait(seconds)

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self.refresh()
                self.error = None
            except LoraryError as error:
                self.error = error
            except Exception as error:
                # Without a follower, revoked versions would be served: it must go on.
                logger.exception("the registry could not be read")
                self.error = StoreError(f"Reading the registry failed: {type(error).__name__}.")
            self._looked_once.set()
            self._stop.wait(max(0.0, self._poll_seconds - (time.monotonic() - began)))
