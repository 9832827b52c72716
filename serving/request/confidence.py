"""The confidence of each answer, added to it; and answers below the threshold, withheld.

The engine is asked for the log-probabilities of what it says. From them and from the version's
calibration comes an estimated chance to be right (`adapters.confidence`). Each choice of the answer
carries it as `lorary`: `{"confidence", "calibrated", "threshold", "withheld"}`. Where the domain's
policy abstains, a choice below the threshold that the version's evaluation certified comes as a
refusal, and a stream is kept back until that is known. A version without a calibration is answered
for, with `calibrated` false: its score is a ranking and no promise, and nothing can be withheld.

A calibration counts while its evaluator's key does, as for the promotion gate. It holds for the
engine that it was evaluated on (`registry.model.evidence.Engine`) and for the settings that it was
fitted with (`adapters.confidence.Decoding`). A
grammar, a prefilled answer or a few allowed tokens would make any answer look certain. So what a
request leaves open is set as certified, and what it sets otherwise makes its figure uncalibrated,
with the reason beside it; a domain that abstains refuses it, for its threshold says nothing there.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adapters import confidence
from adapters.confidence import Calibration, Decoding
from registry.errors import BadRequest
from registry.model.catalog import Key, Version
from registry.model.evidence import Engine
from registry.model.recorded import Calibrated
from registry.model.standing import calibrated, calibration_withdrawn
from serving.request.routes import CHAT, COMPLETIONS
from serving.telemetry.metrics import CONFIDENCE, WITHHELD

REFUSAL = "The confidence of this answer is too low to give it. Ask an expert."
UNCALIBRATED = "The version has no calibration."


ASKED_ANY = frozenset(
    ("model", "messages", "stream", "stream_options", "logprobs", "top_logprobs", "user",
     "metadata", "store", "service_tier", "safety_identifier")
)  # fmt: skip
"""Fields that do not shape an answer."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "top_p": (1,), "presence_penalty": (0,), "frequency_penalty": (0,),
    "response_format": ({"type": "text"},),
}  # fmt: skip
"""Fields that do not shape a greedy answer if they have these values."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms an answer is judged."""

    version: Version
    chat: bool
    abstains: bool
    shown: bool
    """Whether the caller asked for the log-probabilities, too."""
    calibration: Calibration | None = None
    """What holds for the request."""
    uncertified: str = UNCALIBRATED
    """Why none holds."""


def terms(
    path: str,
    body: dict[str, Any],
    version: Version,
    *,
    wanted: bool,
    abstains: bool,
    keys: Mapping[str, Key],
    engine: Engine | None,
    controls: Collection[str] = (),
) -> Terms | None:
    """How to judge the answer to `body`, which is changed to ask for log-probabilities, and for the
    certified settings where it names none of its own.

    None if it need not be judged. keys: the registry's, which decide what calibration counts.
    engine: what this server runs. controls: the base model's control tokens. Raises `BadRequest`
    for what cannot be judged, and where the domain abstains for a request that the version's
    calibration does not hold for.
    """
    if not (wanted or abstains):
        return None
    if path not in (CHAT, COMPLETIONS):
        raise BadRequest(f"{path} returns no confidence, which this needs. Use {CHAT}.")
    if body.get("echo"):
        raise BadRequest("`echo` mixes the prompt into the answer's confidence. Leave it out.")
    held, uncertified = None, UNCALIBRATED
    found = calibrated(keys, version)
    if found is not None or calibration_withdrawn(keys, version):
        fault = elsewhere(found, engine)
        asked = found and mismatch(path, body, found.calibration.decoding, controls)
        if found is not None and not (fault or asked):
            held = found.calibration
            body["temperature"] = held.decoding.temperature
            body["stop"] = list(held.decoding.stop)
        elif abstains:
            advice = "" if fault else " Settings that you leave out are set as certified."
            raise BadRequest(
                f"{version.domain} answers only as its threshold was certified: "
                f"{fault or asked}{advice}"
            )
        uncertified = fault or asked or uncertified
    if path == CHAT:
        shown = bool(body.get("logprobs"))
        body["logprobs"] = True
    else:
        shown = body.get("logprobs") is not None
        body.setdefault("logprobs", 0)
    return Terms(version, path == CHAT, abstains, shown, held, uncertified)


def elsewhere(found: Calibrated | None, engine: Engine | None) -> str | None:
    """Why a version's calibration does not hold on this server, which runs `engine`; None if it
    does.

    found: the calibration that counts; None if those that did were withdrawn with their evaluators'
    keys. An evaluation of an earlier release, which does not say what answered, holds nowhere: its
    engine may have been any.
    """
    again = "An evaluator must evaluate the version again on this server."
    if found is None:
        return f"the key of the calibration's evaluator was revoked. {again}"
    if found.engine is None:
        return f"the calibration's evaluation does not say which engine answered. {again}"
    if engine is None:
        return "this server does not say which engine it runs. Ask its operator."
    if names := found.engine.differences(engine):
        return f"the calibration was evaluated on another engine ({', '.join(names)}). {again}"
    return None


