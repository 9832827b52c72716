"""What a replica is set to on a GPU: it fits, says why, and is refused early where it cannot.

Computed from shapes. Nothing here was run on a GPU.
"""

import itertools
import json
import os
import re
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.errors import CannotServe
from serving.hardware.budget import Requested
from serving.hardware.defaults import CHOSEN, ServePlan, choose
from serving.hardware.devices import GIB, KNOWN, Gpu, Machine, cpus
from serving.hardware.fit import HOST_LIMIT
from serving.hardware.memory import Shape, adapter_bytes, read_shape, slot_bytes, token_bytes
from serving.hardware.presets import PRESETS, graph_counts, missing_tables, variables
from serving.hardware.requested import parse_request, read_options
from serving.launch import arguments, environment, run
from serving.plan_report import as_value
from serving.settings import ServingSettings
from serving.sizing import machine_named, plan_for
from tests.support.bases import CONFIGS, shape
from tests.support.servers import BIN

ROOT = Path(__file__).resolve().parents[2]
CPU = {name: getattr(ServingSettings(), name) for name in CHOSEN}
FITS = {
    ("1B", "l4", 1), ("1B", "a10", 1), ("1B", "a100-40", 1), ("1B", "h200", 1),
    ("8B", "l4", 1), ("8B", "a10", 1), ("8B", "a100-40", 1), ("8B", "a100-80", 1),
    ("8B", "h100", 1), ("8B", "h200", 1), ("70B", "l4", 8), ("70B", "a100-80", 2),
    ("70B", "a100-80", 4), ("70B", "h100", 2), ("70B", "h100", 4), ("70B", "h200", 2),
}  # fmt: skip
TOO_SMALL = {
    ("70B", "l4", 1), ("70B", "l4", 4), ("70B", "a10", 4), ("70B", "a100-40", 2),
    ("70B", "h100", 1), ("70B", "h200", 1),
}  # fmt: skip


def machine(gpu: str, count: int = 1, host_gib: int = 128, cpus: int = 16) -> Machine:
    return Machine(gpus=(KNOWN[gpu],) * count, memory=host_gib * GIB, cpus=cpus)


def plan(size: str, gpu: str, count: int = 1, host_gib: int = 128, **asked: Any) -> ServePlan:
    return choose(machine(gpu, count, host_gib), shape(size), Requested(**asked), CPU)


def value(made: ServePlan, name: str) -> str:
    return next(str(choice.value) for choice in made.choices if choice.name == name)


@pytest.mark.parametrize(("size", "gpu", "count"), sorted(FITS))
def test_what_is_chosen_fits_into_the_gpu_and_the_host(size: str, gpu: str, count: int) -> None:
    for rank, host in itertools.product((16, 64), (64, 256)):
        made = plan(size, gpu, count, host * count, rank=rank)
        assert not made.problems
        used = Counter[str]()
        for part in made.parts:
            used[part.of] += part.size
        assert used["GPU"] <= KNOWN[gpu].memory
        assert used["host"] <= HOST_LIMIT * host * count * GIB
        chosen = made.settings
        assert set(chosen) == set(CHOSEN)
        assert chosen["max_loras"] <= chosen["max_cpu_loras"]
        assert not any("dtype" in option for option in made.options), "they have bfloat16"
        assert all(choice.why for choice in made.choices)


@pytest.mark.parametrize(("size", "gpu", "count"), sorted(TOO_SMALL))
def test_a_model_that_does_not_fit_is_refused_with_its_size(
    size: str, gpu: str, count: int
) -> None:
    (problem, *_) = plan(size, gpu, count).problems
    assert re.search(r"takes \d+\.\d GiB", problem)
    assert "--tensor-parallel-size" in problem


def test_a_model_that_leaves_less_than_a_slot_is_too_large() -> None:
    eight = shape("8B")
    used = eight.weight_bytes + GIB + slot_bytes(eight, 16) // 2
    (problem,) = plan("8B", "l4", utilisation=used / KNOWN["l4"].memory).problems
    assert problem.startswith("The base model takes 15.0 GiB")


