"""Keeps a folded catalog in memory and follows the log, for processes that only read."""

import logging
import math
import threading
import time
from concurrent.futures import Future

from adapters.errors import LoraryError
from registry.errors import BrokenChain, StoreError
from registry.log import checkpoints
from registry.log.commits import CommitLog, advance
from registry.model.catalog import Catalog
from registry.store.base import ObjectStore

logger = logging.getLogger("lorary.registry")
AGAIN_SECONDS = 0.1
"""Seconds between the beginnings of two looks at the least, however many ask for one."""


class Follower:
    """The newest catalog it has read; one thread writes it, any thread may read it.

    A store that cannot be reached changes nothing but `age_seconds`: what was read stays true.
    What was read before an error is kept, so that a follower that is far behind catches up however
    often its store fails.
    """

    def __init__(self, store: ObjectStore, *, poll_seconds: float = 1.0) -> None:
        self.catalog = Catalog()
        self.error: LoraryError | None = None
        """Why the last look failed; None if it did not."""
        self._store = store
        self._log = CommitLog(store)
        self._poll_seconds = poll_seconds
        self._looked = -math.inf
        self._progress: Catalog | None = None
        """How far the first look has come; no reader sees it before it reached the end."""
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._asking = threading.Lock()
        self._asked: list[Future[Catalog]] = []
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
        """Look now. Raises what the store or a broken chain raises; what was read is kept."""
        with self._looking:
            began = time.monotonic()
            if self.has_read:
                for newer in advance(self._log, self.catalog):
                    self.catalog = newer
            else:
                self._read_first()
            self._looked = began
            return self.catalog

    def _read_first(self) -> None:
        """Read everything. Until the end is reached nobody sees anything: a state of long ago would
        let revoked keys and versions through."""
        try:
            if self._progress is None:
                self._progress = checkpoints.newest(self._store)
            for newer in advance(self._log, self._progress):
                self._progress = newer
        except BrokenChain:
            self._progress = None
            raise
        self.catalog = self._progress

    def look_again(self) -> "Future[Catalog]":
        """The catalog after a look that begins after this call, soon.

        For whoever is asked about something that is not in the catalog: it may have been written
        since the last look. All who ask share the next look, and looks begin at most every
        `AGAIN_SECONDS`, so strangers cannot make a follower hammer its store. After a look that
        failed it is the catalog as before; if nothing follows, the present one at once.
        """
        future: Future[Catalog] = Future()
        with self._asking:
            follows = self._thread is not None and not self._stop.is_set()
            if follows:
                self._asked.append(future)
        if follows:
            self._wake.set()
        else:
            future.set_result(self.catalog)
        return future

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
        with self._asking:
            self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self._answer(self._take_asked())

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self._wake.clear()
            asked = self._take_asked()
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
            self._answer(asked)
            if self._wake.wait(max(0.0, self._poll_seconds - (time.monotonic() - began))):
                self._stop.wait(max(0.0, AGAIN_SECONDS - (time.monotonic() - began)))

    def _take_asked(self) -> "list[Future[Catalog]]":
        with self._asking:
            asked, self._asked = self._asked, []
        return asked

    def _answer(self, asked: "list[Future[Catalog]]") -> None:
        for future in asked:
            if future.set_running_or_notify_cancel():
                future.set_result(self.catalog)
