"""Adapters on a CPU: tokens per second with `serving.cpu_lora` and with vLLM's own computation.

    python -m benchmarks.cpu_lora [--rounds 4]

One engine in this process, without a server; each round computes the same prompts and writes the
same number of tokens with either, in alternating order, so that both meet the same machine. Prints
each one's tokens per second and the ratio of the pairs: median [least .. most].
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from adapters.base_model import BaseModel
from adapters.home import SMALL_MODEL, default_model
from adapters.small_model import build
from tests.support.adapters import write_adapter

REQUESTS = 8
PROMPT = 250
"""Tokens of a prompt."""
WRITTEN = 40
"""Tokens of an answer."""
STEP = {"max_num_seqs": 64, "max_num_batched_tokens": 96}
"""As `lorary serve` sets them on a CPU."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=4, help="pairs for each case")
    options = parser.parse_args()
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_PLUGINS": "lorary-cpu-lora",
    }
    build(default_model())
    from vllm import LLM

    engine = LLM(
        str(default_model()), enable_lora=True, max_loras=4, max_lora_rank=16, max_model_len=1024,
        enable_prefix_caching=False, **STEP,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        requests = adapters(Path(folder), 4)
        for count in (1, 4):
            for prompt, written in ((PROMPT, 1), (4, WRITTEN)):
                used = [requests[number % count] for number in range(REQUESTS)]
                what = "read" if written == 1 else "written"
                name = f"{count} adapters, {REQUESTS} requests, tokens {what}"
                print(
                    f"{name}:", compared(engine, used, prompt, written, options.rounds), flush=True
                )


def adapters(folder: Path, count: int) -> list[Any]:
    """As many requests for an adapter of random weights on all linear layers."""
    from vllm.lora.request import LoRARequest

    base = BaseModel.from_directory(default_model(), SMALL_MODEL)
    paths = [
        write_adapter(folder / str(number), base, rank=16, seed=number) for number in range(count)
    ]
    return [LoRARequest(path.name, number + 1, str(path)) for number, path in enumerate(paths)]


def compared(engine: Any, used: list[Any], prompt: int, written: int, rounds: int) -> str:
    """Tokens per second of both, and their ratio."""
    run(engine, used, prompt, written)  # the adapters are loaded
    rates: dict[bool, list[float]] = {True: [], False: []}
    for number in range(rounds):
        for ours in ((True, False), (False, True))[number % 2]:
            engine.collective_rpc(use, args=(ours,))
            began = time.perf_counter()
            run(engine, used, prompt, written)
            tokens = len(used) * (prompt if written == 1 else written)
            rates[ours].append(tokens / (time.perf_counter() - began))
    ratios = [ours / theirs for ours, theirs in zip(rates[True], rates[False], strict=True)]
    columns = (("here", rates[True]), ("vLLM", rates[False]), ("ratio", ratios))
    return ", ".join(f"{name} {shown(values)}" for name, values in columns)


def shown(values: list[float]) -> str:
    """Median [least .. most]."""
    return f"{statistics.median(values):.3g} [{min(values):.3g} .. {max(values):.3g}]"


def run(engine: Any, used: list[Any], prompt: int, written: int) -> None:
    """One request for each of `used`."""
    from vllm import SamplingParams

    prompts = [
        {"prompt_token_ids": [100 + 7 * number + place for place in range(prompt)]}
        for number in range(len(used))
    ]
    sampling = SamplingParams(max_tokens=written, temperature=0, ignore_eos=True)
    engine.generate(prompts, sampling, lora_request=used, use_tqdm=False)


def use(worker: Any, ours: bool) -> None:
    """Compute adapters by our class from now on, or by vLLM's."""
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    from serving.cpu_lora import ByAdapter

    modules = worker.model_runner.lora_manager._adapter_manager.modules
    for wrapper in {id(m.punica_wrapper): m.punica_wrapper for m in modules.values()}.values():
        wrapper.__class__ = ByAdapter if ours else PunicaWrapperCPU


if __name__ == "__main__":
    main()
