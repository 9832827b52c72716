"""What may follow `lorary serve --`, in every spelling that vLLM's parser takes."""

import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serving.errors import CannotServe
from serving.hardware.cpu import EXECUTOR, IN_ENGINE
from serving.launch import arguments, environment, preflight, refuse_taken
from serving.options import LOGPROBS, check_engine, check_options
from serving.request.fields import MAX_CHOICES
from serving.settings import ServingSettings
from tests.support.tiny_model import write_tiny_model


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ("--max-loras=2", "LORARY_MAX_LORAS"),
        ("--max_loras", "LORARY_MAX_LORAS"),
        ("--max-lora", "LORARY_MAX_LORA"),
        ("--max-cpu-loras", "LORARY_MAX_CPU_LORAS"),
        ("--max_cpu_loras=4", "LORARY_MAX_CPU_LORAS"),
        ("--max-cpu", "LORARY_MAX_CPU_LORAS"),
        ("--max-lora-rank=512", "LORARY_MAX_LORA_RANK"),
        ("--max-model-len", "LORARY_MAX_MODEL_LEN"),
        ("--no-enable-lora", "gateway depends"),
        ("--no_enable_lora", "gateway depends"),
        ("--no-enable-lo", "gateway depends"),
        ("--enable-lora", "gateway depends"),
        ("--enable-prompt-embeds", "gateway depends"),
        ("--enable_prompt_emb", "gateway depends"),
        ("--scheduling-policy=fcfs", "gateway depends"),
        ("--lora-modules", "lorary push"),
        ("--lora_modules=a=/tmp", "lorary push"),
        ("--lora-target-modules", "leave out part"),
        ("--lora-dtype=float16", "lorary push"),
        ("--lor", "lorary push"),
        ("--default-mm-loras.image", "lorary push"),
        ("--middleware", "around the gateway"),
        ("--middlew=x", "around the gateway"),
        ("--mid", "around the gateway"),
        ("--grpc", "around the gateway"),
        ("--grpc-port=1234", "around the gateway"),
        ("--trust-request-mm-kwargs", "around the gateway"),
        ("--data-par=8", "--data-parallel-size alone"),
        ("--data-parallel-s=8", "--data-parallel-size alone"),
        ("--data-parallel-size-local=1", "--data-parallel-size alone"),
        ("--data-parallel-size.x", "--data-parallel-size alone"),
        ("--no-data-parallel-size", "--data-parallel-size alone"),
        ("--data-parallel-rank=1", "--data-parallel-size alone"),
        ("--data_parallel_start_rank", "--data-parallel-size alone"),
        ("--data-parallel-backend=ray", "--data-parallel-size alone"),
        ("--data-parallel-address", "--data-parallel-size alone"),
        ("--data-parallel-multi-port-external-lb", "--data-parallel-size alone"),
        ("--data-parallel-hybrid-lb", "more replicas"),
        ("--no-data-parallel-external-lb", "more replicas"),
        ("-dpl", "more replicas"),
        ("-dp2", "--data-parallel-size alone"),
        ("-d", "more replicas"),
        ("--dp-sync-interval", "more replicas"),
        ("--api-server-count=4", "One API process serves all ranks"),
        ("--api-server-count=1", "more replicas"),
        ("--api_server_count", "more replicas"),
        ("--api-s=4", "more replicas"),
        ("-asc", "more replicas"),
        ("-as", "more replicas"),
        ("--headless", "more replicas"),
        ("--nnodes=2", "one machine"),
        ("-n2", "one machine"),
        ("-n", "one machine"),
        ("-r=1", "one machine"),
        ("--node_rank", "one machine"),
        ("--master-addr", "one machine"),
        ("--scheduler-cls=my.Scheduler", "gateway depends"),
        ("--worker-cls", "gateway depends"),
        ("--tokens-only", "gateway depends"),
        ("--sse-keep-alive-interval=5", "first token"),
        ("--skip-tokenizer-init", "gateway depends"),
        ("--max-num-active-seqs=4", "--max-num-seqs"),
        ("--max-num-queued-reqs=4", "LORARY_CONCURRENCY"),
        ("--max_num_queued_tokens", "LORARY_CONCURRENCY"),
        ("--device-ids=1", "CUDA_VISIBLE_DEVICES"),
        ("--kv-transfer-config.kv_connector", "adapters and tenants"),
        ("--kv-offloading-backend=lmcache", "--kv-offloading-size alone"),
        ("--weight-transfer-config", "is registered"),
        ("--tool-server=demo", "around the gateway"),
        ("--enable-trace-replay", "around the gateway"),
        ("--config", "one by one"),
        ("--config=a.yaml", "one by one"),
        ("--conf", "one by one"),
        ("--no-disable-fastapi-docs", "gateway depends"),
        ("--model.x=1", "LORARY_MODEL"),
        ("--served_model_name", "LORARY_BASE_NAME"),
        ("--no-", "."),
        ("--", "."),
    ],
)
def test_an_option_that_gate_and_engine_would_disagree_about_is_refused(
    option: str, instead: str
) -> None:
    with pytest.raises(CannotServe, match="is not allowed") as refused:
        arguments(ServingSettings(), ["--max-num-seqs=32", option, "4"])
    assert instead in refused.value.message


