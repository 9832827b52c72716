"""What an answer costs and how fast it comes, read as it passes by; nothing of it is kept.

Tokens are what vLLM reports as `usage`, and nothing else: at the top level of a whole answer or of
a stream's event, or in the `response` that an event of /v1/responses ends with. A stream is always
asked for its usage, with every event (`ask_for_usage`), so that it is known however the stream
ends; what its caller did not ask for is taken out again.
"""

import time
from collections.abc import Iterator
from typing import Any

import msgspec
from starlette.types import Message, Send

from registry.model.catalog import Version
from registry.model.evidence import Engine
from serving.telemetry.metrics import (
    FIRST_TOKEN,
    INTER_TOKEN,
    PROMPT_TOKENS,
    REQUESTS,
    SERIES,
    TOKENS,
)


class _Usage(msgspec.Struct):
    """Both of OpenAI's spellings."""

    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    input_tokens: int = 0
    output_tokens: int = 0


class _Choice(msgspec.Struct):
    index: int = 0


class _Whole(msgspec.Struct):
    """A whole answer, or the `response` of an event."""

    usage: _Usage | None = None


class _Event(msgspec.Struct):
    usage: _Usage | None = None
    choices: tuple[_Choice, ...] | None = None
    response: _Whole | None = None


_WHOLE = msgspec.json.Decoder(_Whole)
_EVENT = msgspec.json.Decoder(_Event)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Shown(msgspec.Struct, frozen=True):
    """What of a stream's usage its caller asked for."""

    last: bool = True
    """The event at the end that holds nothing else."""
    each: bool = True
    """In the events before."""


def ask_for_usage(body: dict[str, Any]) -> Shown:
    """Make a stream of /v1/chat/completions or /v1/completions report its usage with each event.

    Changes `body`; returns what its caller asked for. /v1/responses reports by itself, at the end.
    """
    options = body.get("stream_options")
    if not body.get("stream") or not isinstance(options, dict | None):
        return Shown()  # no stream, or one that vLLM refuses
    options = options or {}
    last = bool(options.get("include_usage"))
    shown = Shown(last, last and bool(options.get("continuous_usage_stats")))
    body["stream_options"] = {**options, "include_usage": True, "continuous_usage_stats": True}
    return shown


class Meter:
    """Watches one answer. Labels hold only names that the registry resolved."""

    def __init__(
        self,
        send: Send,
        version: Version | None,
        base: str,
        shown: Shown | None = None,
        n: int = 1,
        *,
        engine: Engine | None = None,
    ) -> None:
        """shown: what the caller asked for of a stream's usage. n: choices for each prompt.
        engine: whose fingerprint the answer carries."""
        self._send = send
        self._shown = shown or Shown()
        self._n = n
        self._began = self._last = time.perf_counter()
        self._first = True
        self._streams = False
        self._body = b""
        self._total: _Usage | None = None
        self._choices: dict[int, _Usage] = {}
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
        if engine is not None:
            self._signature.append((b"x-lorary-engine", engine.fingerprint.encode()))
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
        elif self._streams:
            more = message.get("more_body", False)
            body = b"".join(self._events(message.get("body", b""), more=more))
            if not body and more:
                return
            message = {**message, "body": body}
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                self._read_whole()
        await self._send(message)

    @property
    def reported(self) -> bool:
        """Whether vLLM has reported any usage."""
        return self._total is not None or bool(self._choices)

    @property
    def tokens(self) -> int:
        """How many tokens were made, as far as vLLM has reported."""
        if self._total is not None:
            return (self._total.completion_tokens or 0) + self._total.output_tokens
        return sum(usage.completion_tokens or 0 for usage in self._choices.values())

    @property
    def prompt_tokens(self) -> int:
        """How many tokens the prompts had, as far as vLLM has reported."""
        if self._total is not None:
            return self._total.prompt_tokens + self._total.input_tokens
        by_prompt = {index // self._n: usage for index, usage in self._choices.items()}
        return sum(usage.prompt_tokens for usage in by_prompt.values())

    @property
    def charge(self) -> int | None:
        """What the request is to be charged: nothing if it failed; None if nobody can say."""
        if self.reported:
            return self.tokens + self.prompt_tokens
        return 0 if self.status >= 400 else None

    @property
    def seconds(self) -> float:
        """Since the request reached the engine."""
        return time.perf_counter() - self._began

    def end(self) -> None:
        """Count the tokens, once the answer is complete or broken off."""
        TOKENS.labels(*self._labels).inc(self.tokens)
        PROMPT_TOKENS.labels(*self._labels).inc(self.prompt_tokens)

    def _read_whole(self) -> None:
        try:
            self._total = _WHOLE.decode(self._body).usage
        except msgspec.DecodeError:
            return  # no answer of a model

    def _events(self, piece: bytes, *, more: bool) -> Iterator[bytes]:
        """What to send of the events that are complete by now; at the end also what is not."""
        if piece:
            self._time()
        *events, self._body = (self._body + piece).split(b"\n\n")
        for event in events:
            passed = self._read_event(event)
            if passed is not None:
                yield passed + b"\n\n"
        if not more:
            yield self._body
            self._body = b""

    def _read_event(self, event: bytes) -> bytes | None:
        """Note the usage that an event reports; the event as its caller wants it."""
        before, found, data = event.partition(b"data: ")
        if not found or b'"usage"' not in data:
            return event
        try:
            read = _EVENT.decode(data)
        except msgspec.DecodeError:
            return event
        if read.response is not None:
            self._total = read.response.usage or self._total
            return event
        if read.usage is None:
            return event
        if not read.choices:
            self._total = read.usage
            return event if self._shown.last else None
        self._choices.update((choice.index, read.usage) for choice in read.choices)
        if self._shown.each:
            return event
        fields = _FIELDS.decode(data)
        del fields["usage"]
        return before + found + msgspec.json.encode(fields)

    def _time(self) -> None:
        now = time.perf_counter()
        if self._first:
            FIRST_TOKEN.labels(*self._labels).observe(now - self._began)
            self._first = False
        else:
            INTER_TOKEN.labels(*self._labels).observe(now - self._last)
        self._last = now
