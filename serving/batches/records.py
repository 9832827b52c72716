"""What is kept of a batch, and what its owner is shown of it. Pure."""

from typing import Any, Literal, get_args

import msgspec

from serving.batches.lines import Problem

Ending = Literal["completed", "failed", "expired", "cancelled"]


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for."""

    id: str
    owner: str
    key: str
    """The key that pays, and whose roles count."""
    endpoint: str
    input_file_id: str
    created_at: int
    expires_at: int
    keep_seconds: int
    """How long the output files are kept."""
    metadata: dict[str, str] | None = None


class Checked(msgspec.Struct, frozen=True):
    """An input that can be run."""

    total: int
    at: int


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """The head of an entry of the log; the counts are those of all entries so far."""

    worker: str
    completed: int
    failed: int
    done: bytes
    """One bit for each line of the input: whether an entry so far has it."""
    sealed: Ending | None = None
    """Set in the last entry."""
    at: int


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How a batch ended."""

    status: Ending
    at: int
    finalizing_at: int | None = None
    in_progress_at: int | None = None
    cancelling_at: int | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: tuple[Problem, ...] = ()


class State(msgspec.Struct, kw_only=True):
    """A batch as the store holds it."""

    batch: Batch
    checked: Checked | None = None
    cancelled_at: int | None = None
    entries: int = 0
    last: Entry | None = None
    end: End | None = None

    @property
    def status(self) -> str:
        """As in OpenAI's API."""
        if self.end is not None:
            return self.end.status
        if self.cancelled_at is not None:
            return "cancelling"
        if self.last is not None and self.last.sealed is not None:
            return "finalizing"
        return "validating" if self.checked is None else "in_progress"

    def shown(self) -> dict[str, Any]:
        """As OpenAI's API shows it."""
        batch, end = self.batch, self.end
        reached = end or self._so_far()
        ended: dict[str, int | None] = {f"{kind}_at": None for kind in get_args(Ending)}
        if end is not None:
            ended[f"{end.status}_at"] = end.at
        problems = [msgspec.to_builtins(problem) for problem in reached.errors]
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": batch.endpoint,
            "errors": {"object": "list", "data": problems} if problems else None,
            "input_file_id": batch.input_file_id,
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": reached.output_file_id,
            "error_file_id": reached.error_file_id,
            "created_at": batch.created_at,
            "in_progress_at": reached.in_progress_at,
            "expires_at": batch.expires_at,
            "finalizing_at": reached.finalizing_at,
            "cancelling_at": reached.cancelling_at,
            **ended,
            "request_counts": {
                "total": reached.total,
                "completed": reached.completed,
                "failed": reached.failed,
            },
            "metadata": batch.metadata,
        }

    def ended(self, status: Ending, at: int, **others: Any) -> End:
        """The batch's end as `status`, with what was reached by then."""
        return msgspec.structs.replace(self._so_far(), status=status, at=at, **others)

    def _so_far(self) -> End:
        last, checked = self.last, self.checked
        return End(
            status="completed",
            at=0,
            finalizing_at=last.at if last is not None and last.sealed is not None else None,
            in_progress_at=None if checked is None else checked.at,
            cancelling_at=self.cancelled_at,
            total=0 if checked is None else checked.total,
            completed=0 if last is None else last.completed,
            failed=0 if last is None else last.failed,
        )
