"""How sure each answer is, told with it; and answers that are not sure enough, withheld.

The engine is asked for the log-probabilities of what it says. From them and from the version's
calibration comes an estimated chance to be right (`adapters.confidence`). Each choice of the answer
carries it as `lorary`: `{"confidence", "calibrated", "threshold", "withheld"}`. Where the domain's
policy abstains, a choice below the threshold that the version's evaluation certified comes as a
refusal, and a stream is kept back until that is known. A version without a calibration is answered
for, with `calibrated` false: its score is a ranking and no promise, and nothing can be withheld.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from starlette.types import Message, Send

from adapters import confidence
from registry.catalog import Version
from registry.errors import BadRequest
from serving.telemetry.metrics import CONFIDENCE, WITHHELD

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
REFUSAL = "This model is not sure enough of its answer to give it. Ask an expert."


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms an answer is judged."""

    version: Version
    chat: bool
    abstains: bool
    shown: bool
    """Whether the caller asked for the log-probabilities, too."""


def terms(
    path: str, body: dict[str, Any], version: Version, *, wanted: bool, abstains: bool
) -> Terms | None:
    """How to judge the answer to `body`, which is changed to ask for log-probabilities.

    None if it need not be judged. Raises `BadRequest` for what cannot be.
    """
    if not (wanted or abstains):
        return None
    if path not in (CHAT, COMPLETIONS):
        raise BadRequest(f"{path} tells no confidence, which this needs. Use {CHAT}.")
    if body.get("echo"):
        raise BadRequest("`echo` mixes the prompt into the answer's confidence. Leave it out.")
    if path == CHAT:
        shown = bool(body.get("logprobs"))
        body["logprobs"] = True
    else:
        shown = body.get("logprobs") is not None
        body.setdefault("logprobs", 0)
    return Terms(version, path == CHAT, abstains, shown)


class Judge:
    """Stands between the engine's answer and the caller, for one answer.

    What it keeps back is bounded by the longest answer that the engine makes.
    """

    def __init__(self, send: Send, terms: Terms) -> None:
        self._send = send
        self._terms = terms
        self._keeps = terms.abstains and terms.version.calibration is not None
        self._start: Message | None = None
        self._streams = False
        self._waiting = b""
        self._frame: dict[str, Any] = {}
        self._kept: list[dict[str, Any]] = []
        self._logprobs: dict[int, list[float]] = {}

    async def send(self, message: Message) -> None:
        """Take the engine's next message; pass on what may be passed on by now."""
        if message["type"] == "http.response.start":
            kind = dict(message.get("headers", ())).get(b"content-type", b"")
            self._streams = kind.startswith(b"text/event-stream")
            if message["status"] != 200 or self._streams:
                await self._send(message)
            else:
                self._start = message
        elif self._streams:
            self._waiting += message.get("body", b"")
            body, more = b"".join(self._events()), message.get("more_body", False)
            if body or not more:
                await self._send({"type": "http.response.body", "body": body, "more_body": more})
        elif self._start is None:
            await self._send(message)
        else:
            self._waiting += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_whole(self._start)

    async def _send_whole(self, start: Message) -> None:
        answer = json.loads(self._waiting)
        for choice in answer.get("choices", ()):
            scores = _logprobs(choice, chat=self._terms.chat)
            verdict = self._verdict(scores)
            if verdict["withheld"]:
                _withhold(choice, chat=self._terms.chat)
            elif not self._terms.shown:
                choice["logprobs"] = None
            choice["lorary"] = verdict
        data = json.dumps(answer).encode()
        headers = [(name, v) for name, v in start["headers"] if name != b"content-length"]
        headers.append((b"content-length", str(len(data)).encode()))
        await self._send({**start, "headers": headers})
        await self._send({"type": "http.response.body", "body": data})

    def _events(self) -> Iterator[bytes]:
        """What to send of the events that are complete by now."""
        while b"\n\n" in self._waiting:
            event, _, self._waiting = self._waiting.partition(b"\n\n")
            data = event.removeprefix(b"data: ")
            if data == b"[DONE]":
                yield from map(_event, self._closing())
                yield event + b"\n\n"
                continue
            chunk = json.loads(data)
            if "choices" not in chunk:  # an error: whoever waits shall know
                yield _event(chunk)
                continue
            self._frame = {k: chunk[k] for k in ("id", "object", "created", "model") if k in chunk}
            for choice in chunk["choices"]:
                found = _logprobs(choice, chat=self._terms.chat)
                self._logprobs.setdefault(choice["index"], []).extend(found)
                if not self._terms.shown:
                    choice["logprobs"] = None
            if self._keeps:
                self._kept.append(chunk)
            else:
                yield _event(chunk)

    def _closing(self) -> list[dict[str, Any]]:
        """A stream's end: what was kept back and is not withheld, and the verdicts."""
        verdicts = {index: self._verdict(found) for index, found in self._logprobs.items()}
        chunks = []
        for chunk in self._kept:
            given = [c for c in chunk["choices"] if not verdicts[c["index"]]["withheld"]]
            if given or not chunk["choices"]:
                chunks.append({**chunk, "choices": given})
        last = []
        for index, verdict in verdicts.items():
            withheld = verdict["withheld"]
            said = {"delta": {"refusal": REFUSAL} if withheld else {}}
            choice = {"index": index, "finish_reason": "content_filter" if withheld else None}
            last.append(choice | (said if self._terms.chat else {"text": ""}) | {"lorary": verdict})
        return [*chunks, {**self._frame, "choices": last}]

    def _verdict(self, logprobs: list[float]) -> dict[str, Any]:
        version = self._terms.version
        calibration = version.calibration
        if not logprobs:
            sure, withheld = None, False
        else:
            sure = confidence.confidence(logprobs, calibration)
            withheld = self._terms.abstains and confidence.withheld(sure, calibration)
            CONFIDENCE.labels(version.domain, version.adapter, str(version.number)).observe(sure)
        if withheld:
            WITHHELD.labels(version.domain, version.adapter, str(version.number)).inc()
        return {
            "confidence": None if sure is None else round(sure, 6),
            "calibrated": calibration is not None,
            "threshold": calibration.threshold if calibration is not None else None,
            "withheld": withheld,
        }


def _logprobs(choice: dict[str, Any], *, chat: bool) -> list[float]:
    """The log-probabilities of a choice's tokens, in OpenAI's two forms."""
    found = choice.get("logprobs") or {}
    if chat:
        return [token["logprob"] for token in found.get("content") or ()]
    return [value for value in found.get("token_logprobs") or () if value is not None]


def _withhold(choice: dict[str, Any], *, chat: bool) -> None:
    """Leave nothing of a choice but that it was refused."""
    index = choice["index"]
    choice.clear()
    choice |= {"index": index, "logprobs": None, "finish_reason": "content_filter"}
    if chat:
        choice["message"] = {"role": "assistant", "content": None, "refusal": REFUSAL}
    else:
        choice["text"] = ""


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"