def test_a_gpu_gets_more_than_a_small_cpus_defaults() -> None:
    chosen = plan("8B", "h100").settings
    assert chosen["max_loras"] == 32
    assert chosen["max_model_len"] == 32_768
    for name in CHOSEN:
        assert chosen[name] > CPU[name], name


def test_as_few_gpus_as_hold_the_model_are_used() -> None:
    found = {
        (size, gpu, count): value(plan(size, gpu, count), "tensor parallel")
        for size, gpu, count in FITS
    }
    assert found["8B", "h100", 1] == "1"
    assert value(plan("8B", "h100", 8), "tensor parallel") == "1"
    assert found["70B", "h200", 2] == "2"
    assert found["70B", "h100", 4] == "4", "two would leave little for slots and KV cache"
    assert found["70B", "l4", 8] == "8"
    assert "--tensor-parallel-size=4" in plan("70B", "h100", 4).options
    assert not any("tensor" in option for option in plan("70B", "h100", 4, tensor=4).options)


@pytest.mark.parametrize("name", CHOSEN)
def test_whatever_is_set_stays_and_is_shown_as_set(name: str) -> None:
    set_ = {name: 48 if name == "max_cpu_loras" else 3}
    made = plan("8B", "h100", settings=set_)
    assert made.settings[name] == set_[name]
    (choice,) = (choice for choice in made.choices if choice.name == name)
    assert choice.given
    assert choice.why == "set by you"


def test_no_more_slots_are_chosen_than_adapters_were_allowed() -> None:
    assert plan("8B", "h100", settings={"max_cpu_loras": 9}).settings["max_loras"] == 8
    chosen = plan("8B", "h100", host_gib=8, settings={"max_loras": 40}).settings
    assert chosen["max_cpu_loras"] >= 40


