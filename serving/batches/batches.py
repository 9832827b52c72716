"""Batches: what was asked for, how far it is, and how it ended.

A batch's progress is a log: `results/N`, each written with put-if-absent. So of any number of
replicas that work on a batch by mistake, one writes entry N and the others learn that they lost,
and no line is answered twice. The last entry seals the log; the output files follow from the log
alone, so whoever writes them writes the same.

    open/OWNER.ID                 there is work to do
    batches/OWNER/ID.json         what was asked for
    batches/OWNER/ID.end.json     how it ended; from then on all below `work` is removed
    work/OWNER/ID/checked         how many lines the input has, once it was checked
    work/OWNER/ID/cancelled       that its owner gave it up
    work/OWNER/ID/results/N       answers
    work/OWNER/ID/claims/N        who works on it (`serving.batches.claims`)
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from registry.errors import AlreadyExists, ObjectNotFound, OutcomeUnknown
from registry.store.base import ObjectStore
from serving.batches.files import DAY, new_id
from serving.batches.records import Batch, Checked, End, Entry, State
from serving.errors import BatchEnded, BatchNotFound, QuotaExceeded

WINDOW_SECONDS = DAY
"""`completion_window` is "24h", as in OpenAI's API; what is not answered by then never is."""
MAX_OPEN = 20
"""Batches of one owner that have not ended."""
MAX_KEPT = 1_000
"""Batches of one owner, with those that have ended."""
_ID = re.compile(r"batch_[0-9a-f]{24}")


