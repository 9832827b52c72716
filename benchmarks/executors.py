"""vLLM on a CPU with the executor that `lorary serve` chooses, beside vLLM's own choice.

    python -m benchmarks.executors --rounds 5

Both servers run at once and are asked in turn, each time the same requests; one that is not asked
sleeps. The prefix cache is off: every prompt is computed. Ratios are of the same round.
"""

import argparse
import asyncio
import contextlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import Target, alternate, spread
from benchmarks.servers import Served, bare_vllm
from benchmarks.site import Site, one_adapter
from serving.hardware.cpu import EXECUTOR

NO_CACHE = "--no-enable-prefix-caching"


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of one kind: so many at once, words of a prompt, tokens of an answer."""

    title: str
    at_once: int
    requests: int
    words: int
    tokens: int


LOADS = (
    Load("long prompts", 16, 16, 150, 2),
    Load("long answers", 16, 16, 20, 40),
    Load("one caller", 1, 2, 100, 20),
)


def main() -> None:
    """Start both, ask both, print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="paired rounds")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        site = one_adapter(Path(folder))
        theirs = _started(running, site, "vLLM's choice (mp)", [NO_CACHE, f"{EXECUTOR}=mp"])
        ours = _started(running, site, "our choice", [NO_CACHE])
        for load in LOADS:
            targets = [_target(served, load) for served in (theirs, ours)]
            print(f"{load.title}: {load.words} words, {load.tokens} tokens, {load.at_once} at once")
            a, b = asyncio.run(
                alternate(*targets, rounds=rounds, requests=load.requests, concurrency=load.at_once)
            )
            ratios = [y.throughput / x.throughput for x, y in zip(a, b, strict=True)]
            for served, found in ((theirs, a), (ours, b)):
                rates = [each.throughput for each in found]
                print(f"  {served.name:20} requests/s {spread(rates, '.2f')}", flush=True)
            print(f"  our choice / vLLM's choice, median [min .. max]: {spread(ratios, '.2f')}")


def _started(running: contextlib.ExitStack, site: Site, name: str, extra: list[str]) -> Served:
    began = time.perf_counter()
    served = bare_vllm(running, site, name, extra)
    print(f"{name}: started in {time.perf_counter() - began:.0f} s", flush=True)
    return served


def _target(served: Served, load: Load) -> Target:
    body = {
        "model": served.model, "prompt": "fever " * load.words, "max_tokens": load.tokens,
        "temperature": 0, "ignore_eos": True,
    }  # fmt: skip
    return Target(served.name, f"{served.url}/v1/completions", body, served.headers)


if __name__ == "__main__":
    main()
