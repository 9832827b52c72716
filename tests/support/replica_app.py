"""The gate in a server of its own, around an application that answers at once.

    uvicorn tests.support.replica_app:app

For tests of what several replicas do together, where what answers does not matter. It names its
answers as vLLM does, and fails for the version that FAILING_MODEL names.
"""

import asyncio
import json
import os

from starlette.types import Receive, Scope, Send

from serving.gate import Gate
from serving.replica import current
from serving.telemetry import access_log
from tests.support.vllm_engine import VllmEngine

ANSWER = {
    "object": "chat.completion",
    "created": 0,
    "model": "any",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Yes."}}
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}


async def engine(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers every request; a prompt that is a number waits so many seconds first."""
    if scope["type"] == "lifespan":
        vllm = VllmEngine()
        current().attach(vllm.driven(), vllm.tried(), vllm.places, on_cpu=False)
        for state in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{state}.complete"})
        return
    message = await receive()
    status, answer = 200, dict[str, object](ANSWER)
    if scope["path"] == "/v1/chat/completions":
        body = json.loads(message["body"])
        status = 500 if body["model"] == os.environ.get("FAILING_MODEL") else 200
        answer["id"] = f"chatcmpl-{dict(scope['headers'])[b'x-request-id'].decode()}"
        prompt = body["messages"][0]["content"]
        if prompt.isdigit():
            await asyncio.sleep(int(prompt))
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


access_log.install()
app = Gate(engine)
