"""What an answer costs, as vLLM reports it in its `usage`, and what of that its caller sees.

`usage` stands at the top level of a whole answer or of a stream's event (in /v1/messages, of the
last but one), or in the `response` that an event of /v1/responses ends with. A stream of any other
route is always asked for its usage, with every event (`ask_for_usage`), so that it is known however
the stream ends; what its caller did not ask for is taken out again.
"""

from typing import Any

import msgspec


class Tokens(msgspec.Struct):
    """Both of OpenAI's spellings, and Anthropic's, which counts apart what a cache held."""

    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int | None = 0
    cache_creation_input_tokens: int | None = 0

    @property
    def made(self) -> int:
        """Tokens of the answers."""
        return (self.completion_tokens or 0) + self.output_tokens

    @property
    def prompt(self) -> int:
        """Tokens of the prompts, wherever they were found."""
        cached = (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)
        return self.prompt_tokens + self.input_tokens + cached


class _Choice(msgspec.Struct):
    index: int = 0


class _Whole(msgspec.Struct):
    """A whole answer, or the `response` of an event."""

    usage: Tokens | None = None


class _Event(msgspec.Struct):
    usage: Tokens | None = None
    choices: tuple[_Choice, ...] | None = None
    response: _Whole | None = None


_USAGE = msgspec.json.Decoder(Tokens)
_WHOLE = msgspec.json.Decoder(_Whole)
_EVENT = msgspec.json.Decoder(_Event)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_MEMBER = b',"usage":'
"""Quotation marks inside a JSON string are escaped, so these bytes are always a member's name."""


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


class Usage:
    """The usage of one answer, as far as vLLM has reported it."""

    def __init__(self, shown: Shown | None = None, *, n: int = 1, sequences: int = 1) -> None:
        """shown: what the caller asked for of a stream's usage. n: choices for each prompt.
        sequences: prompts times choices."""
        self._shown = shown or Shown()
        self._n = n
        self._one = sequences == 1
        self._total: Tokens | None = None
        self._choices: dict[int, Tokens] = {}

    @property
    def reported(self) -> bool:
        """Whether vLLM has reported any usage."""
        return self._total is not None or bool(self._choices)

    @property
    def tokens(self) -> int:
        """How many tokens were made."""
        if self._total is not None:
            return self._total.made
        return sum(usage.made for usage in self._choices.values())

    @property
    def prompt_tokens(self) -> int:
        """How many tokens the prompts had."""
        if self._total is not None:
            return self._total.prompt
        by_prompt = {index // self._n: usage for index, usage in self._choices.items()}
        return sum(usage.prompt for usage in by_prompt.values())

    def read_whole(self, data: bytes) -> None:
        """Note what a whole answer reports."""
        try:
            self._total = _WHOLE.decode(data).usage
        except msgspec.DecodeError:
            return  # no answer of a model

    def read_event(self, event: bytes) -> bytes | None:
        """Note what a stream's event reports; the event as its caller wants it, or None."""
        at = event.rfind(_MEMBER)
        if at < 0:
            return event if b'"usage"' not in event else self._read_other(event)
        if not self._one or b'"choices":[{' not in event:
            return self._read_other(event)
        try:
            # The last member of the event's object, where vLLM writes it; anything else fails here.
            self._choices[0] = _USAGE.decode(event[at + len(_MEMBER) : -1])
        except msgspec.DecodeError:
            return self._read_other(event)
        return event if self._shown.each else event[:at] + b"}"

    def _read_other(self, event: bytes) -> bytes | None:
        before, found, data = event.partition(b"data: ")
        if not found:
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
