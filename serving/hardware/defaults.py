"""Default settings for a GPU, each with its reason. Pure.

Measured on one H200 with an 8B model: the more different adapters share a batch, the fewer requests
a second, whatever their rank. Everything else here is computed from shapes, not run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from serving.hardware import memory
from serving.hardware.budget import Budget, Part, Requested, human, steps
from serving.hardware.devices import GIB, Gpu, Machine
from serving.hardware.fit import memory_problems
from serving.hardware.memory import Shape
from serving.hardware.presets import PRESETS, graph_counts

SLOTS = (32, 16, 8, 4, 2, 1)
SLOT_SHARE = 0.25
"""Of the memory that weights leave, for slots; the rest is for the KV cache."""
HOST_SHARE = 0.5
"""Of host memory, for adapters."""
MOST_PLACES = 1024
CHOSEN = (
    "max_loras", "max_cpu_loras", "max_model_len", "cold_loads", "cold_queue", "key_cold_loads",
    "concurrency",
)  # fmt: skip
"""Settings that are chosen for a GPU unless they are set."""
CONTEXTS = (32_768, 16_384, 8_192, 4_096, 2_048, 1_024, 512)
FULL_LENGTH = 4
"""Requests of full length that the KV cache shall hold at once."""
LEAST_TOKENS = 32_768
"""KV cache below which more GPUs are taken, where the machine has them."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One setting: its value and the reason for it."""

    name: str
    value: int | str
    why: str
    given: bool = False


@dataclass(frozen=True, slots=True)
class ServePlan:
    """What `lorary serve` starts vLLM with, and what that takes."""

    machine: Machine
    choices: tuple[Choice, ...]
    parts: tuple[Part, ...] = ()
    options: tuple[str, ...] = ()
    """For vLLM, beside those that every replica gets."""
    problems: tuple[str, ...] = ()
    """Why it cannot start, each with what to do."""

    @property
    def settings(self) -> dict[str, int]:
        """Settings by name, those that nobody set included."""
        return {one.name: one.value for one in self.choices if isinstance(one.value, int)}


def choose(
    machine: Machine, shape: Shape | None, asked: Requested, cpu: Mapping[str, int]
) -> ServePlan:
    """Settings for a replica on `machine`; what does not fit is in `problems`.

    cpu: the settings of a CPU by name, which hold without a GPU.
    """
    if not machine.gpus:
        return _on_cpu(machine, shape, asked, cpu)
    gpu = min(machine.gpus, key=lambda one: one.memory)
    if shape is None:
        return _without_shape(machine, asked, cpu)
    tensor = asked.tensor or _tensor(machine, gpu, shape, asked)
    budget = Budget(gpu, shape, asked, tensor)
    choices = tuple(_choices(machine, budget))
    chosen = {one.name: int(one.value) for one in choices if isinstance(one.value, int)}
    return ServePlan(
        machine,
        (*choices, *_texts(gpu, shape, asked, tensor, chosen["max_loras"])),
        tuple(budget.parts(chosen["max_loras"], chosen["max_cpu_loras"])),
        tuple(_options(gpu, shape, asked, tensor)),
        tuple(memory_problems(machine, budget, chosen)),
    )


def _tensor(machine: Machine, gpu: Gpu, shape: Shape, asked: Requested) -> int:
    """As few GPUs as hold the model with a useful KV cache; all that can be used if none do."""
    slots = asked.settings.get("max_loras", 4)
    wanted = asked.settings.get("max_model_len", LEAST_TOKENS)
    sizes = [
        size
        for size in (1, 2, 4, 8, 16)
        if size * asked.pipeline * asked.data <= len(machine.gpus) and shape.heads % size == 0
    ]
    for size in sizes:
        if Budget(gpu, shape, asked, size).tokens(slots) >= wanted:
            return size
    return sizes[-1] if sizes else 1