def test_other_options_are_passed_on_as_they_are() -> None:
    extra = [
        "--max-num-seqs", "32", "--enable-auto-tool-choice", "--tool-call-parser=hermes",
        "-tp", "2", "--model-loader-extra-config.a", "-1", "--no-enable-prefix-caching", "-O3",
        "--seed=-1", "--gpu-memory-utilization=0.92", "-q=fp8", "--enable-lora-something-of-later",
        "--speculative-config.model", "max-loras", "-cc.level=3", "--fully-sharded-loras",
    ]  # fmt: skip
    assert arguments(ServingSettings(), extra)[-len(extra) :] == extra


def test_a_model_in_place_of_an_option_is_refused() -> None:
    """vLLM's launcher takes it and quietly serves LORARY_MODEL."""
    with pytest.raises(CannotServe, match="'my/model' is no option"):
        arguments(ServingSettings(), ["my/model", "--seed=1"])


@pytest.mark.parametrize(
    "option",
    ["--runner=generate", "--convert", "--conv=none", "--hf-overrides={}", "--hf_overrides",
     "--hf-overrides.method", "--pooler-config={}", "--max-lora-cls-labels=4"],
)  # fmt: skip
def test_how_heads_are_read_is_not_to_be_set_by_vllms_options(option: str) -> None:
    with pytest.raises(CannotServe, match="is not allowed"):
        check_options([option], "classify")
    if "cls" not in option:
        check_options([option])


def test_a_server_that_classifies_gives_the_base_a_head_of_one_row(tmp_path: Path) -> None:
    model = str(write_tiny_model(tmp_path / "base"))
    given = arguments(ServingSettings(task="classify", max_labels=20, model=model))
    assert {"--runner=pooling", "--convert=classify", "--max-lora-cls-labels=20"} <= set(given)
    (overrides,) = [one for one in given if one.startswith("--hf-overrides=")]
    tokens = json.loads(overrides.partition("=")[2])["classifier_from_token"]
    assert len(tokens) == 1, "more rows, and vLLM offers neither /score nor /rerank"
    assert "--runner=pooling" not in arguments(ServingSettings())


def test_the_replica_learns_the_task_that_the_command_line_gave() -> None:
    assert environment(ServingSettings(task="classify"))["LORARY_TASK"] == "classify"


@pytest.mark.parametrize(
    "given",
    [["--data-parallel-size=2"], ["--data_parallel_size", "2"], ["-dp", "2"], ["-dp=2"]],
)
def test_the_number_of_data_parallel_ranks_may_be_chosen(given: list[str]) -> None:
    assert arguments(ServingSettings(), given)[-len(given) :] == given
    with pytest.raises(CannotServe, match="Run more replicas"):
        check_options(given, "classify")


