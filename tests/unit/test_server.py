"""The HTTP server: connections without a request cut nobody off."""

import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from registry import server
from registry.http.app import create_app
from registry.model.domains import CreateDomain
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore

LIVE = Starlette(routes=[Route("/live", lambda _: PlainTextResponse("ok"))])


@contextmanager
def serving(
    allowed: int = 100, idle: float = 10, trusted: str = "", app: ASGIApp = LIVE
) -> Iterator[int]:
    settings = server.config(app, "127.0.0.1", 0, allowed=allowed, trusted=trusted, idle=idle)
    served = uvicorn.Server(settings)
    thread = threading.Thread(target=served.run, daemon=True)
    thread.start()
    while not served.started:
        time.sleep(0.01)
    yield int(served.servers[0].sockets[0].getsockname()[1])
    served.should_exit = True
    thread.join()


def closed(connection: socket.socket, seconds: float) -> bool:
    """Whether the server closes the connection in time."""
    connection.settimeout(seconds)
    try:
        return connection.recv(1000) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


@pytest.mark.parametrize("sent", [b"", b"GET /live HT", b"GET /live HTTP/1.1\r\nHost: x\r\nA"])
def test_a_connection_that_sends_no_whole_request_is_closed(sent: bytes) -> None:
    with serving(idle=0.3) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(sent)
        assert closed(connection, 5)


def test_slow_headers_after_an_answer_are_cut_off_too() -> None:
    with serving(idle=0.3) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /live HTTP/1.1\r\nX: ")
        deadline = time.monotonic() + 5
        while not closed(connection, 0.05):
            assert time.monotonic() < deadline, "a byte now and then keeps it open"
            connection.sendall(b"x")


def test_idle_connections_give_way_to_callers() -> None:
    with serving(allowed=20) as port, ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        for _ in range(3):
            assert httpx.get(f"http://127.0.0.1:{port}/live", timeout=5).text == "ok"


@pytest.mark.parametrize(
    ("trusted", "scheme"), [("10.0.0.0/8, 127.0.0.0/24", "https"), ("10.0.0.0/8", "http")]
)
def test_behind_a_trusted_proxy_that_ends_tls_cookies_are_secure_and_addresses_https(
    local_store: LocalStore, trusted: str, scheme: str
) -> None:
    operator = Registry.create(local_store, name="test", key_name="operator")
    app = create_app(RegistrySettings(store=str(local_store.root)))
    app.state.registry.execute(CreateDomain("medical"), operator.id)
    proxied = {"Host": "registry.org", "X-Forwarded-Proto": "https"}
    wanted = {"operation": "upload", "objects": [{"oid": "0" * 64, "size": 1}]}
    with (
        serving(trusted=trusted, app=app) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=proxied) as client,
    ):
        origin = {"Origin": "https://registry.org"}
        signed_in = client.post("/login", data={"key": operator.text}, headers=origin)
        key = {"Authorization": f"Bearer {operator.text}"}
        batch = "/medical/x.git/info/lfs/objects/batch"
        (file,) = client.post(batch, json=wanted, headers=key).json()["objects"]
    assert signed_in.status_code == 303
    assert ("Secure" in signed_in.headers["set-cookie"]) == (scheme == "https")
    assert file["actions"]["upload"]["href"].startswith(f"{scheme}://registry.org/lfs/")


def test_half_of_the_file_descriptors_are_left_to_the_store() -> None:
    allowed = server.connections_allowed()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert 0 < allowed <= soft // 2
