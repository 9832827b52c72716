"""The HTTP server under the service: uvicorn, with bounds on connections that send no request.

uvicorn limits how long a connection may stay open after an answer, but not how long it may take to
send a request's headers, nor how many connections may wait. `Connection` bounds both.
"""

import asyncio
import errno
import resource
import socket
from collections.abc import Callable
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from registry.errors import Conflict

IDLE_SECONDS = 10.0
"""Time for a connection to send a request's headers. After an answer it may be twice as long."""
DESCRIPTORS = 65_536
"""Open files that are asked of the system at the most."""


class Connection(HttpToolsProtocol):
    """An HTTP connection that is closed if it stays without a request, at once if too many are
    open: those without a request give way to new ones, the oldest first."""

    most: ClassVar[int]
    """Connections that may be open."""
    idle_seconds: ClassVar[float] = IDLE_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._since = self.loop.time()
        self._seen: object = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room for the connection, or refuse it, and watch it."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            idle = [c for c in self.connections if isinstance(c, Connection) and c.idle]
            min(idle, key=lambda connection: connection._since).transport.abort()
        self._timer = self.loop.call_later(self.idle_seconds, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _look(self) -> None:
        """Close the connection if no request has begun since the last look."""
        if self.idle and self._seen is self.cycle:
            self.transport.close()
            return
        self._seen = self.cycle if self.idle else object()
        self._timer = self.loop.call_later(self.idle_seconds, self._look)


def connections_allowed() -> int:
    """How many connections may be open: half of the file descriptors, as many of which are asked
    of the system as it gives. The store and uploads use the other half."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(soft, wanted) // 2


def config(
    app: Any, host: str, port: int, *, allowed: int, trusted: str, idle: float = IDLE_SECONDS
) -> uvicorn.Config:
    """uvicorn's configuration for `app`: `allowed` connections, without a request for `idle`
    seconds. trusted: proxies whose forwarded headers count, separated by commas."""

    class Bounded(Connection):
        most = allowed
        idle_seconds = idle

    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=Bounded,
        forwarded_allow_ips=trusted,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
    )


class Server(uvicorn.Server):
    """uvicorn's server, which ends answers that have no end of their own when it shuts down."""

    def __init__(self, configuration: uvicorn.Config, on_shutdown: Callable[[], None]) -> None:
        super().__init__(configuration)
        self._on_shutdown = on_shutdown

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End them first, then wait for the others."""
        self._on_shutdown()
        await super().shutdown(sockets)


def refuse_taken(host: str, port: int) -> None:
    """Raises `Conflict` if nothing can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        what = "is already in use" if error.errno == errno.EADDRINUSE else "cannot be used"
        raise Conflict(f"Port {port} of {host} {what}. Choose another one with --port.") from error


def serve(app: Any, host: str, port: int, *, trusted: str, on_shutdown: Callable[[], None]) -> None:
    """Serve `app` until a signal ends it; `on_shutdown` ends answers without an end."""
    refuse_taken(host, port)
    configuration = config(app, host, port, allowed=connections_allowed(), trusted=trusted)
    Server(configuration, on_shutdown).run()
