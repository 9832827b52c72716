"""The text of one answer, read once it is complete: whole or streamed, of any route with texts.

A `Recording` keeps an answer's messages as they pass, for the few requests whose answers are
compared. Nothing of it outlives the comparison.
"""

from typing import Any

import msgspec
from starlette.types import Message

from serving.request.answers import is_stream
from serving.request.usage import Tokens

MAX_BYTES = 256 << 10
"""An answer above this is not read."""


class Answer(msgspec.Struct, frozen=True):
    """What one version answered."""

    text: str
    tokens: int
    """As vLLM reports them; 0 if it did not."""
    prompt_tokens: int


class _Said(msgspec.Struct):
    """A chat's message, or what one event adds to it."""

    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Said | None = None
    delta: _Said | None = None
    text: str = ""


class _Part(msgspec.Struct):
    type: str = ""
    text: str = ""


class _Item(msgspec.Struct):
    """A part of a response: only messages are its answer."""

    type: str = ""
    content: tuple[_Part, ...] | None = None


class _Body(msgspec.Struct):
    """A whole answer, or one event of a stream."""

    choices: tuple[_Choice, ...] = ()
    output: tuple[_Item, ...] = ()
    usage: Tokens | None = None
    response: "_Body | None" = None
    error: Any = None


_DECODER: msgspec.json.Decoder[_Body] = msgspec.json.Decoder(_Body)


class Recording:
    """One answer's messages, up to `MAX_BYTES`."""

    def __init__(self) -> None:
        self.status = 0
        """The answer's HTTP status; 0 if there was none."""
        self.complete = False
        """Whether its last message was seen."""
        self._streams = False
        self._pieces: list[bytes] = []
        self._size = 0

    def see(self, message: Message) -> None:
        """A message of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._streams = is_stream(message)
            return
        if piece := message.get("body", b""):
            self._size += len(piece)
            if self._size <= MAX_BYTES:
                self._pieces.append(piece)
        self.complete = not message.get("more_body", False)

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return min(self._size, MAX_BYTES)

    def read(self) -> Answer | None:
        """The answer; None for an error, and for what is too long or has no text."""
        if self.status != 200 or self._size > MAX_BYTES:
            return None
        data = b"".join(self._pieces)
        try:
            bodies = [
                _DECODER.decode(part) for part in (_events(data) if self._streams else [data])
            ]
        except msgspec.DecodeError:
            return None
        bodies += [body.response for body in bodies if body.response is not None]
        if not any(body.choices or body.output for body in bodies) or any(
            body.error is not None for body in bodies
        ):
            return None
        used = next((body.usage for body in reversed(bodies) if body.usage is not None), Tokens())
        return Answer("".join(map(_text, bodies)), used.made, used.prompt)


def _events(data: bytes) -> list[bytes]:
    """The JSON of a stream's events."""
    found = (event.partition(b"data: ")[2].strip() for event in data.split(b"\n\n"))
    return [event for event in found if event.startswith(b"{")]


def _text(body: _Body) -> str:
    said = ((choice.message or choice.delta) for choice in body.choices)
    chat = "".join(one.content or "" for one in said if one is not None)
    completion = "".join(choice.text for choice in body.choices)
    parts = (part for item in body.output if item.type == "message" for part in item.content or ())
    return chat + completion + "".join(part.text for part in parts if part.type == "output_text")
