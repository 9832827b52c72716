"""What the gateway costs of a CPU for one streamed answer, beside the same answer without it.

    python -m benchmarks.relay              # or: --rounds 20 --tokens 256 --profile

Both sides run in this process, in turn, without HTTP and without an engine: an ASGI application
sends the events that vLLM would, and a caller takes them. So the difference is the gateway alone:
its authentication, limits, resolution and, for each event, its relay.
"""

import argparse
import cProfile
import gc
import json
import pstats
import tempfile
import time
from pathlib import Path

import uvloop
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from benchmarks.load import spread
from serving.gate import Gate
from serving.telemetry.verdicts import VERDICTS
from tests.support.asking import CHAT, scope_of, whole
from tests.support.replicas import make_site


def main() -> None:
    """Run both sides and print what the gateway adds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=12, help="paired rounds")
    parser.add_argument("--requests", type=int, default=200, help="requests in a round, per side")
    parser.add_argument("--tokens", type=int, default=64, help="events of an answer")
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        site = make_site(Path(folder))
        engine = Streaming(options.tokens)
        sides: dict[str, ASGIApp] = {"bare": engine, "gateway": Gate(engine, site.replica)}
        body = {"model": "medical/coder@1", "messages": [{"role": "user", "content": "What now?"}],
                "stream": True, "max_tokens": options.tokens}  # fmt: skip
        data = json.dumps(body).encode()

        async def run(app: ASGIApp) -> float:
            """CPU milliseconds for each request."""
            began = time.process_time()
            for _ in range(options.requests):
                await app(scope_of("POST", CHAT, site.medical), whole(data), _take)
            return float(1000 * (time.process_time() - began) / options.requests)

        async def work() -> dict[str, list[float]]:
            for app in sides.values():
                await run(app)  # the adapter is loaded, caches are filled
            gc.collect()
            gc.freeze()  # as vLLM does once it has started
            found: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(options.rounds):
                for name, app in sides.items():
                    found[name].append(await run(app))
            if options.profile:
                profile = cProfile.Profile()
                profile.enable()
                await run(sides["gateway"])
                profile.disable()
                pstats.Stats(profile).sort_stats("tottime").print_stats(35)
            return found

        found = uvloop.run(work())  # vLLM's loop
        site.registry.close()
    added = [g - b for b, g in zip(found["bare"], found["gateway"], strict=True)]
    print(f"CPU of one answer in {options.tokens} events, ms; median [min .. max]")
    print(f"  without the gateway   {spread(found['bare'], '.3f')}")
    print(f"  through the gateway   {spread(found['gateway'], '.3f')}")
    print(f"  added                 {spread(added, '.3f')}")


class Streaming:
    """Stands where vLLM would: sends the events of a chat answer, with usage where asked."""

    def __init__(self, tokens: int) -> None:
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        self._plain, self._counted = [], []
        for made in range(1, tokens + 1):
            choice = {"index": 0, "delta": {"content": " word"}, "logprobs": None,
                      "finish_reason": None, "token_ids": None}  # fmt: skip
            usage = {"prompt_tokens": 9, "total_tokens": 9 + made, "completion_tokens": made}
            chunk = {**head, "choices": [choice]}
            self._plain.append(_event(chunk))
            self._counted.append(_event({**chunk, "usage": usage}))
        self._counted.append(_event({**head, "choices": [], "usage": usage}))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One answer."""
        message = await receive()
        asked = b"continuous_usage_stats" in message["body"]
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in self._counted if asked else self._plain:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        named = dict(scope["headers"]).get(b"x-request-id")
        if named:
            VERDICTS.note(f"chatcmpl-{named.decode()}", corrupted=False)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _event(chunk: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


async def _take(_message: Message) -> None:
    pass


if __name__ == "__main__":
    main()
