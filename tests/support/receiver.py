"""A receiver of webhooks that fails, is slow, dies and returns; it verifies each signature."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.servers import free_port


@dataclass
class Receiver:
    """What arrived. `answer` gives the status for an event; 0 closes the connection unanswered."""

    answer: Callable[[dict[str, Any]], int] = lambda _: 204
    port: int = field(default_factory=free_port)
    secret: str = ""
    arrived: list[dict[str, Any]] = field(default_factory=list)
    """Events in the order in which they were taken."""
    refused: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """What was wrong with a request."""
    _server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def start(self) -> None:
        receiver, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                event = json.loads(body)
                status = receiver.answer(event)
                with lock:
                    receiver.faults += faults(receiver.secret, dict(self.headers), body)
                    taken = 200 <= status < 300
                    (receiver.arrived if taken else receiver.refused).append(event)
                if status:
                    self.send_response(status)
                    self.send_header("location", f"{receiver.url}/elsewhere")
                    self.send_header("content-length", "0")
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def wait_for(self, ids: set[str], seconds: float) -> None:
        """Until all these events were taken."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if ids <= {event["id"] for event in list(self.arrived)}:
                return
            time.sleep(0.1)
        missing = sorted(ids - {event["id"] for event in self.arrived})
        raise AssertionError(f"{len(missing)} of {len(ids)} events did not arrive: {missing[:9]}")


def faults(secret: str, headers: dict[str, str], body: bytes) -> list[str]:
    """What is wrong with a delivery, by the Standard Webhooks specification."""
    sent = {name.lower(): value for name, value in headers.items()}
    signed = f"{sent['webhook-id']}.{sent['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    offered = [one.split(",", 1) for one in sent["webhook-signature"].split(" ")]
    found = []
    if ["v1", expected] not in offered:
        found.append("wrong signature")
    if abs(time.time() - int(sent["webhook-timestamp"])) > 300:
        found.append("old timestamp")
    if sent["webhook-id"] != json.loads(body)["id"]:
        found.append("wrong id")
    if not sent["content-type"].startswith("application/cloudevents+json"):
        found.append("wrong content type")
    return found
