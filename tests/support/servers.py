"""Real servers in processes of their own: started, awaited, and always ended."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx

from adapters.children import started

BIN = Path(sys.executable).parent


def free_port() -> int:
    """A port nobody listens on, low enough that port + 10000 is one, too."""
    for _ in range(200):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = 20000 + int(first.getsockname()[1]) % 20000
            try:
                second.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


@contextlib.contextmanager
def running(
    command: Sequence[str],
    log: Path,
    *,
    ready: str,
    environment: Mapping[str, str] | None = None,
    seconds: float = 60,
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers 2xx to 4xx at `ready`; its log is shown if it does not."""
    with log.open("wb") as out, started(command, out, environment=environment) as process:
        _await(process, ready, log, seconds)
        yield process


def _await(process: subprocess.Popen[bytes], url: str, log: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=5).status_code < 500:
                return
        time.sleep(0.1)
    tail = log.read_text(errors="replace")[-4000:]
    raise RuntimeError(f"{process.args!r} did not become ready; its log ends:\n{tail}")


@contextlib.contextmanager
def registry_server(
    store: str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    *,
    port: int | None = None,
) -> Iterator[str]:
    """`lorary serve-registry` over `store`; yields its URL."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    with running(
        [str(BIN / "lorary"), "serve-registry", "--port", str(port)],
        folder / f"registry-{port}.log",
        ready=f"{url}/health",
        environment={"LORARY_STORE": store, **(environment or {})},
    ):
        yield url
