"""The servers that are compared: bare vLLM and `lorary serve`, and a trivial app both ways."""

import contextlib
import functools
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from adapters.home import SMALL_MODEL
from benchmarks.site import MODEL, Site
from serving.launch import arguments, environment
from serving.settings import ServingSettings
from tests.support.servers import BIN, free_port, running


@dataclass(frozen=True, slots=True)
class Served:
    """A running server and how to ask it."""

    name: str
    url: str
    model: str
    headers: dict[str, str]
    pid: int = 0


def bare_vllm(
    running_: contextlib.ExitStack, site: Site, name: str = "bare", extra: Sequence[str] = ()
) -> Served:
    """vLLM with the adapter on its command line, and none of Lorary's parts.

    extra: options of vLLM's beside those that `lorary serve` gives it.
    """
    port = free_port()
    settings = ServingSettings(store=site.store, port=port)
    given = arguments(settings, extra)
    options = [option for option in given if not option.startswith("--middleware")]
    url = f"http://127.0.0.1:{port}"
    variables = environment(settings, options) | {"VLLM_PLUGINS": ""}
    running_.enter_context(
        running(
            [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", *options,
             "--lora-modules", f"{MODEL}={site.adapter}"],
            site.folder / f"{name}.log",
            ready=f"{url}/health",
            environment=variables,
            seconds=300,
        )
    )  # fmt: skip
    return Served(name, url, MODEL, {})


def gated_vllm(running_: contextlib.ExitStack, site: Site) -> Served:
    """`lorary serve` with the same settings."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    variables = {"LORARY_STORE": site.store, "LORARY_ADAPTER_CACHE": str(site.folder / "cache")}
    running_.enter_context(
        running(
            [str(BIN / "lorary"), "serve", "--port", str(port)],
            site.folder / "gated.log",
            ready=f"{url}/health",
            environment=variables,
            seconds=300,
        )
    )
    return Served("gated", url, MODEL, site.headers)


def trivial(running_: contextlib.ExitStack, site: Site) -> tuple[Served, Served]:
    """The same one-line application in uvicorn, bare and inside the gate."""
    served = []
    for name in ("bare", "gated"):
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        variables = {
            "LORARY_STORE": site.store,
            "LORARY_ADAPTER_CACHE": str(site.folder / "cache"),
            "LORARY_BASE_NAME": SMALL_MODEL,
        }
        running_.enter_context(
            running(
                [sys.executable, "-m", "uvicorn", f"benchmarks.servers:{name}_app", "--port",
                 str(port), "--log-level", "warning", "--no-access-log"],
                site.folder / f"trivial-{name}.log",
                ready=f"{url}/health",
                environment={**os.environ, **variables},
            )
        )  # fmt: skip
        served.append(Served(name, url, MODEL, site.headers))
    return served[0], served[1]


ANSWER = json.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "High blood pressure."},
            }
        ],
        "usage": {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8},
    }
).encode()


async def bare_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the request, answer a fixed completion."""
    if scope["type"] == "lifespan":
        for state in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{state}.complete"})
        return
    while (await receive()).get("more_body"):
        pass
    length = str(len(ANSWER)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


async def gated_app(scope: Scope, receive: Receive, send: Send) -> None:
    """The same inside the gate."""
    await _gate()(scope, receive, send)


@functools.cache
def _gate() -> ASGIApp:
    from serving.gate import Gate
    from serving.replica import current
    from tests.support.vllm_engine import VllmEngine

    vllm = VllmEngine()
    current().attach(vllm.driven(), vllm.tried(), vllm.places, on_cpu=False)
    return Gate(bare_app)