def test_256_adapters_of_rank_64_of_an_8b_model_are_refused_with_what_they_take() -> None:
    made = plan("8B", "h100", host_gib=96, rank=64, settings={"max_cpu_loras": 256})
    (problem,) = made.problems
    assert "256 adapters of rank 64 can take 86.0 GiB" in problem
    most = int(re.search(r"LORARY_MAX_CPU_LORAS to (\d+)", problem)[1])  # type: ignore[index]
    assert not plan("8B", "h100", host_gib=96, rank=64, settings={"max_cpu_loras": most}).problems
    assert plan("8B", "h100", host_gib=96, rank=64, settings={"max_cpu_loras": most + 1}).problems


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"rank": 512, "settings": {"max_loras": 32}}, "slots of rank 512 take"),
        ({"settings": {"max_model_len": 100_000}}, "less than one request of 100,000"),
        ({"kv_bytes": 40 * GIB, "kv_set": True}, "A KV cache of 40.0 GiB is requested"),
        ({"tensor": 2}, "2 GPUs are requested, and 1 are visible"),
        ({"pipeline": 2}, "2 GPUs are requested, and 1 are visible"),
        ({"settings": {"max_cpu_loras": 5000}}, "5000 adapters of rank 16"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_loaded(
    asked: dict[str, Any], told: str
) -> None:
    assert any(told in problem for problem in plan("8B", "l4", **asked).problems)


def test_every_worker_keeps_its_own_copy_of_an_adapter_in_host_memory() -> None:
    two, four = plan("70B", "h200", 2), plan("70B", "h200", 4, tensor=4)
    assert two.settings["max_cpu_loras"] // 2 == four.settings["max_cpu_loras"]


def test_every_data_parallel_rank_has_the_model_and_every_adapter() -> None:
    one, two = plan("8B", "h100"), plan("8B", "h100", 2, data=2)
    assert not two.problems
    assert two.settings["max_loras"] == one.settings["max_loras"]
    assert two.settings["max_cpu_loras"] == one.settings["max_cpu_loras"] // 2
    assert two.settings["concurrency"] == 2 * one.settings["concurrency"]
    assert value(plan("70B", "h200", 4, data=2), "tensor parallel") == "2"
    (problem,) = plan("8B", "h100", 2, data=3).problems
    assert "3 GPUs are requested, and 2 are visible" in problem


def test_sizes_are_those_that_vllm_and_pytorch_take() -> None:
    eight = shape("8B")
    # 84 MB is the size of such an adapter's file, rank 16 in bfloat16 on all linear modules.
    assert adapter_bytes(eight, 16, pinned=False) == 83_886_080
    # Page-locked memory comes in powers of two: 14,336 features take the place of 16,384.
    assert adapter_bytes(eight, 16, pinned=True) == 90_177_536
    assert slot_bytes(eight, 16) == 83_886_080 + 2 * (128_256 + 4096) * 16 * 2
    assert token_bytes(eight) == 128 << 10
    assert token_bytes(eight, tensor=2) == 64 << 10
    assert 15.9e9 < eight.weight_bytes < 16.2e9
    assert slot_bytes(eight, 16) / 2 < slot_bytes(eight, 16, tensor=2) < slot_bytes(eight, 16)


@pytest.mark.parametrize("smaller", [{"sequences": 8}, {"tokens": 96}])
def test_a_smaller_step_leaves_more_for_the_cache(smaller: dict[str, int]) -> None:
    default, small = plan("8B", "l4"), plan("8B", "l4", **smaller)
    assert small.parts[2].size < default.parts[2].size
    assert small.parts[3].size > default.parts[3].size


def test_gpus_share_a_model_only_in_numbers_that_divide_its_heads() -> None:
    odd = replace(shape("70B"), heads=12)
    made = choose(machine("l4", 8), odd, Requested(), CPU)
    assert value(made, "tensor parallel") == "4"


def test_more_gpus_than_key_heads_repeat_the_heads() -> None:
    big = shape("70B")
    assert token_bytes(big, tensor=16) == token_bytes(big, tensor=8)
    assert token_bytes(big, pipeline=2) == token_bytes(big) // 2
    numbers = 80 * (  # q, o, gate, up, down over 16 GPUs; k and v over their 8 heads
        (8192 + 512) * 2 + (8192 + 128) * 2 + (8192 + 1792) * 3
    ) + 2 * (128_256 + 8192)  # fmt: skip
    assert slot_bytes(big, 16, tensor=16) == numbers * 16 * 2
    vocabulary = 2 * (128_256 + 8192) * 16 * 2
    whole, half = slot_bytes(big, 16), slot_bytes(big, 16, pipeline=2)
    assert half - vocabulary == (whole - vocabulary) // 2


def test_a_shape_is_read_from_the_models_own_files(tmp_path: Path) -> None:
    assert read_shape(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps({"text_config": CONFIGS["1B"]}))
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    read = read_shape(tmp_path)
    assert read is not None
    assert (read.weight_bytes, read.layers, read.kv_heads) == (1000, 16, 8)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mystery"}))
    assert read_shape(tmp_path) is None


def test_quantised_weights_and_experts_are_counted() -> None:
    whole = shape("8B").weight_bytes
    four = Shape.of({**CONFIGS["8B"], "quantization_config": {"quant_method": "awq"}})
    mixed = Shape.of({**CONFIGS["8B"], "num_local_experts": 8})
    assert four is not None
    assert mixed is not None
    assert 0.25 * whole < four.weight_bytes < 0.45 * whole
    assert 5 * whole < mixed.weight_bytes < 8 * whole
    assert adapter_bytes(mixed, 16, pinned=False) > 4 * adapter_bytes(shape("8B"), 16, pinned=False)


def test_only_what_surely_does_not_fit_is_refused() -> None:
    """Sliding windows and compressed keys take less; some options change what is computed."""
    asked = Requested(settings={"max_model_len": 100_000})
    plain = choose(machine("l4"), shape("8B"), asked, CPU)
    assert plain.problems
    sliding = Shape.of({**CONFIGS["8B"], "sliding_window": 4096})
    assert not choose(machine("l4"), sliding, asked, CPU).problems
    assert not choose(machine("l4"), shape("8B"), replace(asked, uncertain=True), CPU).problems
    assert plan("70B", "h100").problems
    assert not plan("70B", "h100", offloaded=80 * GIB).problems


def test_without_the_models_size_nothing_is_made_up() -> None:
    made = choose(machine("h100"), None, Requested(), CPU)
    assert made.settings == CPU
    assert all("size is unknown" in choice.why for choice in made.choices)


def test_a_cpu_keeps_its_defaults_and_is_refused_what_its_memory_cannot_hold() -> None:
    small = choose(Machine(memory=8 * GIB), shape("1B"), Requested(), CPU)
    assert small.settings == CPU
    assert not small.problems
    (problem,) = choose(
        Machine(memory=8 * GIB), shape("1B"), Requested(), {**CPU, "max_cpu_loras": 500}
    ).problems
    assert "500 adapters of rank 16" in problem
    preset = choose(Machine(), None, Requested(preset="specialized"), CPU)
    assert "needs a GPU" in preset.problems[0]


def test_an_older_gpu_computes_in_float16() -> None:
    old = Machine(gpus=(Gpu("Tesla T4", 15 * GIB, (7, 5)),), memory=64 * GIB)
    made = choose(old, shape("1B"), Requested(), CPU)
    assert "--dtype=float16" in made.options
    assert value(made, "dtype") == "float16"
    assert (
        "--dtype=float16" not in choose(old, shape("1B"), Requested(dtype="float32"), CPU).options
    )


def test_the_cache_setting_works_on_a_gpu() -> None:
    made = plan("8B", "h100", kv_bytes=10 * GIB, kv_set=True)
    assert f"--kv-cache-memory-bytes={10 * GIB}" in made.options
    assert not any("kv-cache" in option for option in plan("8B", "h100").options)
    set_ = parse_request({}, 16, "standard", 10, [])
    assert (set_.kv_bytes, set_.kv_set) == (10 * GIB, True)
    for settings, space in ((ServingSettings(kv_cache_gib=3), "3"), (ServingSettings(), "1")):
        assert environment(settings)["VLLM_CPU_KVCACHE_SPACE"] == space
    with pytest.raises(CannotServe, match="Set one of them"):
        parse_request({}, 16, "standard", 10, ["--gpu-memory-utilization=0.5"])


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (["-tp", "2"], {"tensor": 2}),
        (["-tp=2"], {"tensor": 2}),
        (["-dp", "2"], {"data": 2}),
        (["--data-parallel-size=4"], {"data": 4}),
        (["--tensor_parallel_size", "4"], {"tensor": 4}),
        (["--tensor-par=4"], {"tensor": 4}),
        (["-pp", "2", "--dtype", "auto"], {"pipeline": 2, "dtype": None}),
        (["--dtype=half"], {"dtype": "half"}),
        (["--gpu-memory-util=0.5"], {"utilisation": 0.5}),
        (["--device-memory-utilization", "0.5"], {"utilisation": 0.5}),
        (["--kv-cache-memory-bytes=10G"], {"kv_bytes": 10 << 30, "kv_set": False}),
        (["--kv-cache-memory-bytes", "25.6k"], {"kv_bytes": 25_600}),
        (["--kv-cache-memory-bytes=3m"], {"kv_bytes": 3 * 10**6}),
        (["--kv-cache-memory-bytes=4g"], {"kv_bytes": 4 * 10**9}),
        (["--kv-cache-memory-bytes=4K"], {"kv_bytes": 4 << 10}),
        (["--kv-cache-dtype=fp8_e5m2"], {"kv_item_bytes": 1}),
        (["--max-num-seqs", "8", "--max-num-batched-tokens=96"], {"sequences": 8, "tokens": 96}),
        (["-q", "fp8"], {"quantisation": "fp8"}),
        (["--cpu-offload-gb=1.5"], {"offloaded": 3 << 29, "uncertain": False}),
        (["--hf_overrides.num_hidden_layers", "2"], {"uncertain": True}),
        (["--load-format=dummy"], {"uncertain": True}),
    ],
)
def test_vllms_own_options_count_in_every_spelling(
    extra: list[str], expected: dict[str, Any]
) -> None:
    asked = parse_request({}, 16, "standard", None, extra)
    assert {name: getattr(asked, name) for name in expected} == expected


