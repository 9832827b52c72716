"""What salting vLLM's prefix cache costs: the same requests unsalted, and salted for each tenant.

    python -m benchmarks.prompt_cache --rounds 8 --json out.json

One bare vLLM server with the prefix cache on. In each round several tenants ask questions that
begin with the same long text, which no earlier round had:

* *no salt*: all tenants share what is cached, as without Lorary;
* *one salt*: they share it still, so the difference is the salt's own cost;
* *a salt for each*: every tenant computes the text once for itself, which is what isolation costs.

The order changes from round to round; ratios are of the same round.
"""

import argparse
import contextlib
import json
import random
import tempfile
import time
from pathlib import Path
from statistics import median

import httpx

from benchmarks.load import spread
from benchmarks.servers import Served, bare_vllm
from benchmarks.site import one_adapter

WORDS = ("patient", "court", "revenue", "claim", "dose", "clause", "asset", "fever", "tort")
PREFIX_WORDS = 400
MODES = ("no salt", "one salt", "a salt for each")


def main() -> None:
    """Run the rounds and print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=8, help="paired rounds")
    parser.add_argument("--tenants", type=int, default=3, help="tenants that share a text")
    parser.add_argument("--asks", type=int, default=4, help="requests of each tenant in a round")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        served = bare_vllm(running, one_adapter(Path(folder)))
        with httpx.Client(base_url=served.url, timeout=300) as client:
            for mode in MODES:
                _round(client, served, mode, -1, 1, 2)
            for number in range(options.rounds):
                for mode in random.Random(number).sample(MODES, len(MODES)):
                    took = _round(client, served, mode, number, options.tenants, options.asks)
                    seconds[mode].append(took)
                print(f"  round {number + 1} of {options.rounds}", flush=True)
    figures: dict[str, object] = {"tenants": options.tenants, "asks": options.asks}
    print(f"{options.tenants} tenants, {options.asks} requests each; median [min .. max]")
    for mode in MODES:
        ratios = [a / b for a, b in zip(seconds[mode], seconds["no salt"], strict=True)]
        print(f"  {mode:16} s {spread(seconds[mode], '.2f')}   ratio {spread(ratios, '.3f')}")
        figures[mode] = {"seconds": seconds[mode], "ratio": median(ratios)}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def _round(
    client: httpx.Client, served: Served, mode: str, number: int, tenants: int, asks: int
) -> float:
    """Seconds that a round's requests take, one after another, tenants in turn."""
    drawn = random.Random(f"{mode} {number}")
    prefix = " ".join(drawn.choice(WORDS) for _ in range(PREFIX_WORDS))
    began = time.perf_counter()
    for ask in range(asks):
        for tenant in range(tenants):
            body = {
                "model": served.model,
                "prompt": f"{prefix} {ask} {tenant}",
                "max_tokens": 4,
                "ignore_eos": True,
                "temperature": 0,
            }
            if mode != "no salt":
                whose = "all" if mode == "one salt" else tenant
                body["cache_salt"] = f"{number} {whose}".ljust(64, "x")
            client.post("/v1/completions", json=body).raise_for_status()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
