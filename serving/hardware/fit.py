"""Settings that cannot fit on a machine, with the figure and what to do. Pure."""

from collections.abc import Iterator, Mapping

from serving.hardware.budget import Budget, human
from serving.hardware.devices import Machine

HOST_LIMIT = 0.8
"""Of host memory, for adapters at most; the rest is for the server's processes."""


def memory_problems(machine: Machine, budget: Budget, chosen: Mapping[str, int]) -> Iterator[str]:
    """Why a replica with the `chosen` settings cannot start."""
    asked, slots = budget.asked, chosen["max_loras"]
    workers = budget.workers
    if workers > len(machine.gpus):
        yield (
            f"{workers} GPUs are requested, and {len(machine.gpus)} are visible. Lower "
            "--tensor-parallel-size, --pipeline-parallel-size or --data-parallel-size, or see "
            "CUDA_VISIBLE_DEVICES."
        )
    if not asked.uncertain:
        yield from _gpu_problems(budget, slots, chosen["max_model_len"])
    places = chosen["max_cpu_loras"]
    if places * budget.place > HOST_LIMIT * machine.memory:
        most = int(HOST_LIMIT * machine.memory) // budget.place
        yield (
            f"{places} adapters of rank {asked.rank} can take {human(places * budget.place)} of "
            f"host memory ({workers} worker(s)), and there are {human(machine.memory)}. Set "
            f"LORARY_MAX_CPU_LORAS to {most} at most, or lower LORARY_MAX_LORA_RANK."
        )


def _gpu_problems(budget: Budget, slots: int, context: int) -> Iterator[str]:
    asked = budget.asked
    if budget.most < budget.slot:
        yield (
            f"The base model takes {human(budget.weights)} of the {human(budget.whole)} that vLLM "
            f"may use of {budget.gpu.name}, which leaves no room to serve. Use more or larger GPUs "
            "(`-- --tensor-parallel-size N`) or a quantised build of the model."
        )
    elif asked.kv_bytes and asked.kv_bytes + slots * budget.slot > budget.most:
        yield (
            f"A KV cache of {human(asked.kv_bytes)} is requested, and beside the model and "
            f"{slots} slots {human(max(0, budget.most - slots * budget.slot))} are left. Lower "
            "LORARY_KV_CACHE_GIB, or unset it: vLLM then takes what it finds free."
        )
    elif slots * budget.slot > budget.most or (
        budget.shape.uniform and budget.most_tokens(slots) < context
    ):
        yield (
            f"{slots} slots of rank {asked.rank} take {human(slots * budget.slot)}, which leaves a "
            f"KV cache of {budget.most_tokens(slots):,} tokens: less than one request of "
            f"{context:,}. Lower LORARY_MAX_MODEL_LEN, LORARY_MAX_LORAS or LORARY_MAX_LORA_RANK, "
            "or use more GPUs."
        )
