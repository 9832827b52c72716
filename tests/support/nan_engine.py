"""Answers from an engine whose KV cache can be poisoned: the application behind the gate in tests.

A request takes a block of the cache for as long as it runs. With NaN in it the answer is empty, as
token 0 ends it, and 200, as vLLM answers it; the statistics say what happened.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Scope, Send

from serving.telemetry.verdicts import VERDICTS
from tests.support.vllm_engine import VllmEngine


@dataclass
class NanEngine:
    """Chat completions, whole and streamed."""

    engine: VllmEngine
    nan_in_traffic: set[str] = field(default_factory=set)
    """Adapters that overflow with callers' prompts, though not with the test prompt."""
    asked: list[str] = field(default_factory=list)
    aborting: bool = False
    """Whether the engine ends every request by itself."""
    during: Callable[[], Any] = lambda: asyncio.sleep(0)
    """What happens between an answer's first piece and its end."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = json.loads((await receive())["body"])
        name = body["model"]
        self.asked.append(name)
        block, nan = self.engine.cache.take(
            nan=name in self.engine.overflowing or name in self.nan_in_traffic
        )
        try:
            await self._answer(name, nan, bool(body.get("stream")), scope, send)
        finally:
            self.engine.cache.give_back(block)

    async def _answer(self, name: str, nan: bool, stream: bool, scope: Scope, send: Send) -> None:
        request_id = dict(scope["headers"])[b"x-request-id"].decode()
        text = "" if nan or self.aborting else f"answer of {name}"
        kind = b"text/event-stream" if stream else b"application/json"
        start = {"type": "http.response.start", "status": 200}
        headers = [(b"content-type", kind)]
        if not stream:
            await self.during()
            VERDICTS.note(f"chatcmpl-{request_id}", corrupted=nan, aborted=self.aborting)
            await send({**start, "headers": headers})
            choice = {"index": 0, "finish_reason": "stop", "message": {"content": text}}
            await send(_piece(json.dumps({"choices": [choice]}), more=False))
            return
        await send({**start, "headers": headers})
        event = {"choices": [{"index": 0, "delta": {"content": text}}]}
        await send(_piece(f"data: {json.dumps(event)}\n\n", more=True))
        await self.during()
        VERDICTS.note(f"chatcmpl-{request_id}", corrupted=nan, aborted=self.aborting)
        await send(_piece("data: [DONE]\n\n", more=True))
        await send(_piece("", more=False))


def _piece(text: str, *, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": text.encode(), "more_body": more}
