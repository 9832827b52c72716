"""A served model, asked through the OpenAI API like by any app.

Every answer is written down at once, so that a run that was cut short goes on where it stopped,
and a run that ended costs nothing the second time.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai

from adapters.confidence import EVALUATED, raw_score
from eval.errors import EngineUnknown, EvaluationFailed, NotServed, WrongBytes
from registry.model.evidence import Engine
from registry.times import utc_now

DIGEST_HEADER = "x-lorary-digest"
ENGINE_HEADER = "x-lorary-engine"
EVALUATES = {"x-lorary-evaluate": "true"}
"""Asks for answers that the domain would withhold; it takes the role evaluate."""
RETRIES = 8
"""A busy server says when to come again, and the client comes."""


class Generated(msgspec.Struct, frozen=True, array_like=True):
    """One answer, its raw score (`adapters.confidence`) and when it was given."""

    text: str
    score: float
    time: str


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked, and how the answer is generated: what an answer is kept by."""

    messages: tuple[tuple[str, str], ...]
    """Role and content of each; the last is the user's."""
    max_tokens: int
    stop: tuple[str, ...]
    temperature: float = EVALUATED.temperature

    @property
    def key(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


@dataclass(frozen=True, slots=True)
class Model:
    """What is asked: the name to request, and the digest of the bytes that must answer."""

    name: str
    digest: str
    is_base: bool = False


def engine_of(url: str, key: str, base: str) -> Engine:
    """What the server at `url` runs for the base model, as it says.

    Raises `EngineUnknown` if it does not say, `NotServed` if it has no such model, and
    `EvaluationFailed` if it does not answer.
    """
    try:
        asking = {"Authorization": f"Bearer {key or 'none'}"}
        reply = httpx.get(f"{url.rstrip('/')}/models/{base}", headers=asking, timeout=60)
        if reply.status_code == 404:
            raise NotServed(f"{url} does not serve {base}. Name a server that does: --url")
        told = reply.raise_for_status().json()
    except (httpx.HTTPError, ValueError) as error:
        raise EvaluationFailed(f"{url}: {error}. Check the server, --url and the key.") from error
    try:
        return msgspec.convert(told["engine"], Engine)
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise EngineUnknown(
            f"{url} does not say which engine serves {base}, so its answers prove nothing. Ask a "
            "server of this release: lorary serve"
        ) from error


class Answers:
    """The answers that one model gave so far, in a file of JSON lines that only grows.

    fresh: forget those of earlier runs.
    """

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self._path = path
        if fresh:
            path.unlink(missing_ok=True)
        self._known: dict[str, Any] = {}
        self._torn = False
        """Whether the file ends inside a line, as it does when a run died while writing."""
        if path.exists():
            data = path.read_bytes()
            self._torn = bool(data) and not data.endswith(b"\n")
            for line in data.splitlines():
                # A line that was cut off when a run died is asked again.
                try:
                    key, answer = msgspec.json.decode(line)
                except (msgspec.DecodeError, ValueError):
                    continue
                self._known[key] = answer

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> Any:
        """The answer under `key`, or None."""
        return self._known.get(key)

    def add(self, key: str, answer: Any) -> None:
        """Keep an answer, on disk before in memory."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(b"\n" * self._torn + msgspec.json.encode((key, answer)) + b"\n")
        self._torn = False
        self._known[key] = answer


class Asking:
    """One model behind the API. It keeps the raw score of each answer beside its text."""

    def __init__(
        self,
        url: str,
        key: str,
        model: Model,
        answers: Answers,
        *,
        engine: str = "",
        concurrency: int = 16,
        asked: Callable[[], None] = lambda: None,
    ) -> None:
        """engine: the fingerprint of the only engine that may answer; "" for any."""
        self._engine = engine
        self._url, self._key = url, key
        self.model = model
        self._answers = answers
        self._concurrency = concurrency
        self._asked = asked

    def all(self, requests: Sequence[Request]) -> list[Generated]:
        """The answers in the order of the requests; those that are kept are not asked for again.

        Raises `EngineUnknown`, `EvaluationFailed` or `WrongBytes`.
        """
        return asyncio.run(self._gather(requests))

    def given(self, request: Request) -> Generated:
        """An answer that was given."""
        return msgspec.convert(self._answers.get(request.key), Generated)

    async def _gather(self, requests: Sequence[Request]) -> list[Generated]:
        limit = asyncio.Semaphore(self._concurrency)
        client = openai.AsyncOpenAI(
            base_url=self._url,
            api_key=self._key or "none",
            timeout=600,
            max_retries=RETRIES,
            default_headers={} if self.model.is_base else EVALUATES,
        )

        async def one(request: Request) -> Generated:
            async with limit:
                answer = await self._answer(client, request)
            self._asked()
            return answer

        try:
            async with client, asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(request)) for request in requests]
        except* openai.OpenAIError as errors:
            first = errors.exceptions[0]
            raise EvaluationFailed(
                f"{self._url} as {self.model.name}: {first}. What was answered is kept: check the "
                "server and the key, then run the command again."
            ) from first
        except* (WrongBytes, EngineUnknown, EvaluationFailed) as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _answer(self, client: openai.AsyncOpenAI, request: Request) -> Generated:
        key = request.key
        known = self._answers.get(key)
        if known is not None:
            return msgspec.convert(known, Generated)
        reply = await client.chat.completions.with_raw_response.create(
            model=self.model.name,
            messages=[{"role": role, "content": text} for role, text in request.messages],  # type: ignore[misc]
            temperature=request.temperature,
            max_completion_tokens=request.max_tokens,
            stop=list(request.stop) or None,
            logprobs=True,
        )
        check_answer(self.model, self._url, self._engine, reply.headers)
        choice = reply.parse().choices[0]
        listed = choice.logprobs.content if choice.logprobs else None
        tokens = [token.logprob for token in listed or ()]
        text = choice.message.content or ""
        answer = Generated(text, raw_score(tokens) if tokens else 0.0, utc_now())
        self._answers.add(key, answer)
        return answer


def check_answer(model: Model, url: str, engine: str, headers: Mapping[str, str]) -> None:
    """Raise `WrongBytes` or `EngineUnknown` if others than those to be judged answered.

    engine: the fingerprint of the only engine that may answer; "" for any. headers: the answer's.
    """
    served = headers.get(DIGEST_HEADER)
    if not model.is_base and served != model.digest:
        raise WrongBytes(
            f"{url} answered for {model.name} with the bytes {(served or 'unknown')[:12]}, not "
            f"{model.digest[:12]}. Ask the server of the registry that holds this version."
        )
    answering = headers.get(ENGINE_HEADER)
    if engine and answering != engine:
        raise EngineUnknown(
            f"{url} answered by engine {(answering or 'unknown')[:12]}, not by {engine[:12]}, "
            "which it says it runs. Ask one replica, or replicas that are started alike; if it was "
            "started anew, run the command again."
        )
