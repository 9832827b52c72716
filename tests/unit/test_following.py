"""A client that follows events: it takes them whole, and loses none when a stream breaks off."""

import json
import socket
import threading
from collections.abc import Iterator
from itertools import islice

import pytest

from registry.client import RegistryClient

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


class Streams:
    """A server that answers each request with the next of some streams, and closes it."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = answers
        self.asked: list[str] = []
        """The cursor of each request."""
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def serve(self) -> None:
        for answer in self._answers:
            connection, _ = self._server.accept()
            with connection:
                head = connection.recv(1 << 16).decode()
                (cursor,) = (
                    line.partition(": ")[2]
                    for line in head.splitlines()
                    if line.lower().startswith("last-event-id")
                )
                self.asked.append(cursor)
                connection.sendall(HEAD + answer)


def frame(place: str, event: object) -> bytes:
    data = json.dumps(event, ensure_ascii=False).encode()
    return b"id: %s\nevent: x\ndata: %s\n\n" % (place.encode(), data)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.client.events.AGAIN_SECONDS", 0)


def followed(streams: Streams, count: int) -> Iterator[object]:
    threading.Thread(target=streams.serve, daemon=True).start()
    with RegistryClient(streams.url, "lry_a_b") as client:
        yield from islice(client.follow_events("0"), count)


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r"])
def test_a_text_with_a_line_separator_is_one_line(end: str) -> None:
    event = {"reason": f"unsafe{end}id: 99-0{end}data: {{}}"}
    streams = Streams(frame("1-0", event), frame("2-0", {}))
    assert list(followed(streams, 2)) == [event, {}]
    assert streams.asked == ["0", "1-0"]


def test_an_event_that_did_not_arrive_whole_is_asked_for_again() -> None:
    first, second = frame("1-0", {"n": 1}), frame("2-0", {"n": 2})
    for cut in (len(b"id: 2-0\n"), len(b"id: 2-0\nevent: x\n")):
        streams = Streams(first + second[:cut], second)
        assert list(followed(streams, 2)) == [{"n": 1}, {"n": 2}]
        assert streams.asked == ["0", "1-0"]


def test_a_cursor_without_an_event_moves_on() -> None:
    streams = Streams(b": heartbeat\nid: 7\n\n", frame("8-0", {}))
    assert list(followed(streams, 1)) == [{}]
    assert streams.asked == ["0", "7"]