def test_an_option_without_a_number_is_named() -> None:
    with pytest.raises(CannotServe, match="many"):
        parse_request({}, 16, "standard", None, ["-tp", "many"])
    assert read_options(["--max-num", "3", "--seed=1"]) == {}
    assert read_options(["-t", "2", "-", "", "x"]) == {"--tensor-parallel-size": "2"}


def test_presets_say_what_they_set_and_that_they_were_not_run() -> None:
    assert PRESETS["standard"].options == ()
    assert plan("8B", "h100", preset="specialized").options == ("--specialize-active-lora",)
    assert variables("standard", (9, 0)) == {}
    assert variables("dual-stream", (9, 0)) == {"VLLM_LORA_ENABLE_DUAL_STREAM": "1"}
    assert variables("dual-stream", (10, 0))["VLLM_LORA_DISABLE_PDL"] == "1"
    unproven = {name: preset for name, preset in PRESETS.items() if name != "standard"}
    assert all("Not run" in preset.meaning for preset in unproven.values())
    # As `get_captured_lora_counts` of vLLM 0.32: 1, 2, 4, 8, 16, 32, 33, and none.
    assert graph_counts("specialized", 32) == 8
    assert graph_counts("specialized", 3) == 4
    assert graph_counts("standard", 32) == 2


