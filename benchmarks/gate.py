"""What the gate costs: the same load against bare vLLM and through the gate, in one run.

    make bench                     # or: python -m benchmarks.gate --rounds 8 --json out.json

Two comparisons, since one server's noise hides a microsecond:

1. *vLLM*: two real servers with the same model, adapter and settings, loaded in turn. One is bare
   (the adapter given on its command line), the other is `lorary serve`.
2. *trivial upstream*: an ASGI app that answers at once, in uvicorn, with and without the gate
   around it. Here the gate's own time is nearly all there is.
"""

import argparse
import asyncio
import contextlib
import json
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.load import Round, Target, alternate, percentile, spread
from benchmarks.servers import Served, bare_vllm, gated_vllm, trivial
from benchmarks.site import one_adapter


def main() -> None:
    """Run both comparisons and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=8, help="paired rounds of each load")
    parser.add_argument("--requests", type=int, default=48, help="requests a round, vLLM")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--skip-vllm", action="store_true", help="only the trivial upstream")
    options = parser.parse_args()
    figures: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        site = one_adapter(Path(folder))
        pair = trivial(running, site)
        figures += compare("trivial upstream", pair, options.rounds, 2000, tokens=1)
        if not options.skip_vllm:
            bare = bare_vllm(running, site)
            gated = gated_vllm(running, site)
            figures += compare("vLLM", (bare, gated), options.rounds, options.requests, tokens=16)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def compare(
    title: str, pair: tuple[Served, Served], rounds: int, requests: int, *, tokens: int
) -> list[dict[str, object]]:
    """One caller, then sixteen; prints and returns the figures."""
    figures = []
    for concurrency in (1, 16):
        bare, gated = (target(served, tokens) for served in pair)
        count = requests if concurrency > 1 else max(requests // 4, 8)
        a, b = asyncio.run(
            alternate(bare, gated, rounds=rounds, requests=count, concurrency=concurrency)
        )
        figures.append(summarise(title, concurrency, a, b))
    return figures


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


def summarise(
    title: str, concurrency: int, bare: list[Round], gated: list[Round]
) -> dict[str, object]:
    """Paired ratios and differences of one load; printed, and returned for the JSON file."""
    ratios = [b.throughput / a.throughput for a, b in zip(bare, gated, strict=True)]
    added = {
        share: [
            1000 * (percentile(b.latencies, share) - percentile(a.latencies, share))
            for a, b in zip(bare, gated, strict=True)
        ]
        for share in (0.5, 0.99)
    }
    print(f"\n{title}, {concurrency} at once, {len(bare)} paired rounds; median [min .. max]")
    print(f"  bare    requests/s        {spread([r.throughput for r in bare], '.1f')}")
    print(f"  gated   requests/s        {spread([r.throughput for r in gated], '.1f')}")
    print(f"  gated / bare              {spread(ratios, '.3f')}")
    print(f"  added p50, ms             {spread(added[0.5], '.2f')}")
    print(f"  added p99, ms             {spread(added[0.99], '.2f')}")
    return {
        "upstream": title,
        "concurrency": concurrency,
        "rounds": len(bare),
        "throughput_ratio": median(ratios),
        "throughput_ratios": ratios,
        "added_p50_ms": median(added[0.5]),
        "added_p99_ms": median(added[0.99]),
    }


if __name__ == "__main__":
    main()
