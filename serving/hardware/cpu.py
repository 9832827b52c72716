"""What vLLM is given on a CPU, as far as the operator left it open."""

import os
from collections.abc import Sequence

from serving.hardware.requested import read_options

STEP = {"--max-num-seqs": 64, "--max-num-batched-tokens": 96}
"""Sequences and tokens of one step of the engine, unless the operator sets one of the two: room for
newcomers' prompts beside the sequences that run. Every answer waits for the whole step to get its
next token, and two cores need a second for a hundred. vLLM's defaults are 128 and 2,048."""
EXECUTOR = "--distributed-executor-backend"
IN_ENGINE = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""vLLM's executor that computes in the engine's process, by its path: its name `uni` is replaced by
`mp` on a CPU. With `mp` the engine polls a worker process all the time, for which vLLM keeps a core
free, and which is another Python process to start."""
FEW = 4
"""Cores up to which the one kept free for polling is worth more than binding threads to cores,
which vLLM does with `mp` only. Tried on two cores only."""
PREFILL = ("--prefill-context-parallel-size", "-pcp")
BINDING = "VLLM_CPU_OMP_THREADS_BIND"


def options(extra: Sequence[str], cores: int, *, capability: str) -> list[str]:
    """Options of vLLM's.

    extra: the operator's. cores: those that this process may use. capability: of the processor, as
    `torch.backends.cpu.get_cpu_capability` names it.
    """
    chosen = []
    if not any(_has(extra, option) for option in STEP):
        chosen += [f"{option}={value}" for option, value in STEP.items()]
    if not _has(extra, "--dtype") and capability == "AVX2":
        chosen.append("--dtype=float32")  # bfloat16 takes six times as long without AVX-512
    if cores <= FEW and not _parallel(extra) and BINDING not in os.environ:
        chosen.append(f"{EXECUTOR}={IN_ENGINE}")
    return chosen


def variables(argv: Sequence[str], cores: int) -> dict[str, str]:
    """Variables that go with vLLM's command line `argv`: threads of an engine that computes."""
    if f"{EXECUTOR}={IN_ENGINE}" not in argv:
        return {}
    ranks = max(1, int(read_options(argv).get("--data-parallel-size", 1)))  # vLLM refuses 0 itself
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // ranks))
    return {BINDING: "nobind", "OMP_NUM_THREADS": threads}


def _parallel(extra: Sequence[str]) -> bool:
    """Whether the operator says how many processes compute, or how they are started."""
    sized = read_options(extra).keys() & {"--tensor-parallel-size", "--pipeline-parallel-size"}
    return bool(sized) or any(_has(extra, option) for option in (EXECUTOR, *PREFILL))


def _has(extra: Sequence[str], option: str) -> bool:
    """Whether the operator gives the option, in any spelling that vLLM takes."""
    names = {argument.partition("=")[0].replace("_", "-") for argument in extra}
    return any(option.startswith(name) for name in names if len(name) > len("--"))
