"""How a server leaves: it says so, lets the requests under way end, and then ends itself.

On SIGTERM `/health` turns to 503 at once, and connections are closed after their next answer. For
`notice` seconds requests are still taken, so that load balancers may notice; from then on they are
refused with a 503 that any client or proxy may repeat elsewhere. When the last one has ended, or
after `patience` seconds, vLLM is stopped: by SIGINT, which it handles as it does SIGTERM.
A second SIGTERM stops it at once.

Source: Kubernetes, "Pod Lifecycle: Pod Termination Flow".
"""

import asyncio
import os
import signal

from serving.errors import ShuttingDown
from serving.inflight import InFlight

LINGER_SECONDS = 1.0
"""How long, at least, callers on open connections are sent elsewhere before those are closed:
a request that meets the closing of its connection gets no answer at all (RFC 9112, section 9.6)."""
LAST_SECONDS = 2.0
"""How long requests that were ended have to tell their callers so."""


class Shutdown:
    """One replica's way out. Use it from one event loop."""

    def __init__(self, inflight: InFlight, *, notice: float, patience: float) -> None:
        self.announced = False
        """Whether the server is shutting down."""
        self._inflight = inflight
        self._notice = notice
        self._patience = patience
        self._closed = False
        self._leaving: asyncio.Task[None] | None = None

    def listen(self) -> None:
        """Let SIGTERM begin it. Only for the main thread of a process of our own."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.begin)

    def begin(self) -> None:
        """Start to leave; asked again, leave now."""
        if self.announced:
            _stop()
            return
        self.announced = self._inflight.closing = True
        self._leaving = asyncio.create_task(self._leave())

    def check(self) -> None:
        """Raises `ShuttingDown` when no more requests are taken."""
        if self._closed:
            raise ShuttingDown(
                "This server is going away. Repeat the request: another one answers."
            )

    async def _leave(self) -> None:
        await asyncio.sleep(self._notice)
        self._closed = True
        await self._inflight.drained(self._patience)
        self._inflight.end_all(
            ShuttingDown(
                "This server had to go before the answer was complete. Repeat the request."
            )
        )
        await self._inflight.drained(LAST_SECONDS)
        await asyncio.sleep(max(0.0, LINGER_SECONDS - self._notice))
        _stop()


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGINT)