def running(**changed: Any) -> SimpleNamespace:
    """vLLM's configuration, as the default settings have it come up."""
    found = {"max_loras": 4, "max_cpu_loras": 16, "max_lora_rank": 64, "data_parallel_size": 1}
    found |= changed
    lora = SimpleNamespace(**found) if found.get("enable_lora", True) else None
    scheduler = SimpleNamespace(policy=found.get("policy", "priority"))
    model = SimpleNamespace(
        max_logprobs=found.get("max_logprobs", 20), convert_type=found.get("convert_type", "none")
    )
    return SimpleNamespace(
        lora_config=lora,
        parallel_config=SimpleNamespace(**found),
        scheduler_config=scheduler,
        model_config=model,
    )


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"max_loras": 2}, "LORARY_MAX_LORAS is 4"),
        ({"max_cpu_loras": 4}, "LORARY_MAX_CPU_LORAS is 16"),
        ({"max_lora_rank": 8}, "LORARY_MAX_LORA_RANK is 64"),
        ({"enable_lora": False}, "without adapters"),
        ({"policy": "fcfs"}, "not 'priority'"),
        ({"max_logprobs": 0}, "Raise --max-logprobs"),
        ({"max_logprobs": LOGPROBS - 1}, "Raise --max-logprobs"),
        ({"convert_type": "classify"}, "LORARY_TASK is 'generate'"),
    ],
)
def test_an_engine_that_came_up_otherwise_is_not_served(changed: dict[str, Any], told: str) -> None:
    settings = ServingSettings(max_loras=4, max_cpu_loras=16, max_lora_rank=64)
    check_engine(running(), settings)
    for enough in (LOGPROBS, -1):
        check_engine(running(max_logprobs=enough), settings)
    with pytest.raises(CannotServe, match=told):
        check_engine(running(**changed), settings)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"max_lora_cls_labels": 2}, "LORARY_MAX_LABELS is 64"),
        ({"convert_type": "none"}, "LORARY_TASK is 'classify'"),
    ],
)
def test_an_engine_that_would_not_classify_is_not_served(
    changed: dict[str, Any], told: str
) -> None:
    settings = ServingSettings(task="classify", max_labels=64, max_lora_rank=64)
    sound = {"convert_type": "classify", "max_lora_cls_labels": 64}
    check_engine(running(**sound), settings)
    with pytest.raises(CannotServe, match=told):
        check_engine(running(**sound | changed), settings)


RANKS = {
    "data_parallel_size": 8,
    "data_parallel_size_local": 8,
    "data_parallel_external_lb": False,
    "data_parallel_hybrid_lb": False,
}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"data_parallel_size_local": 4}, "not this process's"),
        ({"data_parallel_external_lb": True}, "not this process's"),
        ({"data_parallel_hybrid_lb": True}, "not this process's"),
        ({"is_moe": True}, "lockstep"),
        ({"runner_type": "pooling"}, "generate no text"),
    ],
)
def test_ranks_are_served_where_one_process_reaches_them_all_and_chooses_among_them(
    changed: dict[str, Any], told: str
) -> None:
    def with_model(is_moe: bool = False, runner_type: str = "generate", **of_ranks: Any) -> Any:
        config = running(**(RANKS | of_ranks))
        config.model_config = SimpleNamespace(
            is_moe=is_moe, runner_type=runner_type, max_logprobs=20, convert_type="none"
        )
        return config

    settings = ServingSettings(max_loras=4, max_cpu_loras=16, max_lora_rank=64)
    check_engine(with_model(), settings)
    with pytest.raises(CannotServe, match=told) as refused:
        check_engine(with_model(**changed), settings)
    assert "more replicas" in refused.value.message


