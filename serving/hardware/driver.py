"""Requirements that the driver or the GPUs do not meet, found before anything is loaded. Pure."""

from collections.abc import Iterator

from serving.hardware.budget import UTILISATION
from serving.hardware.devices import GIB, Machine

DRIVERS = {12: "525.60.13", 13: "580.65.06"}
"""CUDA's major version and the oldest Linux driver that runs its programs.

Source: NVIDIA, CUDA Toolkit release notes, minimum driver for minor version compatibility.
"""
LEAST_CAPABILITY = (7, 5)
"""CUDA 13 has no code for older GPUs."""


def missing_requirements(
    machine: Machine, cuda: str, *, dtype: str | None = None, utilisation: float = UTILISATION
) -> Iterator[str]:
    """Each requirement of vLLM's GPU build that the machine does not meet, with what to do.

    cuda: the version that torch was built with, such as "13.0"; empty if it was built without.
    dtype: the data type that the operator requested.
    """
    needed = DRIVERS.get(int(cuda.partition(".")[0] or 0))
    newest = f"Install driver {needed or DRIVERS[13]} or newer"
    if machine.unreadable:
        yield (
            f"vLLM's GPU build is installed and no NVIDIA driver answers ({machine.unreadable}). "
            f"{newest}; in a container, start it with the NVIDIA container toolkit (--gpus all). "
            "For a CPU make an environment with lorary[serve-cpu]."
        )
        return
    if not machine.gpus:
        yield (
            f"Driver {machine.driver} shows no GPU. See CUDA_VISIBLE_DEVICES and what the "
            "container was given."
        )
        return
    if not cuda:
        yield "torch was built without CUDA. Install the pins of requirements/gpu.txt anew."
    elif needed and machine.cuda // 1000 < int(cuda.partition(".")[0]):
        yield (
            f"Driver {machine.driver} runs CUDA {machine.cuda // 1000}."
            f"{machine.cuda % 1000 // 10} at most, and torch was built with CUDA {cuda}, which "
            f"needs {needed} or newer. {newest}, or NVIDIA's cuda-compat package on data-centre "
            "GPUs."
        )
    for gpu in machine.gpus:
        if gpu.capability < LEAST_CAPABILITY:
            yield (
                f"{gpu.name} has compute capability {gpu.capability[0]}.{gpu.capability[1]}, and "
                "vLLM's kernels need 7.5 or newer. Use another GPU."
            )
        elif dtype == "bfloat16" and gpu.capability < (8, 0):
            yield (
                f"{gpu.name} (compute capability {gpu.capability[0]}.{gpu.capability[1]}) has no "
                "bfloat16. Leave --dtype out, or set --dtype=float16."
            )
        if gpu.free is not None and gpu.free < utilisation * gpu.memory:
            yield (
                f"{gpu.name} has {gpu.free / GIB:.1f} of {gpu.memory / GIB:.1f} GiB free, and "
                f"vLLM wants {utilisation:.2f} of it. Stop what else runs there, or lower the "
                "share: -- --gpu-memory-utilization=0.5"
            )