def _choices(machine: Machine, budget: Budget) -> Iterator[Choice]:
    asked, given = budget.asked, budget.asked.settings
    room = int(max(0, budget.left) * SLOT_SHARE)
    most = given.get("max_cpu_loras", SLOTS[0])
    slots = given.get("max_loras") or next(
        (n for n in SLOTS if n * budget.slot <= room and n <= most), 1
    )
    yield _choice(
        "max_loras", given, slots,
        f"{human(slots * budget.slot)} of {human(max(0, budget.left))} that the model leaves; "
        f"up to {SLOTS[0]} in a batch were measured",
    )  # fmt: skip
    places = given.get("max_cpu_loras") or max(
        slots, min(MOST_PLACES, int(machine.memory * HOST_SHARE) // budget.place)
    )
    yield _choice(
        "max_cpu_loras", given, places,
        f"{human(places * budget.place)} of {human(machine.memory)} host memory, at rank "
        f"{asked.rank} on every module",
    )  # fmt: skip
    tokens = budget.tokens(slots)
    context = given.get("max_model_len") or next(
        (n for n in CONTEXTS if n <= budget.shape.positions and n * FULL_LENGTH <= tokens),
        min(CONTEXTS[-1], budget.shape.positions),
    )
    yield _choice(
        "max_model_len", given, context,
        f"the KV cache holds {tokens // max(1, context)} requests of that length; the model was "
        f"made for {budget.shape.positions:,}",
    )  # fmt: skip
    loads = given.get("cold_loads") or max(2, min(8, machine.cpus // 2))
    yield _choice("cold_loads", given, loads, f"half of {machine.cpus} CPUs; each hashes a file")
    waiting = given.get("cold_queue") or max(32, 8 * slots)
    yield _choice("cold_queue", given, waiting, "eight for each slot")
    own = given.get("key_cold_loads") or max(4, slots // 4)
    yield _choice("key_cold_loads", given, own, "a quarter of the slots for one key")
    sequences, _ = steps(budget.gpu)
    most = given.get("concurrency") or 2 * asked.data * max(512, asked.sequences or sequences)
    yield _choice("concurrency", given, most, "two of the engine's batches")


def _choice(name: str, given: Mapping[str, int], value: int, why: str) -> Choice:
    return Choice(name, value, "set by you" if name in given else why, name in given)


def _texts(gpu: Gpu, shape: Shape, asked: Requested, tensor: int, slots: int) -> Iterator[Choice]:
    """What is no number of a setting."""
    dtype = _dtype(gpu, shape, asked)
    yield Choice("dtype", dtype or shape.dtype, _dtype_reason(gpu, asked), asked.dtype is not None)
    yield Choice(
        "tensor parallel", str(tensor),
        "as few GPUs as hold the model" if asked.tensor is None else "set by you",
        asked.tensor is not None,
    )  # fmt: skip
    memory_by = (
        f"KV cache {human(asked.kv_bytes)}"
        if asked.kv_bytes
        else f"{asked.utilisation:.2f} of {human(gpu.memory)}"
    )
    yield Choice("GPU memory", memory_by, "vLLM measures what is left for the KV cache")
    counts = graph_counts(asked.preset, slots)
    yield Choice(
        "lora_preset", asked.preset, f"{PRESETS[asked.preset].meaning}; CUDA graphs for {counts} "
        "counts of active adapters", asked.preset != "standard",
    )  # fmt: skip


def _dtype(gpu: Gpu, shape: Shape, asked: Requested) -> str | None:
    """What `--dtype` is set to; None leaves it to vLLM."""
    if asked.dtype is None and gpu.capability < (8, 0) and shape.dtype != "float16":
        return "float16"
    return asked.dtype


def _dtype_reason(gpu: Gpu, asked: Requested) -> str:
    if asked.dtype is not None:
        return "set by you"
    if gpu.capability < (8, 0):
        return f"compute capability {_dotted(gpu.capability)} has no bfloat16"
    return "the model's own"


def _options(gpu: Gpu, shape: Shape, asked: Requested, tensor: int) -> Iterator[str]:
    if asked.tensor is None and tensor > 1:
        yield f"--tensor-parallel-size={tensor}"
    if asked.dtype is None and (dtype := _dtype(gpu, shape, asked)):
        yield f"--dtype={dtype}"
    yield from _cache_option(asked)
    yield from PRESETS[asked.preset].options


def _cache_option(asked: Requested) -> list[str]:
    return [f"--kv-cache-memory-bytes={asked.kv_bytes}"] if asked.kv_set else []


def _on_cpu(
    machine: Machine, shape: Shape | None, asked: Requested, cpu: Mapping[str, int]
) -> ServePlan:
    """A CPU's settings as they are, and whether they fit into its memory."""
    choices = tuple(_choice(name, asked.settings, cpu[name], "a CPU's default") for name in CHOSEN)
    problems = []
    if asked.preset != "standard":
        problems.append(f"LORARY_LORA_PRESET={asked.preset} needs a GPU. Unset it.")
    if shape is None:
        return ServePlan(machine, choices, problems=tuple(problems))
    slots, places = cpu["max_loras"], cpu["max_cpu_loras"]
    one = memory.adapter_bytes(shape, asked.rank, pinned=False)
    slot = memory.slot_bytes(shape, asked.rank)
    one, slot = one * asked.data, slot * asked.data
    parts = (
        Part("base model", asked.data * shape.weight_bytes, "host"),
        Part(f"{slots} slots of {human(slot)}", slots * slot, "host"),
        Part("KV cache", asked.data * (asked.kv_bytes or GIB), "host"),
        Part(f"{places} adapters of {human(one)}", places * one, "host"),
    )
    total = sum(part.size for part in parts)
    if total > machine.memory:
        problems.append(
            f"Base model, slots, KV cache and {places} adapters of rank {asked.rank} can take "
            f"{human(total)}, and there are {human(machine.memory)} of memory. Lower "
            "LORARY_MAX_CPU_LORAS, LORARY_MAX_LORAS, LORARY_MAX_LORA_RANK or LORARY_KV_CACHE_GIB."
        )
    return ServePlan(machine, choices, parts, problems=tuple(problems))


def _without_shape(machine: Machine, asked: Requested, cpu: Mapping[str, int]) -> ServePlan:
    """A CPU's settings, since nothing can be computed for a model of unknown size."""
    why = "a CPU's default: the model's size is unknown, as its config.json could not be read"
    return ServePlan(
        machine,
        tuple(_choice(name, asked.settings, cpu[name], why) for name in CHOSEN),
        options=(*_cache_option(asked), *PRESETS[asked.preset].options),
    )


def _dotted(capability: Sequence[int]) -> str:
    return ".".join(map(str, capability))