def test_vllms_own_load_routes_key_and_rust_front_end_are_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    set_by_lorary = environment(ServingSettings())
    assert set_by_lorary["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "0"
    assert set_by_lorary["VLLM_USE_RUST_FRONTEND"] == "0"
    assert set_by_lorary["VLLM_API_KEY"] == ""
    ours = {"lorary-endpoints", "lorary-metrics", "lorary-cpu-lora"}
    assert set(set_by_lorary["VLLM_PLUGINS"].split(",")) == ours
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    with pytest.raises(CannotServe, match="VLLM_USE_RUST_FRONTEND"):
        preflight(ServingSettings(store=str(tmp_path), model="hub/model"))


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_a_server_listens_on_ipv6_unless_the_port_is_taken() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6) as other:
        port = other.getsockname()[1]
        with pytest.raises(CannotServe, match=f"Port {port} on ::"):
            refuse_taken("::", port)
    refuse_taken("::", port)


def test_a_step_on_a_cpu_is_short_unless_the_operator_sets_its_size() -> None:
    settings = ServingSettings()
    assert {"--max-num-seqs=64", "--max-num-batched-tokens=96"} <= set(arguments(settings))
    for option in ("--max-num-seqs=8", "--max_num_batched_tokens=2048"):
        given = arguments(settings, [option])
        assert [one for one in given if "max-num" in one.replace("_", "-")] == [option]


@pytest.mark.parametrize(
    ("capability", "extra", "dtypes"),
    [
        ("AVX2", [], ["--dtype=float32"]),
        ("AVX2", ["--dtype=bfloat16"], ["--dtype=bfloat16"]),
        ("AVX512", [], []),
        ("DEFAULT", [], []),
    ],
)
def test_a_cpu_that_computes_bfloat16_slowly_computes_in_float32_unless_the_operator_says_otherwise(
    capability: str, extra: list[str], dtypes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    given = arguments(ServingSettings(), extra)
    assert [option for option in given if option.startswith("--dtype")] == dtypes


@pytest.mark.parametrize("cores", [1, 2, 4])
def test_on_few_cores_the_engine_computes_itself_with_a_thread_for_each_core(
    cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.hardware.devices.cpus", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    given = arguments(ServingSettings())
    assert f"{EXECUTOR}={IN_ENGINE}" in given
    set_by_lorary = environment(ServingSettings(), given)
    assert set_by_lorary["OMP_NUM_THREADS"] == str(cores)
    assert set_by_lorary["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    on_two_ranks = environment(ServingSettings(), [*given, "--data-parallel-size=2"])
    assert on_two_ranks["OMP_NUM_THREADS"] == str(max(1, cores // 2))
    on_none = environment(ServingSettings(), [*given, "--data-parallel-size=0"])  # vLLM refuses it
    assert on_none["OMP_NUM_THREADS"] == str(cores)
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert environment(ServingSettings(), given)["OMP_NUM_THREADS"] == str(cores)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert environment(ServingSettings(), given)["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize(
    ("cores", "extra", "binding"),
    [
        (8, [], None),
        (2, [], "0"),
        (2, ["--tensor-parallel-size=2"], None),
        (2, ["-pp", "2"], None),
        (2, ["-t", "2"], None),
        (2, ["-pcp", "2"], None),
        (2, ["--prefill_context_parallel=2"], None),
        (2, ["--distributed_executor_backend", "mp"], None),
    ],
)
def test_vllms_own_executor_stays_on_many_cores_and_where_the_operator_sets_processes_or_cores(
    cores: int, extra: list[str], binding: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.hardware.devices.cpus", lambda: cores)
    if binding is not None:
        monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", binding)
    given = arguments(ServingSettings(), extra)
    assert f"{EXECUTOR}={IN_ENGINE}" not in given
    assert "VLLM_CPU_OMP_THREADS_BIND" not in environment(ServingSettings(), given)


def test_vllm_compiles_grammars_as_they_were_tried_and_bounds_what_it_keeps() -> None:
    (given,) = (one for one in arguments(ServingSettings()) if "structured-outputs" in one)
    config = json.loads(given.partition("=")[2])
    assert config == {"backend": "xgrammar", "disable_any_whitespace": True}
    set_by_lorary = environment(ServingSettings())
    assert set_by_lorary["VLLM_MAX_N_SEQUENCES"] == str(MAX_CHOICES)
    assert 0 < int(set_by_lorary["VLLM_XGRAMMAR_CACHE_MB"]) <= 512