def test_tuned_kernels_that_are_not_there_are_noticed(tmp_path: Path) -> None:
    name = "NVIDIA H100 80GB HBM3"
    assert "NVIDIA_H100_80GB_HBM3_SHRINK.json" in missing_tables(tmp_path, name)
    assert "NVIDIA_A100_SXM4_40GB_SHRINK.json" in missing_tables(tmp_path, KNOWN["a100-40"].name)
    for file in missing_tables(tmp_path, name):
        (tmp_path / file).write_text("{}")
    assert missing_tables(tmp_path, name) == []


def test_a_machine_is_planned_for_by_name() -> None:
    assert len(machine_named("H100x4", 512).gpus) == 4
    assert machine_named("l4", 32).memory == 32 * GIB
    for wrong in ("b1000", "h100x", "h100x0", "x4", "h100x99"):
        with pytest.raises(CannotServe, match="Name one of"):
            machine_named(wrong, 32)


def test_a_plan_is_printed_as_json_too(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["8B"]))
    settings = ServingSettings(model=str(tmp_path), max_loras=12)
    made = plan_for(settings, ["-tp=2"], machine_named("h100x2", 256))
    shown = json.loads(json.dumps(as_value(made, made.problems)))
    assert shown["settings"]["max_loras"] == {"value": 12, "why": "set by you", "given": True}
    assert shown["settings"]["tensor parallel"]["value"] == "2"
    assert sum(part["bytes"] for part in shown["memory"]) > 50 * GIB


