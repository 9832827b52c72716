"""How an answer went and how long it took, seen as it passes by."""

import time
from typing import Literal

from starlette.types import Message

Pace = Literal["first_token", "per_token"]
"""A stream's seconds to its first piece, or a whole answer's seconds for each token: times of
different kinds are never compared."""
_ERROR = b'data: {"error"'
"""How vLLM begins an error inside a stream, whose status was sent long before. Inside an answer's
text the quotation marks are escaped."""


class Stopwatch:
    """Watches one answer's messages."""

    def __init__(self) -> None:
        self.measured: tuple[Pace | None, float] = (None, 0.0)
        """What was measured, and the seconds."""
        self._began = 0.0
        self._status = 0
        self._streams = False
        self._broken = False

    @property
    def failed(self) -> bool:
        """Whether the server's side failed."""
        return self._status >= 500 or self._broken

    @property
    def succeeded(self) -> bool:
        """Whether an answer was given."""
        return 200 <= self._status < 400 and not self._broken

    def begin(self) -> None:
        """The engine gets the request now."""
        self._began = time.perf_counter()

    def see(self, message: Message) -> None:
        """A message of the answer."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            kind = dict(message.get("headers", ())).get(b"content-type", b"")
            self._streams = kind.startswith(b"text/event-stream")
        elif self._streams and message.get("body"):
            self._broken = self._broken or _ERROR in message["body"]
            if self.measured[0] is None:
                self.measured = ("first_token", time.perf_counter() - self._began)

    def end(self, tokens: int) -> None:
        """The answer is complete; `tokens` were made, as far as is known."""
        if not self._streams and tokens > 0:
            self.measured = ("per_token", (time.perf_counter() - self._began) / tokens)
