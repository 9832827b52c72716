"""What a replica refuses or fails to do, beyond the registry's own errors.

LoraryError
├── RouteNotFound        a path or method that is not served
├── ColdLoadFailed       a version whose files cannot be had right now
│   └── DiskFull         this replica's disk has no room for it
├── EngineRefused        vLLM cannot load a version that was admitted
│   └── AdapterFaulty    vLLM computes NaN with it, so it is served to nobody
├── NothingFree          work that nobody waits for, and nothing is free for it now
├── EngineFault          an answer that the engine computed from NaN
├── WrongTask            an adapter, or a route, of another task than the server's
├── EngineNotAttached    vLLM's engine has not been handed to the gateway
├── TooManyColdLoads     more versions wait for a download than may
├── LimitReached         a key or an adapter has taken its share; says when to come again
├── CallerLeft           the caller disconnected; nobody is answered
│   └── ReaderTooSlow    the caller did not read its answer
├── UnknownResponse      feedback about an answer that was not given here
├── FeedbackUnavailable  feedback that the registry does not take now
├── FeedbackDisabled     a replica that has no key to report with
├── RegistryUnavailable  no registry was ever read, so nothing can be resolved
├── SlowBody             a request whose body did not come in time
├── DeadlineExceeded     an answer that took longer than it may
├── ShuttingDown         the server is shutting down: another one answers
├── FileNotStored        a file that its caller has not, or has no more
├── BatchNotFound        a batch that its caller has not, or has no more
├── BatchEnded           a batch that cannot be cancelled any more
├── QuotaExceeded        more files or batches than one owner may keep
├── Broken               an unexpected error
├── CannotServe          `lorary serve` cannot start
└── CannotPlan           what was measured does not carry what is wanted
"""

from adapters.errors import LoraryError


class RouteNotFound(LoraryError):
    """A path or method that is not served."""

    status = 404
    code = "route_not_found"


class ColdLoadFailed(LoraryError):
    """A version whose files cannot be had, or are damaged in the store."""

    status = 503
    code = "cold_load_failed"
    param = "model"


class DiskFull(ColdLoadFailed):
    """A version for which this replica's disk has no room; what lies there is served."""

    code = "disk_full"

    def __init__(self, ref: str, lacking: int) -> None:
        self.lacking = lacking
        """Bytes that must be given back before it can be brought here, as far as is known."""
        super().__init__(
            f"This server's disk has no room for {ref}. Retry later, or ask its operator to "
            "enlarge the adapters' disk."
        )


class EngineRefused(LoraryError):
    """vLLM cannot load a version; others are served."""

    status = 503
    code = "engine_refused"
    param = "model"


class AdapterFaulty(EngineRefused):
    """A version with which the engine computes NaN: quarantined on this server."""

    status = 422
    code = "adapter_faulty"

    def __init__(self, ref: str, reason: str) -> None:
        self.ref = ref
        self.reason = reason
        super().__init__(
            f"{ref} is quarantined on this server: {reason}. Ask for another version; its owner "
            "has to publish a corrected one."
        )


class NothingFree(LoraryError):
    """Work that nobody waits for, and that must not take what others need. No caller sees it."""

    status = 503
    code = "nothing_free"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        """What is not free, in a word."""
        super().__init__(f"Nothing is free for work that nobody waits for ({reason}).")


class EngineFault(LoraryError):
    """An answer that the engine computed from NaN, or an engine that no longer answers soundly."""

    status = 503
    code = "engine_fault"

    def __init__(self) -> None:
        super().__init__(
            "The engine could not compute this answer: a fault of the server. Send the request "
            "again."
        )


class WrongTask(LoraryError):
    """An adapter without a head on a server that classifies, the other way round, or a head that is
    too large for the server or for the route."""

    status = 409
    code = "wrong_task"
    param = "model"


class EngineNotAttached(LoraryError):
    """vLLM's engine was not handed to the gateway, so there is nothing to load adapters into."""

    status = 503
    code = "engine_not_attached"

    def __init__(self) -> None:
        super().__init__("This server's engine has not started yet. Retry in a second.")


class TooManyColdLoads(LoraryError):
    """Too many versions wait for their download."""

    status = 429
    code = "too_many_cold_loads"


class LimitReached(LoraryError):
    """A key or an adapter has taken what it may."""

    status = 429
    code = "rate_limit_exceeded"

    def __init__(self, what: str, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(f"{what} Retry in {retry_after:.0f} s or later.")


class CallerLeft(LoraryError):
    """The caller disconnected before its answer was complete. For the access log alone."""

    status = 499
    code = "caller_left"

    def __init__(self, message: str = "The caller disconnected.") -> None:
        super().__init__(message)


class ReaderTooSlow(CallerLeft):
    """The caller kept its answer waiting, so the connection is closed."""

    code = "reader_too_slow"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The caller left its answer unread for {seconds:g} s.")


class RegistryUnavailable(LoraryError):
    """No registry was ever read."""

    status = 503
    code = "registry_unavailable"


class DeadlineExceeded(LoraryError):
    """An answer that took longer than its caller or the operator allows."""

    status = 504
    code = "deadline_exceeded"

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"The answer was not complete after {seconds:g} s. Ask for fewer tokens, or allow more."
        )


class SlowBody(LoraryError):
    """A request whose body did not come in time."""

    status = 408
    code = "body_timeout"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The body was not here after {seconds:g} s. Send the request again.")


class ShuttingDown(LoraryError):
    """The server is shutting down."""

    status = 503
    code = "shutting_down"


class FileNotStored(LoraryError):
    """A file that does not exist for this caller."""

    status = 404
    code = "file_not_found"

    def __init__(self, file_id: str) -> None:
        super().__init__(f"There is no file {file_id[:60]!r} of yours. List them: GET /v1/files.")


class BatchNotFound(LoraryError):
    """A batch that does not exist for this caller."""

    status = 404
    code = "batch_not_found"

    def __init__(self, batch_id: str) -> None:
        super().__init__(
            f"There is no batch {batch_id[:60]!r} of yours. List them: GET /v1/batches."
        )


class BatchEnded(LoraryError):
    """A batch that has ended, so that nothing of it can be cancelled."""

    status = 409
    code = "batch_ended"

    def __init__(self, batch_id: str, status: str) -> None:
        super().__init__(f"The batch {batch_id} has ended: {status}. Read its files.")


class QuotaExceeded(LoraryError):
    """More files or batches than one owner may keep. Repeating does not help: delete some."""

    status = 403
    code = "quota_exceeded"


class UnknownResponse(LoraryError):
    """An id that no replica of this deployment gave an answer."""

    status = 404
    code = "response_not_found"
    param = "id"


class FeedbackUnavailable(LoraryError):
    """The registry does not take feedback now."""

    status = 503
    code = "feedback_unavailable"


class FeedbackDisabled(LoraryError):
    """The replica has no key to report to the registry with."""

    status = 503
    code = "feedback_disabled"


class Broken(LoraryError):
    """An unexpected error in Lorary or in vLLM."""

    status = 500
    code = "internal_error"

    def __init__(self) -> None:
        super().__init__("The server failed. Try again. The operator finds the cause in its log.")


class CannotServe(LoraryError):
    """The replica cannot start."""

    code = "cannot_serve"


class CannotPlan(LoraryError):
    """No fleet of what was measured carries what is wanted."""

    status = 422
    code = "cannot_plan"
