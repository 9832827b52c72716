"""The machine that serves: its GPUs, its driver, its memory.

NVML answers without CUDA, so a driver that is too old is noticed before anything is loaded. Only
NVIDIA GPUs are read; vLLM's builds for others serve with the settings of a CPU unless they are set.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB = 1 << 30
CGROUP = Path("/sys/fs/cgroup")
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as NVML describes it."""

    name: str
    memory: int
    """Bytes."""
    capability: tuple[int, int]
    """Compute capability, such as (9, 0)."""
    free: int | None = None
    """Bytes that no process uses; None if unknown."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a replica may use."""

    gpus: tuple[Gpu, ...] = ()
    memory: int = 16 * GIB
    """Bytes of host memory, as far as the container's limit allows."""
    cpus: int = 2
    driver: str = ""
    """Version of the NVIDIA driver; empty without one."""
    cuda: int = 0
    """The newest CUDA that the driver runs: 1000 times major plus 10 times minor."""
    unreadable: str = ""
    """Why NVML gave no answer; empty if it did."""


KNOWN = {
    "l4": Gpu("NVIDIA L4", 23_034 << 20, (8, 9)),
    "a10": Gpu("NVIDIA A10", 23_028 << 20, (8, 6)),
    "a100-40": Gpu("NVIDIA A100-SXM4-40GB", 40_960 << 20, (8, 0)),
    "a100-80": Gpu("NVIDIA A100-SXM4-80GB", 81_920 << 20, (8, 0)),
    "h100": Gpu("NVIDIA H100 80GB HBM3", 81_559 << 20, (9, 0)),
    "h200": Gpu("NVIDIA H200", 143_771 << 20, (9, 0)),
}
"""GPUs to plan for without having one, with the memory that NVML reports for them."""


def visible(count: int, variables: Mapping[str, str]) -> list[int | str]:
    """Indices and UUIDs of the GPUs that CUDA will show, as `CUDA_VISIBLE_DEVICES` says.

    An index that does not exist hides itself and those after it, as in CUDA.
    """
    text = variables.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return list(range(count))
    shown: list[int | str] = []
    for part in (part.strip() for part in text.split(",")):
        if part.isdigit() and int(part) < count:
            shown.append(int(part))
        elif part.startswith(("GPU-", "MIG-")):
            shown.append(part)
        else:
            break
    return shown


def read_gpus(nvml: Any, variables: Mapping[str, str]) -> Machine:
    """GPUs and driver; nothing of the host.

    nvml: the module `pynvml`, which vLLM carries.
    """
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Machine(unreadable=str(error))
    try:
        count = int(nvml.nvmlDeviceGetCount())
        shown = visible(count, variables)
        return Machine(
            gpus=tuple(_gpu(nvml, one) for one in shown),
            driver=_text(nvml.nvmlSystemGetDriverVersion()),
            cuda=int(nvml.nvmlSystemGetCudaDriverVersion()),
        )
    except nvml.NVMLError as error:
        return Machine(unreadable=str(error))
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, one: int | str) -> Gpu:
    if isinstance(one, int):
        handle = nvml.nvmlDeviceGetHandleByIndex(one)
    else:
        handle = nvml.nvmlDeviceGetHandleByUUID(one)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    name = _text(nvml.nvmlDeviceGetName(handle))
    return Gpu(name, int(memory.total), (int(major), int(minor)), int(memory.free))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def host_memory(limits: Iterable[str] = CGROUP_LIMITS) -> int:
    """Bytes of memory that this process may use: the machine's, or its container's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in limits:
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdigit():  # "max" means no limit
            total = min(total, int(text))
    return total


def cpus(folder: Path = CGROUP) -> int:
    """CPUs that this process may use at once: those it may run on, or fewer as its container's
    limit allows. folder: of the container's limits, in either version of cgroups."""
    found = len(os.sched_getaffinity(0))
    try:
        quota, period = map(int, _cpu_time(folder))
    except (OSError, ValueError):  # "max" means no limit
        return found
    return min(found, max(1, quota // period)) if quota > 0 else found


def _cpu_time(folder: Path) -> list[str]:
    """Microseconds of computing in each period, and of the period."""
    if (whole := folder / "cpu.max").exists():
        return whole.read_text().split()
    return [(folder / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
