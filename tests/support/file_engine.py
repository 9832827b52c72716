"""An engine that reads adapters' files as vLLM does, and answers with what it read.

    uvicorn tests.support.file_engine:app

Behind the real gate: loads and unloads by name, whole and streamed answers, metrics, and SIGTERM.
Its answer for a name is the SHA-256 of the weights it read when it was told to load that name, so
that an answer shows which bytes gave it. It starts in a second and costs nothing to run.
"""

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import prometheus_client
from starlette.types import Message, Receive, Scope, Send

from serving.gate import Gate
from serving.replica import current
from serving.tiers.engine import Engine
from serving.tiers.recovery import Probe, Recovery
from serving.tiers.trial import Trials
from tests.support.vllm_engine import LoRARequest, VllmEngine

PIECES = 4
PAUSE = 0.03

loaded: dict[str, str] = {}
"""What the engine holds: by name, the digest of the weights."""


class FileClient:
    """vLLM's engine client, as far as adapters go."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    async def add_lora(self, lora_request: LoRARequest) -> bool:
        """Read the weights of an adapter."""
        name = lora_request.lora_name
        loaded[name] = await asyncio.to_thread(_read, Path(lora_request.lora_path))
        self._names[lora_request.lora_int_id] = name
        return True

    async def remove_lora(self, lora_id: int) -> bool:
        """Forget an adapter."""
        return loaded.pop(self._names.pop(lora_id), None) is not None

    async def list_loras(self) -> set[int]:
        """The ids of the adapters that were read and not forgotten."""
        return set(self._names)

    async def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        """There is one rank only."""
        raise AssertionError(method)


async def engine(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer the routes that the gate passes on."""
    if scope["type"] == "lifespan":
        names: dict[str, LoRARequest] = {}
        driven = Engine(FileClient(), names, LoRARequest)
        current().attach(
            driven, Trials(Recovery(VllmEngine(), Probe(None), print), names), 64, False
        )
        for state in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{state}.complete"})
        return
    path = scope["path"]
    if path == "/metrics":
        await _answer(send, 200, prometheus_client.generate_latest(), b"text/plain")
    elif path == "/health":
        replica = current()
        ok = replica.warming.ready and not replica.shutdown.announced
        await _answer(send, 200 if ok else 503, b"{}")
    else:
        await _generate(json.loads((await receive())["body"]), receive, send)


async def _generate(body: dict[str, Any], receive: Receive, send: Send) -> None:
    said = loaded.get(body["model"], "base")
    pieces = [said[i : i + len(said) // PIECES] for i in range(0, len(said), len(said) // PIECES)]
    choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "text": said}
    if not body.get("stream"):
        await asyncio.sleep(PAUSE * PIECES)
        choice["message"] = {"role": "assistant", "content": said}
        usage = {"prompt_tokens": 1, "completion_tokens": PIECES, "total_tokens": PIECES + 1}
        whole = {"id": "1", "model": body["model"], "choices": [choice], "usage": usage}
        await _answer(send, 200, json.dumps(whole).encode())
        return
    left = asyncio.ensure_future(receive())
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for piece in pieces:
        if left.done():
            return
        await asyncio.sleep(PAUSE)
        choice = {"index": 0, "text": piece, "delta": {"content": piece}}
        event = json.dumps({"id": "1", "model": body["model"], "choices": [choice]})
        await send(_piece(f"data: {event}\n\n".encode(), more=True))
    await send(_piece(b"data: [DONE]\n\n", more=False))
    left.cancel()


def _read(folder: Path) -> str:
    with (folder / "adapter_model.safetensors").open("rb") as weights:
        return hashlib.file_digest(weights, "sha256").hexdigest()


async def _answer(send: Send, status: int, data: bytes, kind: bytes = b"application/json") -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send(_piece(data, more=False))


def _piece(data: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


app = Gate(engine)
