"""How fast a version is judged: Lorary's client beside lm-evaluation-harness's own, in one run.

    python -m benchmarks.evaluation --rounds 5 --json out.json

Both ask the same server (real vLLM behind the gate) the same task with the same concurrency, in
turn; what differs is the client. Lorary's also takes the log-probabilities, checks whose bytes
answered and writes every answer down. The third row is a repeated evaluation: answers are kept.

The harness's own vLLM backend is not compared: it asks for the metadata of a distribution called
`vllm`, which the CPU build does not have.
"""

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from eval.quiet import quiet_libraries

quiet_libraries()

from adapters.names import AdapterRef  # noqa: E402 - after the libraries are silenced
from benchmarks.servers import gated_vllm  # noqa: E402
from benchmarks.site import MODEL, one_adapter  # noqa: E402
from eval.harness import run  # noqa: E402
from eval.served import Answers, Model, ServedModel  # noqa: E402
from eval.suites import suites_of  # noqa: E402
from registry.registry import Registry  # noqa: E402
from registry.store import LocalStore  # noqa: E402

CONCURRENCY = 16


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="paired rounds")
    parser.add_argument("--items", type=int, default=48, help="items a round")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as text, contextlib.ExitStack() as running:
        folder = Path(text)
        site = one_adapter(folder)
        registry = Registry(LocalStore(Path(site.store)))
        digest = registry.refresh().resolve(AdapterRef.parse(MODEL)).digest
        registry.close()
        served = gated_vllm(running, site)
        key = site.headers["Authorization"].removeprefix("Bearer ")
        suite = suites_of("medical")[0].limited(options.items)
        tasks = suite.write(folder / "tasks")
        figures = measure(served.url, key, digest, tasks, folder, options.rounds, options.items)
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(
    url: str, key: str, digest: str, tasks: Path, folder: Path, rounds: int, items: int
) -> dict[str, Any]:
    """Items a second of each client, and their ratio round by round."""
    from lm_eval.models.openai_completions import LocalChatCompletion

    os.environ["OPENAI_API_KEY"] = key
    task = "lorary_medical_task"

    def ours(answers: Path) -> dict[str, Any]:
        client = ServedModel(
            f"{url}/v1", key, Model(MODEL, digest), Answers(answers), concurrency=CONCURRENCY
        )
        return run(client, [task], tasks, chat=True)

    def theirs() -> dict[str, Any]:
        client = LocalChatCompletion(
            base_url=f"{url}/v1/chat/completions", model=MODEL, num_concurrent=CONCURRENCY
        )
        return run(client, [task], tasks, chat=True)

    ours(folder / "warm.jsonl")
    rates: dict[str, list[float]] = {"lorary": [], "harness": [], "repeated": []}
    for number in range(rounds):
        kept = folder / f"answers-{number}.jsonl"
        turns: list[tuple[str, Callable[[], dict[str, Any]]]] = [
            ("lorary", lambda kept=kept: ours(kept)),  # type: ignore[misc]
            ("harness", theirs),
        ]
        for name, turn in turns if number % 2 else turns[::-1]:
            rates[name].append(items / timed(turn))
        rates["repeated"].append(items / timed(lambda kept=kept: ours(kept)))  # type: ignore[misc]
    ratios = [a / b for a, b in zip(rates["lorary"], rates["harness"], strict=True)]
    return {
        "items": items,
        "concurrency": CONCURRENCY,
        "items_a_second": {name: round(median(found), 2) for name, found in rates.items()},
        "lorary_over_harness": summary(ratios),
        "repeated_over_first": summary(
            [a / b for a, b in zip(rates["repeated"], rates["lorary"], strict=True)]
        ),
    }


def timed(turn: Callable[[], Any]) -> float:
    """Seconds that a turn takes."""
    started = time.perf_counter()
    turn()
    return time.perf_counter() - started


def summary(ratios: list[float]) -> dict[str, float]:
    """The middle and the ends."""
    return {
        "median": round(median(ratios), 3), "low": round(min(ratios), 3),
        "high": round(max(ratios), 3),
    }  # fmt: skip


if __name__ == "__main__":
    main()
