"""One batch while a worker runs it: its input, what is answered, and what was written of that."""

import asyncio
import json
import time
from collections import defaultdict

from registry.envelope import envelope
from serving.batches.batches import Batches
from serving.batches.files import Files
from serving.batches.lines import Input, Problem, answered, asked, problems, unanswered
from serving.batches.records import Batch, Ending, Entry
from serving.batches.threads import Threads
from serving.errors import FileNotStored
from serving.telemetry import access_log
from serving.telemetry.metrics import BATCH_LINES, BATCHES

MAX_ROWS = 256
MAX_ROW_BYTES = 4 << 20
"""Answers that wait to be written: with more of either, they are written at once."""
EXPIRED = "This request could not be answered before the batch's time was over."


class Job:
    """A batch under way. Methods that are no coroutines read or write the store: use a thread for
    those that say so."""

    def __init__(
        self,
        batches: Batches,
        files: Files,
        threads: Threads,
        batch: Batch,
        worker: str,
        line_bytes: int,
    ) -> None:
        self.batch = batch
        self.is_lost = False
        """Whether another worker has written what this one would have."""
        self._batches, self._files, self._worker = batches, files, worker
        self._threads = threads
        self._line_bytes = line_bytes
        self._rows: list[tuple[int, bool, bytes]] = []
        self.groups: list[list[int]] = []
        """The lines that were not answered when it was opened, those of one model together."""
        self._writing = asyncio.Lock()
        self._done = bytearray()

    def open(self) -> bool:
        """Read the batch and its input; False if it has ended. Use a thread."""
        self.state = self._batches.get(self.batch.owner, self.batch.id)
        if self.state.end is not None:
            return False
        if self.is_sealed:
            return True
        try:
            data = b"".join(self._files.content(self.batch.owner, self.batch.input_file_id))
        except FileNotStored as error:
            self._fail(Problem(error.code, error.message, param="input_file_id"))
            return False
        self._input = Input(data)
        if self.state.checked is None:
            found = problems(self._input, self.batch.endpoint, self._line_bytes)
            if found:
                self._fail(*found)
                return False
            self._batches.check(self.state, len(self._input))
        last = self.state.last
        self._done = bytearray(last.done if last is not None else bytes(len(self._input) // 8 + 1))
        by_model: dict[str, list[int]] = defaultdict(list)
        for index in self._missing():
            by_model[self._input.model(index)].append(index)
        self.groups = list(by_model.values())
        return True

    @property
    def is_sealed(self) -> bool:
        """Whether nothing is to be answered any more."""
        return self.state.last is not None and self.state.last.sealed is not None

    @property
    def is_complete(self) -> bool:
        """Whether every line is answered and written."""
        last = self.state.last
        return last is not None and last.completed + last.failed == len(self._input)

    def refusal(self, index: int) -> bytes | None:
        """Why a line is refused here; None if the gateway is to judge it."""
        if asked(self._input.line(index)).stream:
            message = "Lines of a batch are not streamed. Leave `stream` out."
            return json.dumps(envelope(400, "invalid_request", message, "stream")).encode()
        return None

    def body(self, index: int) -> bytes:
        """The body of a line."""
        return bytes(self._input.line(index).body)

    async def add(self, index: int, status: int, body: bytes) -> None:
        """Note the answer to a line."""
        custom_id = self._input.line(index).custom_id
        row = answered(self.batch.id, index, custom_id, status, body)
        self._rows.append((index, status == 200, row))
        BATCH_LINES.labels("ok" if status == 200 else "error").inc()
        waiting = self._rows
        if len(waiting) >= MAX_ROWS or sum(len(row) for *_, row in waiting) >= MAX_ROW_BYTES:
            await self.write()

    async def write(self) -> None:
        """Write the answers that wait, unless another worker was faster."""
        async with self._writing:
            rows, self._rows = self._rows, []
            if not rows or self.is_lost:
                return
            writing = asyncio.create_task(self._threads.run(self._append, rows, None))
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:  # nobody else may write meanwhile
                await asyncio.wait({writing})
                raise

    def close(self, ending: Ending, reason: str) -> None:
        """Write that nothing more is answered. reason: why the batch fails. Use a thread."""
        rows = []
        if ending in ("expired", "failed"):
            code, message = ("batch_expired", EXPIRED) if not reason else ("batch_failed", reason)
            for index in self._missing():
                custom_id = self._input.line(index).custom_id
                row = unanswered(self.batch.id, index, custom_id, code, message)
                rows.append((index, False, row))
        self._append(rows, ending)

    def finish(self) -> None:
        """Once nothing more is answered: write the output files and how it ended. Use a thread.

        The log of a batch that has ended is removed, so that a worker that was replaced without
        noticing may have begun it anew: what the store says now is what counts.
        """
        if self.is_lost:
            return
        self.state = self._batches.get(self.batch.owner, self.batch.id)
        if self.state.end is not None:
            self._batches.clear(self.batch.owner, self.batch.id)
            return
        last = self.state.last
        if last is None or last.sealed is None:
            return
        self._end(last.sealed)

    def _missing(self) -> list[int]:
        done = self._done
        return [i for i in range(len(self._input)) if not done[i // 8] >> i % 8 & 1]

    def _append(self, rows: list[tuple[int, bool, bytes]], sealed: Ending | None) -> None:
        last, done = self.state.last, bytearray(self._done)
        for index, _, _ in rows:
            done[index // 8] |= 1 << index % 8
        good = sum(1 for _, good, _ in rows if good)
        entry = Entry(
            worker=self._worker,
            completed=good + (last.completed if last is not None else 0),
            failed=len(rows) - good + (last.failed if last is not None else 0),
            done=bytes(done),
            sealed=sealed,
            at=int(time.time()),
        )
        if self._batches.append(self.state, entry, [(good, row) for _, good, row in rows]):
            self._done = done
        else:
            self.is_lost = True

    def _write_file(self, kind: str) -> str:
        """Write one of the output files under an id that follows from the batch's."""
        mark = "0" if kind == "output" else "1"
        file = self._files.add(
            self.batch.owner,
            self._batches.rows(self.state, good=kind == "output"),
            filename=f"{self.batch.id}_{kind}.jsonl",
            purpose="batch_output",
            keep_seconds=self.batch.keep_seconds,
            file_id=f"file-{self.batch.id.removeprefix('batch_')}{mark}",
        )
        return file.id

    def _fail(self, *found: Problem) -> None:
        """End a batch whose input cannot be run, or is gone; what was answered is kept."""
        self._end("failed", found)

    def _end(self, ending: Ending, found: tuple[Problem, ...] = ()) -> None:
        last = self.state.last
        counts = {} if last is None else {"output": last.completed, "error": last.failed}
        written = {kind: self._write_file(kind) for kind, count in counts.items() if count}
        end = self.state.ended(
            ending,
            int(time.time()),
            output_file_id=written.get("output"),
            error_file_id=written.get("error"),
            errors=found,
        )
        self._batches.finish(self.batch, end)
        self._log(end.status, end.completed, end.failed)

    def _log(self, status: str, completed: int, failed: int) -> None:
        BATCHES.labels(status).inc()
        access_log.write(
            "batch",
            key=self.batch.key,
            batch=self.batch.id,
            status=status,
            completed=completed,
            failed=failed,
        )
