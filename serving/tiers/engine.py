"""The engine's own routes for adapters, called inside the process.

vLLM loads and unloads adapters by name through two of its HTTP routes. The gate keeps them closed
to everybody; here they are called as ASGI, without a socket. So a cold load happens when we choose,
and fails with vLLM's own reason; and names that nobody needs are given back.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message

from serving.errors import EngineRefused

LOAD = "/v1/load_lora_adapter"
UNLOAD = "/v1/unload_lora_adapter"


class Engine:
    """Which pinned names vLLM holds, as far as we told it."""

    def __init__(self, app: ASGIApp, application: Any = None) -> None:
        """app: the layer below the gate. application: what Starlette puts into each scope."""
        self._app = app
        self._application = application
        self._one_load = asyncio.Semaphore(1)

    async def load(self, name: str, path: Path) -> None:
        """Let vLLM read the adapter at `path` as `name`; one at a time, so that decoding goes on.

        A name that it holds already is fine. Raises `EngineRefused` with vLLM's reason.
        """
        async with self._one_load:
            status, text = await self._post(LOAD, {"lora_name": name, "lora_path": str(path)})
        if status != 200 and "already been loaded" not in text:
            raise EngineRefused(f"The engine cannot load {name}: {_reason(text)} Ask its owner.")

    async def unload(self, name: str) -> None:
        """Let vLLM forget `name`; one that it does not hold is fine."""
        await self._post(UNLOAD, {"lora_name": name})

    async def _post(self, path: str, body: dict[str, str]) -> tuple[int, str]:
        data = json.dumps(body).encode()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(data)).encode()),
            ],
            "client": ("127.0.0.1", 0),
            "server": ("127.0.0.1", 0),
            "state": {},
            "app": self._application,
        }
        handed_out = False
        status, pieces = 0, list[bytes]()

        async def receive() -> Message:
            nonlocal handed_out
            if handed_out:
                await asyncio.sleep(3600)
            handed_out = True
            return {"type": "http.request", "body": data, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            pieces.append(message.get("body", b""))

        await self._app(scope, receive, send)
        return status, b"".join(pieces).decode(errors="replace")


def _reason(text: str) -> str:
    """vLLM's own words, without what is private to this machine."""
    try:
        parsed: Any = json.loads(text)
        message = str(parsed["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = "it did not say why."
    return message.partition("\n")[0][:300]
