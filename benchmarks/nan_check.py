"""What vLLM's count of NaN in the logits costs: tokens per second with it and without.

    python -m benchmarks.nan_check [--rounds 8] [--batch 1 8]

One engine in this process, without a server; each round generates the same tokens once with
`VLLM_COMPUTE_NANS_IN_LOGITS` and once without, in alternating order, so that both sides meet the
same machine. Prints the ratio of each pair's tokens per second: median [least .. most].
"""

import argparse
import os
import statistics
import time
from typing import Any

from adapters.home import default_model
from adapters.small_model import build

TOKENS = 64
SWITCH = "VLLM_COMPUTE_NANS_IN_LOGITS"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=8, help="pairs for each batch size")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="requests at once")
    parser.add_argument("--eager", action="store_true", help="without compiling the model first")
    options = parser.parse_args()
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_PLUGINS": "",
        SWITCH: "1",
    }
    import vllm
    from vllm import envs

    envs.disable_envs_cache()  # the switch is read anew in each step
    build(default_model())
    engine = vllm.LLM(model=str(default_model()), max_model_len=512, enforce_eager=options.eager)
    envs.disable_envs_cache()
    for batch in options.batch:
        run(engine, batch, counted=True)  # warm
        ratios = []
        for number in range(options.rounds):
            first = number % 2 == 0
            seconds = {
                counted: run(engine, batch, counted=counted) for counted in (first, not first)
            }
            ratios.append(seconds[False] / seconds[True])
        print(
            f"{batch} at once, tokens/s with the count / without: "
            f"{statistics.median(ratios):.3f} [{min(ratios):.3f} .. {max(ratios):.3f}]"
        )


def run(engine: Any, batch: int, *, counted: bool) -> float:
    """Seconds for `batch` answers of `TOKENS` tokens."""
    from vllm import SamplingParams

    os.environ[SWITCH] = "1" if counted else "0"
    params = SamplingParams(max_tokens=TOKENS, ignore_eos=True, temperature=0.0)
    prompts = [f"Tell me about the number {number}." for number in range(batch)]
    began = time.perf_counter()
    engine.generate(prompts, params, use_tqdm=False)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
