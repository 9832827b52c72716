"""The plan that `lorary serve` starts with on this machine: `serving.hardware` with its I/O."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from serving.errors import CannotServe
from serving.hardware import devices, presets
from serving.hardware.budget import Requested
from serving.hardware.defaults import CHOSEN, ServePlan, choose
from serving.hardware.devices import GIB, KNOWN, Machine
from serving.hardware.driver import missing_requirements
from serving.hardware.memory import Shape, read_shape
from serving.hardware.requested import parse_request
from serving.settings import ServingSettings


def read_machine() -> Machine:
    """This machine. Its GPUs are read if vLLM's build for NVIDIA GPUs is installed."""
    host = Machine(memory=devices.host_memory(), cpus=devices.cpus())
    if not _built_for_gpus():
        return host
    from vllm.third_party import pynvml

    found = devices.read_gpus(pynvml, os.environ)
    return replace(found, memory=host.memory, cpus=host.cpus)


def machine_named(gpu: str, host_gib: int | None) -> Machine:
    """A machine with the GPUs that `gpu` names, such as `h100` or `a100-80x4`.

    host_gib: its host memory; None: as much as here. Raises `CannotServe` for another name.
    """
    named = re.fullmatch(r"(.+?)(?:x([1-9]|[1-6]\d))?", gpu.lower())
    if named is None or named[1] not in KNOWN:
        raise CannotServe(
            f"No such GPU: {gpu!r}. Name one of {', '.join(KNOWN)}, with a number for several: "
            "h100x4."
        )
    memory = devices.host_memory() if host_gib is None else host_gib * GIB
    return Machine(gpus=(KNOWN[named[1]],) * int(named[2] or 1), memory=memory, cpus=devices.cpus())


def plan_for(settings: ServingSettings, extra: Sequence[str], machine: Machine) -> ServePlan:
    """The settings that `machine` is served with. Raises as `parse_request`."""
    return choose(
        machine,
        _shape(settings.model, fetch=bool(machine.gpus)),
        requested_of(settings, extra),
        {name: getattr(settings, name) for name in CHOSEN},
    )


def requested_of(settings: ServingSettings, extra: Sequence[str]) -> Requested:
    """What the operator set. Raises as `parse_request`."""
    given = {name: getattr(settings, name) for name in CHOSEN if name in settings.model_fields_set}
    return parse_request(
        given, settings.max_lora_rank, settings.lora_preset, settings.kv_cache_gib, extra
    )


def problems(plan: ServePlan, asked: Requested) -> list[str]:
    """Everything that this machine lacks or that does not fit, each with what to do."""
    return [
        *_driver_problems(plan.machine, asked),
        *_table_problems(plan.machine),
        *plan.problems,
    ]


def check(plan: ServePlan, asked: Requested) -> None:
    """Raise `CannotServe` if there are `problems`."""
    if found := problems(plan, asked):
        raise CannotServe(" ".join(found))


def variables(settings: ServingSettings, plan: ServePlan) -> dict[str, str]:
    """What vLLM's processes and the replica in them read: chosen settings, and the preset's."""
    if not plan.machine.gpus:
        return {}
    chosen = {f"LORARY_{name.upper()}": str(value) for name, value in plan.settings.items()}
    capability = min(gpu.capability for gpu in plan.machine.gpus)
    return chosen | presets.variables(settings.lora_preset, capability)


def _built_for_gpus() -> bool:
    """Whether the vLLM that is installed is the one for NVIDIA GPUs."""
    try:
        return "cpu" not in version("vllm")
    except PackageNotFoundError:
        return False


def _driver_problems(machine: Machine, asked: Requested) -> Iterator[str]:
    if not _built_for_gpus():
        return
    import torch

    cuda = torch.version.cuda or ""
    if cuda or not machine.unreadable:  # else it is a build for another maker's GPUs
        yield from missing_requirements(
            machine, cuda, dtype=asked.dtype, utilisation=asked.utilisation
        )


def _table_problems(machine: Machine) -> Iterator[str]:
    folder = os.environ.get(presets.TUNED_FOLDER)
    for name in sorted({gpu.name for gpu in machine.gpus}) if folder else ():
        if missing := presets.missing_tables(Path(folder or ""), name):
            yield (
                f"{presets.TUNED_FOLDER} names {folder}, which lacks {', '.join(missing)}: vLLM "
                "would take its default kernels. Make them with vLLM's benchmark_lora.py, or unset "
                "the variable."
            )


def _shape(model: str, *, fetch: bool) -> Shape | None:
    """The base model's shape, from its directory or, for a Hugging Face id, from the local cache.

    fetch: ask the Hub for what is not there.
    """
    if Path(model).is_dir():
        return read_shape(Path(model))
    try:
        from huggingface_hub import hf_hub_download

        file = hf_hub_download(model, "config.json", local_files_only=not fetch)
        return Shape.of(json.loads(Path(file).read_bytes()))
    except Exception:  # whatever it is, vLLM says it better when it fetches the model
        return None
