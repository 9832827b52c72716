"""What an answer costs and how fast it comes, read as it passes by; nothing of it is kept.

Tokens are counted from the `usage` at the end of a whole answer; a stream's by its events, one for
each token at the most (vLLM sends tokens that were ready together in one event).
"""

import re
import time

from starlette.types import Message, Send

from registry.catalog import Version
from serving.telemetry.metrics import (
    FIRST_TOKEN,
    INTER_TOKEN,
    PROMPT_TOKENS,
    REQUESTS,
    SERIES,
    TOKENS,
)

_TAIL = 4096
_COMPLETION = re.compile(rb'"(?:completion|output)_tokens":\s*(\d{1,9})')
_PROMPT = re.compile(rb'"(?:prompt|input)_tokens":\s*(\d{1,9})')


class Meter:
    """Watches one answer. Labels hold only names that the registry resolved."""

    def __init__(self, send: Send, version: Version | None, base: str) -> None:
        self._send = send
        self._began = self._last = time.perf_counter()
        self._first = True
        self._streams = False
        self._tail = b""
        self.events = 0
        self.status = 0
        if version is None:
            self._signature = [(b"x-lorary-base", base.encode())]
            self._labels = ("", base, "")
        else:
            self._signature = [
                (b"x-lorary-adapter", str(version.ref).encode()),
                (b"x-lorary-digest", version.digest.encode()),
            ]
            self._labels = (version.domain, version.adapter, str(version.number))
        SERIES.touch(self._labels)

    async def send(self, message: Message) -> None:
        """Pass `message` on, the first with which version answers among its headers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ())]
            kind = dict(headers).get(b"content-type", b"")
            self._streams = kind.startswith(b"text/event-stream")
            REQUESTS.labels(*self._labels, str(self.status)).inc()
            message = {**message, "headers": [*headers, *self._signature]}
        elif message.get("body"):
            self._watch(message["body"])
        await self._send(message)

    @property
    def tokens(self) -> int:
        """How many tokens were made, as far as the answer tells."""
        if self._streams:
            return max(0, self.events - 1)  # the last event says [DONE]
        found = _COMPLETION.search(self._tail)
        return int(found[1]) if found else 0

    @property
    def prompt_tokens(self) -> int:
        """How many tokens the prompt had; 0 for a stream that does not tell."""
        found = _PROMPT.search(self._tail)
        return int(found[1]) if found else 0

    @property
    def seconds(self) -> float:
        """Since the request reached the engine."""
        return time.perf_counter() - self._began

    def end(self) -> None:
        """Count the tokens, once the answer is complete or broken off."""
        TOKENS.labels(*self._labels).inc(self.tokens)
        PROMPT_TOKENS.labels(*self._labels).inc(self.prompt_tokens)

    def _watch(self, piece: bytes) -> None:
        now = time.perf_counter()
        self._tail = (self._tail + piece)[-_TAIL:]
        if not self._streams:
            return
        self.events += piece.count(b"data: ")
        if self._first:
            FIRST_TOKEN.labels(*self._labels).observe(now - self._began)
            self._first = False
        else:
            INTER_TOKEN.labels(*self._labels).observe(now - self._last)
        self._last = now