def mismatch(
    path: str, body: dict[str, Any], certified: Decoding, controls: Collection[str] = ()
) -> str | None:
    """What of a request differs from the settings that a calibration holds for, and what to send
    instead; None if nothing does.

    Whatever is not known to leave an answer as it was certified counts as a difference.
    """
    if path != CHAT:
        return f"use {CHAT}."
    given = {name: value for name, value in body.items() if value is not None}
    for name, value in given.items():
        if name in NEUTRAL and value not in NEUTRAL[name]:
            return f"`{name}` must be {json.dumps(NEUTRAL[name][0])}."
        if name not in ASKED_ANY and name not in NEUTRAL and name not in _CERTIFIED:
            return f"leave out `{name}`."
    if given.get("temperature", certified.temperature) != certified.temperature:
        return f"`temperature` must be {certified.temperature:g}."
    for name in ("max_tokens", "max_completion_tokens"):
        most = given.get(name, certified.max_tokens)
        if type(most) is not int or most < certified.max_tokens:
            return f"`{name}` must be {certified.max_tokens} or more."
    stop = given.get("stop", list(certified.stop))
    if (stop if isinstance(stop, list) else [stop]) != list(certified.stop):
        return f"`stop` must be {json.dumps(certified.stop)}."
    messages = given.get("messages")
    if not isinstance(messages, list) or not all(_is_plain(message) for message in messages):
        return "each message must have a `role` and a text as `content`, and nothing else."
    if tuple(message["role"] for message in messages) != certified.messages:
        return f"the messages' roles must be {json.dumps(certified.messages)}."
    texts = [_text(message["content"]) or "" for message in messages]
    if any(token in text for text in texts for token in controls):
        return "messages must not contain the base model's control tokens."
    return None


_CERTIFIED = frozenset(("temperature", "max_tokens", "max_completion_tokens", "stop"))


def _is_plain(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and message.keys() == {"role", "content"}
        and isinstance(message["role"], str)
        and _text(message["content"]) is not None
    )


def _text(content: Any) -> str | None:
    """The text of a message's content; None unless it is one text. vLLM reads a text as a list of
    this one part."""
    match content:
        case str(text):
            return text
        case [{"type": "text", "text": str(text), **others}] if not others:
            return text
    return None


class Judge:
    """Tells the confidence of one answer, and withholds what is below the threshold.

    What it keeps back is bounded by the longest answer that the engine makes.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._calibration = terms.calibration
        self._keeps = terms.abstains and self._calibration is not None
        self._frame: dict[str, Any] = {}
        self._kept: list[dict[str, Any]] = []
        self._logprobs: dict[int, list[float]] = {}

    def whole(self, data: bytes) -> bytes:
        """A whole answer as its caller gets it."""
        answer = json.loads(data)
        for choice in answer.get("choices", ()):
            scores = _logprobs(choice, chat=self._terms.chat)
            verdict = self._verdict(scores)
            if verdict["withheld"]:
                _withhold(choice, chat=self._terms.chat)
            elif not self._terms.shown:
                choice["logprobs"] = None
            choice["lorary"] = verdict
        return json.dumps(answer).encode()

    def event(self, event: bytes) -> Iterator[bytes]:
        """What to send once a stream's next event, given without its blank line, is known."""
        data = event.removeprefix(b"data: ")
        if data == b"[DONE]":
            yield from map(_event, self._closing())
            yield event + b"\n\n"
            return
        chunk = json.loads(data)
        if "choices" not in chunk:  # an error: whoever waits shall know
            yield _event(chunk)
            return
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
        version, calibration = self._terms.version, self._calibration
        reason = self._terms.uncertified
        if calibration is not None and len(logprobs) > calibration.decoding.max_tokens:
            calibration = None
            reason = "The answer is longer than any that was certified."
        # In a domain that abstains nothing is given that the threshold says nothing about.
        withheld = self._keeps and (calibration is None or not logprobs)
        sure = None
        if logprobs:
            sure = confidence.confidence(logprobs, calibration)
            withheld |= self._terms.abstains and confidence.withheld(sure, calibration)
            CONFIDENCE.labels(version.domain, version.adapter, str(version.number)).observe(sure)
        if withheld:
            WITHHELD.labels(version.domain, version.adapter, str(version.number)).inc()
        verdict = {
            "confidence": None if sure is None else round(sure, 6),
            "calibrated": calibration is not None,
            "threshold": calibration.threshold if calibration is not None else None,
            "withheld": withheld,
        }
        return verdict if calibration is not None else verdict | {"reason": reason}


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
