"""What a GPU machine lacks is said in seconds: driver, compute capability, memory, other users."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serving.errors import CannotServe
from serving.hardware.budget import Requested
from serving.hardware.defaults import CHOSEN, ServePlan, choose
from serving.hardware.devices import GIB, KNOWN, Gpu, Machine, host_memory, read_gpus, visible
from serving.hardware.driver import DRIVERS, missing_requirements
from serving.launch import arguments, settled
from serving.settings import ServingSettings
from serving.sizing import check, plan_for, problems, variables
from tests.support.bases import CONFIGS, shape

READY = Machine(
    gpus=(replace(KNOWN["h100"], free=79 * GIB),), driver="580.159.04", cuda=13_000, cpus=16
)


class Nvml:
    """NVML of a machine with some GPUs."""

    class NVMLError(Exception):
        """What NVML raises."""

    def __init__(self, *gpus: Gpu, driver: str = "580.159.04", fails: str = "") -> None:
        self.gpus, self.driver, self.fails = gpus, driver, fails
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's names
        if self.fails:
            raise self.NVMLError(self.fails)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlSystemGetDriverVersion(self) -> bytes:  # noqa: N802
        return self.driver.encode()

    def nvmlSystemGetCudaDriverVersion(self) -> int:  # noqa: N802
        return 13_000

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:  # noqa: N802
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Gpu:  # noqa: N802
        if uuid != "GPU-1":
            raise self.NVMLError("Not Found")
        return self.gpus[1]

    def nvmlDeviceGetName(self, gpu: Gpu) -> str:  # noqa: N802
        return gpu.name

    def nvmlDeviceGetMemoryInfo(self, gpu: Gpu) -> Any:  # noqa: N802
        return SimpleNamespace(total=gpu.memory, free=gpu.free or gpu.memory)

    def nvmlDeviceGetCudaComputeCapability(self, gpu: Gpu) -> tuple[int, int]:  # noqa: N802
        return gpu.capability


def said(machine: Machine, cuda: str = "13.0", **asked: Any) -> list[str]:
    return list(missing_requirements(machine, cuda, **asked))


def test_a_machine_that_has_everything_is_not_complained_about() -> None:
    assert said(READY) == []


@pytest.mark.parametrize(
    ("machine", "cuda", "asked", "told"),
    [
        (replace(READY, driver="570.86.10", cuda=12_080), "13.0", {}, "580.65.06 or newer"),
        (replace(READY, driver="470.1", cuda=11_040), "12.8", {}, "525.60.13 or newer"),
        (Machine(unreadable="Driver Not Loaded"), "13.0", {}, "no NVIDIA driver answers"),
        (Machine(driver="580.1", cuda=13_000), "13.0", {}, "CUDA_VISIBLE_DEVICES"),
        (READY, "", {}, "built without CUDA"),
        (replace(READY, gpus=(Gpu("Tesla V100", 32 * GIB, (7, 0)),)), "13.0", {}, "7.5 or newer"),
        (replace(READY, gpus=(Gpu("Tesla T4", 15 * GIB, (7, 5)),)), "13.0",
         {"dtype": "bfloat16"}, "has no bfloat16"),
        (replace(READY, gpus=(replace(KNOWN["h100"], free=20 * GIB),)), "13.0", {},
         "20.0 of 79.6 GiB free"),
    ],
)  # fmt: skip
def test_what_is_lacking_is_reported_with_what_to_do(
    machine: Machine, cuda: str, asked: dict[str, Any], told: str
) -> None:
    (problem,) = said(machine, cuda, **asked)
    assert told in problem


def test_a_smaller_share_of_a_gpu_that_others_use_is_taken() -> None:
    busy = replace(READY, gpus=(replace(KNOWN["h100"], free=45 * GIB),))
    assert said(busy)
    assert not said(busy, utilisation=0.5)


def test_compatibility_libraries_lift_an_old_driver() -> None:
    """NVML then reports a CUDA that is newer than the driver's own."""
    assert said(replace(READY, driver="550.54.15", cuda=13_000)) == []
    assert DRIVERS[13] == "580.65.06"


