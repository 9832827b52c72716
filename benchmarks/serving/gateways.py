"""What a gateway adds: Lorary's gate and LiteLLM's proxy, each beside the bare upstream.

The upstream is an application that answers a fixed completion at once, so that nearly all of what
is measured is the gateway's own. The gate runs inside the upstream's process, as it does in vLLM;
LiteLLM is a proxy of one worker with a master key, installed into an environment of its own under
the cache folder the first time. Both check a key and a model's name.
"""

import asyncio
import contextlib
import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from benchmarks.load import Round, Target, alternate, summarise
from benchmarks.peers import peer
from benchmarks.servers import Served, trivial
from benchmarks.site import MODEL, one_adapter
from tests.support.servers import free_port, running

LITELLM = "litellm[proxy]==1.100.5"
FLOOR_MS = 0.01
"""Where the plot's logarithmic axis begins; noise can make a round's difference less than that."""
MASTER = "sk-bench"


def measure(*, quick: bool) -> dict[str, Any]:
    """Requests per second and added milliseconds of both, for one caller and for sixteen."""
    rounds, requests = (3, 200) if quick else (8, 400)
    figures = []
    with tempfile.TemporaryDirectory() as text, contextlib.ExitStack() as stack:
        site = one_adapter(Path(text))
        bare, gated = trivial(stack, site)
        proxied = litellm(stack, Path(text), bare)
        for concurrency in (1, 16):
            added = []
            for name, other in (("Lorary's gate", gated), ("LiteLLM", proxied)):
                a, b = asyncio.run(
                    alternate(
                        target(bare, 1),
                        target(other, 1),
                        rounds=rounds,
                        requests=requests,
                        concurrency=concurrency,
                    )
                )
                figures.append(summarise(name, concurrency, a, b))
                added.append([1000 * (_p50(y) - _p50(x)) for x, y in zip(a, b, strict=True)])
                figures[-1]["added_p50s_ms"] = added[-1]
            ratio = median(added[1]) / max(median(added[0]), 1e-3)
            print(f"\n  LiteLLM adds {ratio:.0f} times what the gate adds, {concurrency} at once")
    return {"rows": figures}


def litellm(stack: contextlib.ExitStack, folder: Path, upstream: Served) -> Served:
    """LiteLLM's proxy in front of `upstream`."""
    programs = peer("litellm", LITELLM)
    port = free_port()
    config = folder / "litellm.yaml"
    served = {"model": "openai/bench", "api_base": f"{upstream.url}/v1", "api_key": "none"}
    config.write_text(
        json.dumps(
            {
                "model_list": [{"model_name": MODEL, "litellm_params": served}],
                "general_settings": {"master_key": MASTER},
            }
        )
    )
    url = f"http://127.0.0.1:{port}"
    stack.enter_context(
        running(
            [str(programs / "litellm"), "--config", str(config), "--port", str(port),
             "--num_workers", "1", "--telemetry", "False"],
            folder / "litellm.log",
            ready=f"{url}/health/liveliness",
            environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
            seconds=180,
        )
    )  # fmt: skip
    return Served("litellm", url, MODEL, {"Authorization": f"Bearer {MASTER}"})


def target(served: Served, tokens: int) -> Target:
    """The same question, asked of one of the two."""
    body = {
        "model": served.model,
        "messages": [{"role": "user", "content": "What is hypertension?"}],
        "max_tokens": tokens,
        "min_tokens": tokens,
        "temperature": 0,
    }
    return Target(served.name, f"{served.url}/v1/chat/completions", body, served.headers)


def _p50(measured: Round) -> float:
    return median(measured.latencies)


def draw(figures: dict[str, Any], path: Path) -> None:
    """What each adds to a request: every round a dot, the median a line."""
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    axes = figure.subplots()
    labels = []
    for place, row in enumerate(figures["rows"]):
        added = [max(value, FLOOR_MS) for value in row["added_p50s_ms"]]
        colour = "#c0692b" if row["upstream"] == "LiteLLM" else "#1f5f8b"
        axes.plot(added, [place] * len(added), "o", color=colour, alpha=0.5, markersize=5)
        axes.plot([median(added)] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=2)
        labels.append(f"{row['upstream']}, {row['concurrency']} at once")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(
        "milliseconds added to a request's median (each round a dot, their median a line)"
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
