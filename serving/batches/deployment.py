"""The files and batches that all replicas of one deployment share."""

import asyncio

from registry.store.base import ObjectStore
from serving.batches.batches import Batches
from serving.batches.files import DAY, Files
from serving.batches.threads import Threads
from serving.batches.uploads import Uploads

MAX_FILES = 500
"""Files of one owner, with those that batches wrote."""


class Deployment:
    """Where they are kept, and the bounds of each."""

    def __init__(
        self,
        store: ObjectStore,
        name: str,
        *,
        file_bytes: int,
        owner_bytes: int,
        keep_days: int,
    ) -> None:
        """file_bytes: of one upload. owner_bytes: of all files of one owner. keep_days: how long
        files and ended batches are kept."""
        prefix = f"serving/{name}/"
        self.keep_seconds = keep_days * DAY
        self.files = Files(store, prefix, most_bytes=owner_bytes, most_files=MAX_FILES)
        self.batches = Batches(store, prefix)
        self.uploads = Uploads(file_bytes, self.keep_seconds)
        self.threads = Threads(8, 64)
        """For callers; the worker has its own."""
        self.changed = asyncio.Event()
        """Set when a batch was made or cancelled here: its worker need not wait for its next
        look."""
