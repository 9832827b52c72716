"""What a client says when no answer came: nothing was sent or changed, or nobody knows."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from adapters.errors import InvalidAdapter
from registry.client import AsyncRegistryClient, RegistryClient
from registry.client.connection import Connection, RemoteError
from registry.client.downloading import download
from registry.client.progress import Counter, no_progress
from registry.client.uploading import Part, _put
from registry.envelope import headers_of
from registry.errors import DigestMismatch, OutcomeUnknown, StoreUnavailable
from tests.support.servers import free_port


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that reads a request and closes the connection without an answer."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.recv(1 << 16)

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}"
    server.close()


@pytest.fixture
def hanging() -> Iterator[str]:
    """A server that takes connections and never answers."""
    server = socket.create_server(("127.0.0.1", 0))
    yield f"http://127.0.0.1:{server.getsockname()[1]}"
    server.close()


@pytest.mark.parametrize("server", ["silent", "hanging"])
def test_a_change_without_an_answer_may_have_been_made(
    server: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(server)
    with (
        RegistryClient(url, "lry_a_b", timeout=0.5) as client,
        pytest.raises(OutcomeUnknown, match=r"may have been made.*before you repeat it"),
    ):
        client.issue_key("app", ["infer:medical"])


@pytest.mark.parametrize("server", ["silent", "hanging"])
def test_a_question_without_an_answer_changed_nothing(
    server: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(server)
    with RegistryClient(url, "lry_a_b", timeout=0.5) as client, pytest.raises(StoreUnavailable):
        client.keys()


def test_a_change_that_was_never_sent_was_not_made() -> None:
    with (
        RegistryClient(f"http://127.0.0.1:{free_port()}", "lry_a_b") as client,
        pytest.raises(StoreUnavailable, match="does not answer"),
    ):
        client.issue_key("app", ["infer:medical"])


def proxied(*statuses: int) -> RegistryClient:
    """A client of a registry behind a proxy that gives these answers itself."""
    client, left = RegistryClient("http://127.0.0.1:1", "lry_a_b"), iter(statuses)
    client.close()
    answer = httpx.MockTransport(lambda _: httpx.Response(next(left), text="<h1>Proxy</h1>"))
    client._connection.http = httpx.Client(base_url="http://a", transport=answer)
    return client


def test_a_proxy_that_got_no_answer_is_no_answer() -> None:
    with proxied(502, 502, 503, 503, 504, 504) as client:
        for _ in range(3):
            with pytest.raises(OutcomeUnknown, match="may have been made"):
                client.issue_key("app", ["infer:medical"])
            with pytest.raises(StoreUnavailable, match="does not answer"):
                client.keys()


def test_what_answers_without_json_is_no_registry() -> None:
    with (
        proxied(200) as client,
        pytest.raises(RemoteError, match="LORARY_REGISTRY_URL"),
    ):
        client.keys()


def test_an_unknown_outcome_asks_no_client_to_repeat_the_request() -> None:
    assert OutcomeUnknown.status == 504
    assert headers_of(OutcomeUnknown("x")) == {}


def test_every_verb_can_be_awaited() -> None:
    verbs = {name for name in dir(RegistryClient) if not name.startswith("_")} - {"close"}
    awaited = AsyncRegistryClient("http://127.0.0.1:1", "lry_a_b")
    assert [verb for verb in sorted(verbs) if not callable(getattr(awaited, verb, None))] == []


def test_a_file_that_leads_out_of_the_directory_is_not_fetched(
    silent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RegistryClient(silent, "lry_a_b", timeout=0.5) as client:
        for path in ("../x", "a/../../x", "/etc/x", "a/x"):
            listed = {"ref": "a/b@1", "files": [{"path": path, "size": 1, "sha256": "0" * 64}]}
            monkeypatch.setattr(client, "resolve", lambda _, listed=listed: listed)
            with pytest.raises(InvalidAdapter, match="leads out"):
                client.pull("a/b@1", tmp_path / "here")
    assert list(tmp_path.rglob("*")) == [tmp_path / "here"]


def test_no_key_goes_to_the_bucket() -> None:
    connection = Connection("http://127.0.0.1:1", "lry_a_b", timeout=1)
    assert connection.http.headers["authorization"] == "Bearer lry_a_b"
    assert "authorization" not in connection.store.headers
    connection.close()


def test_a_file_of_that_name_that_is_there_is_replaced(tmp_path: Path) -> None:
    asked, place = list[str](), tmp_path / "README.md"
    place.write_bytes(b"old")

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["range"])
        return httpx.Response(206, content=b"new")

    connection = Connection("http://127.0.0.1:1", "lry_a_b", timeout=1)
    connection.http = httpx.Client(base_url="http://a", transport=httpx.MockTransport(answer))
    file = {"path": "README.md", "size": 3, "sha256": sha256(b"new").hexdigest()}
    for _ in range(2):
        download(connection, "/files/a/b@1", file, place, no_progress, parallel=1)
        assert place.read_bytes() == b"new"
    assert asked == ["bytes=0-2"], "what is there already is not fetched again"
    connection.close()


def test_a_part_that_the_bucket_refused_was_not_sent(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    connection = Connection("http://127.0.0.1:1", "lry_a_b", timeout=1)
    refusal = httpx.MockTransport(lambda _: httpx.Response(403))
    connection.store = httpx.Client(transport=refusal)
    put = {"url": "http://bucket/x", "headers": {}}
    counter = Counter("file", 1, no_progress)
    with pytest.raises(StoreUnavailable, match="403"):
        _put(connection, tmp_path / "file", Part(0, 1, "0" * 64), put, counter)
    connection.close()


DATA = b"first, then the others"


def served(data: bytes, asked: list[str]) -> Connection:
    """A connection to a registry whose one file holds `data`."""

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["range"])
        first, last = request.headers["range"].removeprefix("bytes=").split("-")
        return httpx.Response(206, content=data[int(first) : int(last) + 1])

    connection = Connection("http://127.0.0.1:1", "lry_a_b", timeout=1)
    connection.http = httpx.Client(base_url="http://a", transport=httpx.MockTransport(answer))
    return connection


def test_a_file_that_arrived_damaged_is_not_kept(tmp_path: Path) -> None:
    connection = served(DATA[::-1], [])
    file = {"path": "x", "size": len(DATA), "sha256": sha256(DATA).hexdigest()}
    with pytest.raises(DigestMismatch, match="damaged"):
        download(connection, "/files/a/b@1", file, tmp_path / "x", no_progress, parallel=1)
    assert list(tmp_path.iterdir()) == []
    connection.close()


def test_a_pull_goes_on_from_the_ranges_that_were_recorded_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may have died while it wrote `10`: then `1` stands in the last line."""
    monkeypatch.setattr("registry.client.downloading.RANGE", 10)
    digest = sha256(DATA).hexdigest()
    for record, fetched in (("0\n", ["10-19", "20-21"]), ("0\n20\n10", ["10-19"])):
        partial = tmp_path / f".{digest[:16]}.part"
        partial.write_bytes(DATA[:10] + bytes(10) + DATA[20:])
        partial.with_suffix(".ranges").write_text(record)
        asked = list[str]()
        connection = served(DATA, asked)
        file = {"path": "x", "size": len(DATA), "sha256": digest}
        download(connection, "/files/a/b@1", file, tmp_path / "x", no_progress, parallel=1)
        assert (tmp_path / "x").read_bytes() == DATA
        assert sorted(asked) == [f"bytes={span}" for span in fetched]
        (tmp_path / "x").unlink()
        connection.close()
