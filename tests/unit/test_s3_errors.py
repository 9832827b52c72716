"""What an S3 server's answers become: repeated where that is safe, else an error that says so."""

import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from adapters.errors import LoraryError
from registry.errors import OutcomeUnknown, StoreBusy, StoreUnavailable
from registry.store import ObjectStore, open_store
from registry.store.s3 import CONFLICT_RETRIES, READ_TRIES
from tests.support.s3 import ACCESS, SECRET

Answer = tuple[int, str]


class Server:
    """Answers each request with the next of `answers`, then with 200 and `x`, or the next of
    `contents`."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.contents: list[bytes] = []
        self.paths: list[str] = []
        self.requests = 0


@pytest.fixture
def server(started: tuple[Server, ObjectStore]) -> tuple[Server, ObjectStore]:
    started[0].answers, started[0].requests = [], 0
    started[0].contents, started[0].paths = [], []
    return started


@pytest.fixture(scope="module")
def started() -> Iterator[tuple[Server, ObjectStore]]:
    """One server and one client, which takes long to make."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def content(self) -> bytes:
            if self.command == "PUT":
                return b""
            return state.contents.pop(0) if state.contents else b"x"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            state.requests += 1
            state.paths.append(self.path)
            status, code = state.answers.pop(0) if state.answers else (200, "")
            if status == 0:  # the connection breaks
                self.close_connection = True
                self.connection.close()
                return
            body = f"<Error><Code>{code}</Code></Error>".encode() if code else self.content()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Last-Modified", "Thu, 26 Nov 2026 00:00:00 GMT")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_DELETE = do_HEAD = answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        # On a busy machine a request takes long, for which nothing here is meant to give up.
        patch.setattr("registry.store.s3.READ_SECONDS", 60)
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield state, open_store("s3://bucket", s3_endpoint=f"http://127.0.0.1:{http.server_port}")
    http.shutdown()
    http.server_close()


SLOW = (503, "SlowDown")
READS: list[Callable[[ObjectStore], object]] = [
    lambda store: store.get("key"),
    lambda store: store.head("key"),
    lambda store: list(store.stream("key")),
]


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("fault", [SLOW, (500, "InternalError"), (429, "TooMany")])
def test_a_throttled_read_is_repeated(
    server: tuple[Server, ObjectStore], read: Callable[[ObjectStore], object], fault: Answer
) -> None:
    state, store = server
    state.answers = [fault, fault]
    read(store)
    assert state.requests == 3


def test_a_read_that_stays_throttled_says_so(server: tuple[Server, ObjectStore]) -> None:
    state, store = server
    state.answers = [SLOW] * 99
    with pytest.raises(StoreBusy, match="throttles requests") as refused:
        store.get("key")
    assert "permissions" not in refused.value.message
    assert state.requests == READ_TRIES


def test_a_refused_read_is_not_repeated(server: tuple[Server, ObjectStore]) -> None:
    state, store = server
    state.answers = [(403, "AccessDenied")]
    with pytest.raises(StoreUnavailable, match="permissions"):
        store.get("key")
    assert state.requests == 1


def writes(path: Path) -> list[Callable[[ObjectStore], object]]:
    path.write_bytes(b"x")
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    return [
        lambda store: store.put("key", b"x", "create"),
        lambda store: store.put("key", b"x", "overwrite"),
        lambda store: store.put_file("key", path, sha256=digest),
    ]


@pytest.mark.parametrize("number", range(3))
def test_a_write_that_s3_asks_for_again_is_made_again_a_bounded_number_of_times(
    server: tuple[Server, ObjectStore], tmp_path: Path, number: int
) -> None:
    state, store = server
    write = writes(tmp_path / "file")[number]
    state.answers = [(409, "ConditionalRequestConflict")]
    write(store)
    assert state.requests == 2
    state.answers = [(409, "OperationAborted")] * 99
    with pytest.raises(OutcomeUnknown):
        write(store)
    assert state.requests == 2 + CONFLICT_RETRIES


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("fault", [SLOW, (500, "InternalError"), (0, "")])
def test_a_write_without_a_clear_answer_is_never_repeated_blindly(
    server: tuple[Server, ObjectStore], tmp_path: Path, number: int, fault: Answer
) -> None:
    state, store = server
    state.answers = [fault]
    with pytest.raises(OutcomeUnknown):
        writes(tmp_path / "file")[number](store)
    assert state.requests == 1


@pytest.mark.parametrize("fault", [(409, "OperationAborted"), SLOW, (400, "Odd")])
def test_every_other_error_is_of_the_tree_too(
    server: tuple[Server, ObjectStore], fault: Answer
) -> None:
    state, store = server
    state.answers = [fault] * 9
    with pytest.raises(LoraryError):
        store.delete("key")
    with pytest.raises(LoraryError):
        store.put_stream("key", iter([b"x"]))


def test_a_listing_has_the_objects_of_all_its_pages(server: tuple[Server, ObjectStore]) -> None:
    state, store = server
    found = (
        "<Contents><Key>{}</Key><Size>7</Size>"
        "<LastModified>2026-11-26T00:00:00.000Z</LastModified></Contents>"
    )
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>next</NextContinuationToken>"
    state.contents = [
        f"<ListBucketResult>{found.format(key)}{rest}</ListBucketResult>".encode()
        for key, rest in (("log/1", more), ("log/2", ""))
    ]
    assert [(info.key, info.size) for info in store.list("log/")] == [("log/1", 7), ("log/2", 7)]
    asked = [parse_qs(urlsplit(path).query) for path in state.paths]
    assert [query["prefix"] for query in asked] == [["log/"], ["log/"]]
    assert [query.get("continuation-token") for query in asked] == [None, ["next"]]


def test_a_presigned_upload_is_for_the_declared_bytes_alone(
    server: tuple[Server, ObjectStore],
) -> None:
    signed = server[1].signed_put("key", sha256="0" * 64, size=7)
    assert signed is not None
    query = parse_qs(urlsplit(signed.url).query)
    covered = query["X-Amz-SignedHeaders"][0].split(";")
    assert {"content-length", "x-amz-checksum-sha256"} <= set(covered)
    assert signed.headers["content-length"] == "7"
    assert b64decode(signed.headers["x-amz-checksum-sha256"]) == bytes(32)