def serve(folder: Path, model: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "config.json").write_text(json.dumps(CONFIGS["8B"]))
    return subprocess.run(
        [str(BIN / "lorary"), "serve", *options],
        env={**os.environ, "LORARY_MODEL": str(model), "LORARY_HOME": str(folder)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def shown(folder: Path, *options: str, model: Path | None = None) -> tuple[int, dict[str, Any]]:
    """`lorary serve --plan --json`; its exit status and what it prints."""
    done = serve(folder, model or folder, "--plan", "--json", *options)
    return done.returncode, json.loads(done.stdout) if done.stdout else {"error": done.stderr}


def test_the_plan_for_another_machine_is_printed_and_starts_nothing(tmp_path: Path) -> None:
    status, plan_ = shown(tmp_path, "--gpu", "h100x2", "--host-gib", "96", "--", "-tp", "2")
    assert status == 0
    assert plan_["machine"].startswith("2 x NVIDIA H100 80GB HBM3 (80 GiB): 96 GiB of host memory")
    assert plan_["settings"]["max_loras"]["value"] == 32
    assert plan_["problems"] == []
    status, plan_ = shown(tmp_path, "--gpu", "l4", "--", "--gpu-memory-utilization=0.5")
    assert status == 1
    assert "no room to serve" in plan_["problems"][0]
    status, plan_ = shown(tmp_path, "--gpu", "h100", "--", "--max-loras=3")
    assert status != 0
    assert "LORARY_MAX_LORAS" in plan_["error"]


def test_a_plan_names_its_base_model_and_says_when_it_is_not_there(tmp_path: Path) -> None:
    status, plan_ = shown(tmp_path, "--gpu", "l4")
    assert (status, plan_["model"]) == (0, str(tmp_path))
    status, plan_ = shown(tmp_path, "--gpu", "l4", model=tmp_path / "none")
    assert status == 1
    assert f"There is no model in {tmp_path / 'none'}" in plan_["error"]


def test_options_of_a_plan_without_it_are_refused(tmp_path: Path) -> None:
    for options in (["--host-gib", "96"], ["--plan", "--host-gib", "96"], ["--gpu", "l4"]):
        done = serve(tmp_path, tmp_path, *options)
        assert done.returncode == 2, options
        assert "goes with" in done.stderr


def test_serve_itself_refuses_what_does_not_fit_before_it_looks_at_anything_else(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["8B"]))
    settings = ServingSettings(
        model=str(tmp_path), store=str(tmp_path / "none"), max_cpu_loras=1_000_000
    )
    with pytest.raises(CannotServe, match="1000000 adapters of rank 16"):
        run(settings, [])


def test_the_operators_options_come_after_those_for_the_machine() -> None:
    given = arguments(ServingSettings(), ["--seed=1"], ["--tensor-parallel-size=2"])
    assert given.index("--tensor-parallel-size=2") < given.index("--seed=1")


def test_the_charts_gpu_pool_fits_its_gpu_and_its_memory() -> None:
    values = yaml.safe_load((ROOT / "helm/lorary/ci/gpu-values.yaml").read_text())
    (pool,) = values["pools"].values()
    asked = parse_request(
        {"max_loras": pool["maxLoras"], "max_cpu_loras": pool["maxCpuLoras"],
         "max_model_len": pool["maxModelLen"]},
        pool["maxLoraRank"], "standard", None, pool["vllm"],
    )  # fmt: skip
    memory = int(pool["resources"]["limits"]["memory"].removesuffix("Gi"))
    made = choose(machine("h100", pool["gpus"], memory), shape("8B"), asked, CPU)
    assert made.problems == ()


def test_the_documented_table_is_what_is_computed() -> None:
    text = (ROOT / "docs/how-to/gpu.md").read_text()
    for size, gpu, count in (
        ("1B", "l4", 1), ("8B", "l4", 1), ("8B", "a10", 1), ("8B", "a100-80", 1), ("8B", "h100", 1),
        ("8B", "h200", 1), ("70B", "a100-80", 4), ("70B", "h100", 4), ("70B", "h200", 2),
    ):  # fmt: skip
        made = plan(size, gpu, count, 128)
        chosen = made.settings
        tokens = next(re.search(r"[\d,]+(?= tokens)", part.name) for part in made.parts
                      if part.name.startswith("KV cache"))  # fmt: skip
        assert tokens
        row = (
            f"| {size} | {count} x {gpu} | {chosen['max_loras']} | {chosen['max_cpu_loras']} | "
            f"{chosen['max_model_len']:,} | {tokens[0]} |"
        )
        assert row in text, row


@pytest.mark.parametrize(
    ("limits", "found"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "6400000 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
    ],
)
def test_a_containers_cpu_limit_counts_as_fewer_cpus(
    limits: dict[str, str], found: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "cpu").mkdir()
    for name, text in limits.items():
        (tmp_path / name).write_text(f"{text}\n")
    assert cpus(tmp_path) == found