def test_the_gpus_that_cuda_will_show_are_read() -> None:
    nvml = Nvml(KNOWN["l4"], KNOWN["h100"], KNOWN["h200"])
    names = [gpu.name for gpu in read_gpus(nvml, {}).gpus]
    assert names == ["NVIDIA L4", "NVIDIA H100 80GB HBM3", "NVIDIA H200"]
    two = read_gpus(nvml, {"CUDA_VISIBLE_DEVICES": "2,GPU-1"})
    assert [gpu.name for gpu in two.gpus] == ["NVIDIA H200", "NVIDIA H100 80GB HBM3"]
    assert (two.driver, two.cuda, nvml.open) == ("580.159.04", 13_000, 0)
    assert read_gpus(nvml, {"CUDA_VISIBLE_DEVICES": ""}).gpus == ()
    lost = read_gpus(nvml, {"CUDA_VISIBLE_DEVICES": "GPU-9"})
    assert (lost.unreadable, nvml.open) == ("Not Found", 0)
    assert read_gpus(Nvml(fails="Driver Not Loaded"), {}).unreadable == "Driver Not Loaded"


def test_an_index_that_does_not_exist_hides_those_after_it() -> None:
    assert visible(2, {"CUDA_VISIBLE_DEVICES": "1, 7, 0"}) == [1]
    assert visible(2, {"CUDA_VISIBLE_DEVICES": "-1"}) == []
    assert visible(2, {}) == [0, 1]


def test_a_containers_limit_counts_as_its_memory(tmp_path: Path) -> None:
    whole = host_memory([str(tmp_path / "absent")])
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "limit").write_text(f"{whole // 2}\n")
    assert host_memory([str(tmp_path / "max")]) == whole
    assert host_memory([str(tmp_path / "limit")]) == whole // 2


@pytest.fixture
def gpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if vLLM's GPU build were installed, with torch for CUDA 13."""
    monkeypatch.setattr("serving.sizing._built_for_gpus", lambda: True)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    return


@pytest.mark.usefixtures("gpu_build")
def test_nothing_starts_on_a_machine_that_lacks_something() -> None:
    old = replace(READY, driver="535.54", cuda=12_020)
    with pytest.raises(CannotServe, match=r"535\.54 runs CUDA 12\.2 at most.*needs 580\.65\.06"):
        check(ServePlan(old, ()), Requested())
    check(ServePlan(READY, ()), Requested())


@pytest.mark.usefixtures("gpu_build")
def test_builds_for_other_makers_gpus_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.version.cuda", None)
    check(ServePlan(Machine(unreadable="no NVML"), ()), Requested())
    with pytest.raises(CannotServe, match="built without CUDA"):
        check(ServePlan(READY, ()), Requested())


@pytest.mark.usefixtures("gpu_build")
def test_a_folder_without_tuned_kernels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_TUNED_CONFIG_FOLDER", str(tmp_path))
    (problem,) = problems(ServePlan(READY, ()), Requested())
    assert "NVIDIA_H100_80GB_HBM3_SHRINK.json" in problem


@pytest.mark.usefixtures("gpu_build")
def test_vllm_is_started_with_what_was_chosen_for_the_machine(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["8B"]))
    given = ServingSettings(model=str(tmp_path), lora_preset="specialized", max_cpu_loras=40)
    roomy = replace(READY, memory=128 * GIB)
    settings, made = settled(given, [], roomy)
    argv = arguments(settings, [], made.options)
    assert {"--max-loras=32", "--max-cpu-loras=40", "--max-model-len=32768",
            "--specialize-active-lora"} <= set(argv)  # fmt: skip
    read = variables(settings, made)
    assert (read["LORARY_MAX_LORAS"], read["LORARY_MAX_MODEL_LEN"]) == ("32", "32768")
    with pytest.raises(CannotServe, match="not allowed"):
        settled(given, ["--max-loras=2"], roomy)
    with pytest.raises(CannotServe, match="2 GPUs are requested"):
        settled(given, ["-tp=2"], roomy)


def test_the_smallest_of_unequal_gpus_decides() -> None:
    cpu = {name: getattr(ServingSettings(), name) for name in CHOSEN}
    mixed, small = (
        choose(Machine(gpus=gpus, memory=128 * GIB), shape("8B"), Requested(), cpu)
        for gpus in ((KNOWN["h200"], KNOWN["l4"]), (KNOWN["l4"], KNOWN["l4"]))
    )
    assert (mixed.settings, mixed.parts) == (small.settings, small.parts)


def test_every_process_of_the_replica_reads_what_was_chosen(tmp_path: Path) -> None:
    settings = ServingSettings(model=str(tmp_path), max_loras=12, lora_preset="dual-stream")
    made = plan_for(settings, [], READY)
    read = variables(settings, made)
    assert read["LORARY_MAX_LORAS"] == "12"
    assert read["VLLM_LORA_ENABLE_DUAL_STREAM"] == "1"
    assert variables(settings, plan_for(settings, [], Machine())) == {}