class Batches:
    """The batches of one deployment. Every call reads or writes the store: use it in a thread."""

    def __init__(
        self, store: ObjectStore, prefix: str, clock: Callable[[], float] = time.time
    ) -> None:
        """prefix: ends with a slash."""
        self.store, self.prefix = store, prefix
        self._clock = clock

    def create(
        self,
        owner: str,
        key: str,
        *,
        endpoint: str,
        input_file_id: str,
        keep_seconds: int,
        metadata: dict[str, str] | None = None,
    ) -> State:
        """A new batch, which some replica will run. Raises `QuotaExceeded`."""
        waiting = sum(1 for _ in self.store.list(f"{self.prefix}open/{owner}."))
        if waiting >= MAX_OPEN:
            raise QuotaExceeded(
                f"{waiting} batches have not ended; at most {MAX_OPEN} may wait. Cancel one, or "
                "come again when one has ended."
            )
        if len(self._ids(owner)) >= MAX_KEPT:
            raise QuotaExceeded(f"There are {MAX_KEPT:,} batches of the last month. Send fewer.")
        now = self._clock()
        batch = Batch(
            id=new_id("batch_", now),
            owner=owner,
            key=key,
            endpoint=endpoint,
            input_file_id=input_file_id,
            created_at=int(now),
            expires_at=int(now) + WINDOW_SECONDS,
            keep_seconds=keep_seconds,
            metadata=metadata,
        )
        # Work without a batch is removed by whoever finds it; a batch without work would never end.
        self.store.put(f"{self.prefix}open/{owner}.{batch.id}", b"", "overwrite")
        self._put(f"batches/{owner}/{batch.id}.json", batch)
        return State(batch=batch)

    def open(self) -> list[tuple[str, str]]:
        """Owner and id of each batch that has not ended, the oldest first."""
        names = (info.key.rpartition("/")[2] for info in self.store.list(f"{self.prefix}open/"))
        pairs = [(owner, batch_id) for owner, _, batch_id in (n.partition(".") for n in names)]
        return sorted(pairs, key=lambda pair: pair[1])

    def get(self, owner: str, batch_id: str) -> State:
        """The batch and how far it is; raises `BatchNotFound`."""
        batch = None
        if _ID.fullmatch(batch_id):
            batch = self._read(f"batches/{owner}/{batch_id}.json", Batch)
        if batch is None:
            raise BatchNotFound(batch_id)
        state = State(batch=batch, end=self._end(batch))
        if state.end is None:
            try:
                self._read_progress(state)
            except ObjectNotFound:  # it has ended meanwhile, and its work is being removed
                state = State(batch=batch)
            if state.checked is None:
                state.end = self._end(batch)
        return state

    def page(self, owner: str, *, after: str, limit: int) -> tuple[list[State], bool]:
        """At most `limit` batches older than `after`, the newest first, and whether more are."""
        ids = [i for i in sorted(self._ids(owner), reverse=True) if not after or i < after]
        return [self.get(owner, batch_id) for batch_id in ids[:limit]], len(ids) > limit

    def cancel(self, owner: str, batch_id: str) -> State:
        """Give the batch up. Raises `BatchNotFound`, `BatchEnded`."""
        state = self.get(owner, batch_id)
        if state.end is not None:
            raise BatchEnded(batch_id, state.end.status)
        if state.cancelled_at is None:
            state.cancelled_at = int(self._clock())
            key = f"{self.work(state.batch)}cancelled"
            self.store.put(key, msgspec.json.encode(state.cancelled_at), "overwrite")
        return state

    def is_cancelled(self, batch: Batch) -> bool:
        """Whether its owner gave it up."""
        try:
            self.store.head(f"{self.work(batch)}cancelled")
        except ObjectNotFound:
            return False
        return True

    def check(self, state: State, total: int) -> None:
        """Note that the input can be run."""
        state.checked = Checked(total, int(self._clock()))
        self._put(f"{self.work(state.batch)[len(self.prefix) :]}checked", state.checked)

    def append(self, state: State, entry: Entry, rows: list[tuple[bool, bytes]]) -> bool:
        """Write the next entry; False if another worker has. rows: whether it is an answer, and
        the output line."""
        key = f"{self.work(state.batch)}results/{state.entries:06d}"
        lines = (b"+" + row if good else b"-" + row for good, row in rows)
        data = b"\n".join((msgspec.json.encode(entry), *lines))
        try:
            self.store.put(key, data, "create")
        except AlreadyExists:
            return False
        except OutcomeUnknown:
            try:
                if self.store.get(key) != data:
                    return False
            except ObjectNotFound:
                self.store.put(key, data, "create")
        state.entries, state.last = state.entries + 1, entry
        return True

    def rows(self, state: State, *, good: bool) -> Iterator[bytes]:
        """The output lines of all entries, of answers or of errors."""
        mark = b"+" if good else b"-"
        for number in range(state.entries):
            data = self.store.get(f"{self.work(state.batch)}results/{number:06d}")
            for line in data.split(b"\n")[1:]:
                if line.startswith(mark):
                    yield line[1:] + b"\n"

    def finish(self, batch: Batch, end: End) -> None:
        """Record how the batch ended, unless that is recorded, and remove what it left behind."""
        key = f"{self.prefix}batches/{batch.owner}/{batch.id}.end.json"
        with contextlib.suppress(AlreadyExists):
            self.store.put(key, msgspec.json.encode(end), "create")
        self.clear(batch.owner, batch.id)

    def clear(self, owner: str, batch_id: str) -> None:
        """Remove what a batch that has ended, or never was, left behind."""
        for info in list(self.store.list(f"{self.prefix}work/{owner}/{batch_id}/")):
            self.store.delete(info.key)
        self.store.delete(f"{self.prefix}open/{owner}.{batch_id}")

    def sweep(self, keep_seconds: int) -> int:
        """Remove batches that ended more than `keep_seconds` ago, and what workers left behind that
        were replaced without noticing; how many batches."""
        for owner, batch_id in self._left_behind():
            self.clear(owner, batch_id)
        removed = 0
        for info in list(self.store.list(f"{self.prefix}batches/")):
            if info.key.endswith(".end.json") and self._clock() - info.modified > keep_seconds:
                self.store.delete(f"{info.key.removesuffix('.end.json')}.json")
                self.store.delete(info.key)
                removed += 1
        return removed

    def _left_behind(self) -> set[tuple[str, str]]:
        names = (info.key[len(self.prefix) :] for info in self.store.list(f"{self.prefix}work/"))
        found = {(owner, batch_id) for _, owner, batch_id, *_ in (n.split("/") for n in names)}
        return found - set(self.open())

    def work(self, batch: Batch) -> str:
        """How the keys of what is kept of a batch under way begin."""
        return f"{self.prefix}work/{batch.owner}/{batch.id}/"

    def _end(self, batch: Batch) -> End | None:
        end: End | None = self._read(f"batches/{batch.owner}/{batch.id}.end.json", End)
        return end

    def _read_progress(self, state: State) -> None:
        work = self.work(state.batch)
        results = sorted(info.key for info in self.store.list(f"{work}results/"))
        name = work[len(self.prefix) :]
        state.checked = self._read(f"{name}checked", Checked)
        state.cancelled_at = self._read(f"{name}cancelled", int)
        if results:
            state.entries, state.last = len(results), self._head(results[-1])

    def _head(self, key: str) -> Entry:
        pieces = b""
        for piece in self.store.stream(key, chunk=16 << 10):
            pieces += piece
            if b"\n" in piece:
                break
        return msgspec.json.decode(pieces.partition(b"\n")[0], type=Entry)

    def _ids(self, owner: str) -> list[str]:
        names = (
            info.key.rpartition("/")[2]
            for info in self.store.list(f"{self.prefix}batches/{owner}/")
        )
        return [name[:-5] for name in names if _ID.fullmatch(name[:-5])]

    def _put(self, name: str, value: Any) -> None:
        self.store.put(self.prefix + name, msgspec.json.encode(value), "overwrite")

    def _read(self, name: str, kind: Any) -> Any:
        try:
            return msgspec.json.decode(self.store.get(self.prefix + name), type=kind)
        except ObjectNotFound:
            return None
