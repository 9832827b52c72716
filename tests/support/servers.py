"""Real servers, most in processes of their own: started, awaited, and always ended."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
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
    seconds: float = 180,
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers 2xx to 4xx at `ready`; its log is shown if it does not."""
    with log.open("wb") as out, started(command, out, environment=environment) as process:
        _await(process, ready, log, seconds)
        yield process


def _await(process: subprocess.Popen[bytes], url: str, log: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    # One client, which loads no certificates: for each question that would take half a core.
    with httpx.Client(timeout=5, verify=False, trust_env=False) as client:  # noqa: S501 - loopback
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if client.get(url).status_code < 500:
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
    seconds: float = 60,
) -> Iterator[str]:
    """`lorary serve-registry` over `store`; yields its URL once it answers, within `seconds`."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    with running(
        [str(BIN / "lorary"), "serve-registry", "--port", str(port)],
        folder / f"registry-{port}.log",
        ready=f"{url}/health",
        environment={"LORARY_STORE": store, **(environment or {})},
        seconds=seconds,
    ):
        yield url


@contextlib.contextmanager
def registry_in_thread(store: str) -> Iterator[str]:
    """The same service in a thread, for tests that neither set, kill nor measure its process.

    A process of its own computes for two seconds before it answers.
    """
    from registry import server
    from registry.http import create_app
    from registry.settings import RegistrySettings

    settings = RegistrySettings(store=store, s3_endpoint=os.environ.get("LORARY_S3_ENDPOINT"))
    app = create_app(settings)
    port = free_port()
    served = server.Server(
        server.config(
            app,
            "127.0.0.1",
            port,
            allowed=server.connections_allowed(),
            trusted=settings.trusted_proxies,
        ),
        app.state.streams.close,
    )
    thread = threading.Thread(target=served.run, daemon=True)
    thread.start()
    while not served.started:
        assert thread.is_alive(), "the registry did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        served.should_exit = True
        thread.join()
