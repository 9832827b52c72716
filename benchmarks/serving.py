"""What a gateway adds: Lorary's gate and LiteLLM's proxy, each beside the bare upstream.

    python -m benchmarks.serving                 # or: make bench-serving

The upstream is an application that answers a fixed completion at once, so that nearly all of what
is measured is the gateway's own. The gate runs inside the upstream's process, as it does in vLLM;
LiteLLM is a proxy of one worker with a master key, installed into an environment of its own under
the cache folder the first time. Both check a key and a model's name.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from adapters.home import cache
from benchmarks.gate import summarise, target
from benchmarks.load import Round, alternate
from benchmarks.servers import Served, trivial
from benchmarks.site import MODEL, one_adapter
from tests.support.servers import free_port, running

LITELLM = "litellm[proxy]==1.100.5"
MASTER = "sk-bench"


def main() -> None:
    """Run both comparisons and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
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
                        rounds=options.rounds,
                        requests=options.requests,
                        concurrency=concurrency,
                    )
                )
                figures.append(summarise(name, concurrency, a, b))
                added.append([_p50(y) - _p50(x) for x, y in zip(a, b, strict=True)])
            ratio = median(added[1]) / max(median(added[0]), 1e-6)
            print(f"\n  LiteLLM adds {ratio:.0f} times what the gate adds, {concurrency} at once")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def litellm(stack: contextlib.ExitStack, folder: Path, upstream: Served) -> Served:
    """LiteLLM's proxy in front of `upstream`."""
    home = cache("peers", "litellm")
    if not (home / "bin" / "litellm").exists():
        print(f"Installing {LITELLM} into {home} ...")
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([str(home / "bin" / "pip"), "install", "--quiet", LITELLM], check=True)
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
            [str(home / "bin" / "litellm"), "--config", str(config), "--port", str(port),
             "--num_workers", "1", "--telemetry", "False"],
            folder / "litellm.log",
            ready=f"{url}/health/liveliness",
            environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
            seconds=180,
        )
    )  # fmt: skip
    return Served("litellm", url, MODEL, {"Authorization": f"Bearer {MASTER}"})


def _p50(measured: Round) -> float:
    return median(measured.latencies)


if __name__ == "__main__":
    main()
