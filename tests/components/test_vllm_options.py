"""The installed vLLM's own options and figures: each option that matters was looked at, every
spelling of a refused one is refused, and what is computed is what vLLM takes."""

import argparse
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm.engine.arg_utils")
from vllm import envs
from vllm.engine import arg_utils
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.lora.utils import get_captured_lora_counts
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.utils.import_utils import resolve_obj_by_qualname
from vllm.v1.executor import Executor

from serving.errors import CannotServe
from serving.hardware.budget import UTILISATION, steps
from serving.hardware.cpu import IN_ENGINE
from serving.hardware.devices import KNOWN
from serving.hardware.memory import read_shape, slot_bytes
from serving.hardware.presets import PRESETS, Name, graph_counts
from serving.hardware.requested import _READ
from serving.options import FAMILIES, FIXED, check_options
from serving.tiers.recovery import TOP
from tests.support.tiny_model import one_thread, write_tiny_model
from tests.support.vllm_worker import MAX_RANK, Judge

MATTER = {"options", "optional arguments", "Frontend", "LoRAConfig", "SchedulerConfig",
          "ParallelConfig", "ObservabilityConfig", "VllmConfig"}  # fmt: skip
"""Groups of options that could open a way around the gateway or contradict it."""
_LOOKED_AT = """
--aggregate-engine-logging --enable-log-requests --fail-on-environ-validation
--data-parallel-size -dp
--gdn-prefill-backend --kda-decode-backend --kda-prefill-backend --shutdown-timeout
--help --chat-template --chat-template-content-format --default-chat-template-kwargs
--response-role --return-tokens-as-token-ids --enable-auto-tool-choice
--exclude-tools-when-tool-choice-none --tool-call-parser --tool-parser-plugin --tool-strict-level
--max-log-len --enable-prompt-tokens-details --enable-per-request-metrics
--enable-server-load-tracking --enable-force-include-usage
--enable-tokenizer-info-endpoint --enable-log-outputs --enable-log-deltas
--cohere-is-reasoning-model --cohere-format --anthropic-disabled-thinking-effort --log-error-stack
--enable-scale-out --fingerprint-mode --fingerprint-value --uvicorn-log-level
--disable-access-log-for-endpoints --allow-credentials --allowed-methods --allowed-headers
--ssl-keyfile --ssl-certfile --ssl-ca-certs --enable-ssl-refresh --ssl-cert-reqs --ssl-ciphers
--enable-request-id-headers --h11-max-incomplete-event-size --h11-max-header-count
--enable-offline-docs --enable-flash-late-interaction --enable-tower-connector-lora
--fully-sharded-loras --specialize-active-lora --enable-mixed-moe-lora-format
--enable-moe-shared-loras --max-num-batched-tokens
--max-num-scheduled-tokens --max-num-seqs --long-prefill-token-threshold
--long-prefill-token-threshold-adaptive --enable-chunked-prefill --disable-chunked-mm-input
--scheduler-reserve-full-isl --watermark --prefill-schedule-interval
--disable-hybrid-kv-cache-manager --async-scheduling --stream-interval
--distributed-executor-backend --pipeline-parallel-size -pp --distributed-timeout-seconds
--cpu-distributed-timeout-seconds --numa-bind --numa-bind-nodes --numa-bind-cpus
--tensor-parallel-size -tp --decode-context-parallel-size -dcp --dcp-comm-backend
--dcp-q-replicate --dcp-kv-cache-interleave-size --cp-kv-cache-interleave-size
--prefill-context-parallel-size -pcp --enable-hc-sp --enable-expert-parallel -ep
--enable-batch-sharded-sampling --enable-ep-weight-filter --all2all-backend --enable-dbo
--enable-shm-tensor-arena --ubatch-size --dbo-decode-token-threshold --dbo-prefill-token-threshold
--disable-nccl-for-dp-synchronization --enable-eplb --eplb-config --expert-placement-strategy
--max-parallel-loading-workers --ray-workers-use-nsight --disable-custom-all-reduce
--enable-fault-tolerance --fault-tolerance-config --show-hidden-metrics-for-version
--otlp-traces-endpoint --collect-detailed-traces --per-request-spec-decode-metrics
--kv-cache-metrics --kv-cache-metrics-sample --custom-histogram-buckets --cudagraph-metrics
--enable-layerwise-nvtx-tracing --enable-mfu-metrics --enable-logging-iteration-details
--jit-monitor-mode --jit-monitor-verbose --speculative-config -sc --spec-method --spec-model
--spec-tokens --watermark-config --diffusion-config -dc --kv-events-config --ec-transfer-config
--ec-manager-config --compilation-config -cc --attention-config -ac --engram-config
--reasoning-config --kernel-config --additional-config --aux-output-config --profiler-config
--optimization-level --performance-mode
"""
PASSED = frozenset(_LOOKED_AT.split())
"""Options of those groups that were looked at for vLLM 0.32 and change nothing that the gateway
counts on: routes that they add are not on its list, requests that they allow it refuses, and what
may change an answer is part of the engine's fingerprint."""


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = make_arg_parser(FlexibleArgumentParser())
    return made


def spellings(parser: argparse.ArgumentParser, groups: set[str] | None = None) -> Iterator[str]:
    """Option strings without their `--no-` forms."""
    for group in parser._action_groups:
        if groups is None or group.title in groups:
            for action in group._group_actions:
                yield from (one for one in action.option_strings if not one.startswith("--no-"))


def is_refused(*arguments: str) -> bool:
    try:
        check_options(arguments)
    except CannotServe:
        return True
    return False


def test_every_option_that_matters_was_looked_at(parser: argparse.ArgumentParser) -> None:
    found = {one for one in spellings(parser, MATTER) if one != "-h"}
    unknown = sorted(one for one in found - PASSED if not is_refused(one))
    assert not unknown, "new in this vLLM: refuse them in serving/options.py, or pass them here"
    assert sorted(one for one in found & PASSED if is_refused(one)) == []
    assert sorted(PASSED - found) == [], "gone from this vLLM"


def test_the_executor_that_lorary_names_for_few_cores_is_one_of_vllms() -> None:
    assert issubclass(resolve_obj_by_qualname(IN_ENGINE), Executor)


def test_what_is_refused_exists(parser: argparse.ArgumentParser) -> None:
    known = set(spellings(parser))
    assert sorted(set(FIXED) - known) == []
    assert all(any(one.startswith(start) for one in known) for start in FAMILIES)


def test_no_spelling_of_a_refused_option_gets_through(parser: argparse.ArgumentParser) -> None:
    """Whatever the parser takes for a refused option: abbreviated, with underscores, negated, with
    a value or a key of one."""
    every = sorted(set(spellings(parser)) | {
        one for action in parser._actions for one in action.option_strings
    })  # fmt: skip
    tried = 0
    for option in every:
        if not is_refused(option):
            continue
        for end in range(3, len(option) + 1) if option.startswith("--") else [len(option)]:
            short = option[:end]
            meant = {one for one in every if one.startswith(short)}
            if short not in every and len(meant) > 1:
                continue  # vLLM's parser calls it ambiguous
            if short in every and short != option:
                continue  # it is another option
            for spelled, tail in product({short, short.replace("-", "_").replace("__", "--", 1)},
                                         ("", "=1", ".key", ".key=1")):  # fmt: skip
                assert is_refused(f"{spelled}{tail}"), f"{spelled}{tail}"
                tried += 1
    assert tried > 1000


def test_options_that_the_plan_reads_and_sets_exist(parser: argparse.ArgumentParser) -> None:
    known = set(spellings(parser))
    assert set(_READ) | {short for short in _READ.values() if short} <= known
    for preset in PRESETS.values():
        assert set(preset.options) <= known
        assert preset.variables.keys() <= envs.environment_variables.keys()
    assert {"VLLM_LORA_DISABLE_PDL", "VLLM_TUNED_CONFIG_FOLDER"} <= set(envs.environment_variables)


def test_the_plan_computes_with_vllms_own_defaults(
    parser: argparse.ArgumentParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parser.get_default("gpu_memory_utilization") == UTILISATION
    assert parser.get_default("max_logprobs") >= TOP
    for gpu in KNOWN.values():
        platform = SimpleNamespace(
            get_device_total_memory=lambda gpu=gpu: gpu.memory,
            get_device_name=lambda gpu=gpu: gpu.name,
            is_tpu=lambda: False,
            is_cpu=lambda: False,
        )
        monkeypatch.setattr(arg_utils, "current_platform", platform)
        tokens, sequences = arg_utils.EngineArgs.get_batch_defaults(1)
        server = next(usage for usage in tokens if "API_SERVER" in str(usage))
        assert steps(gpu) == (sequences[server], tokens[server]), gpu.name


@pytest.mark.parametrize("slots", [1, 2, 3, 8, 31, 32, 33])
def test_graphs_are_counted_as_vllm_captures_them(slots: int) -> None:
    names: tuple[Name, ...] = ("standard", "specialized")
    for name in names:
        specialized = name == "specialized"
        assert graph_counts(name, slots) == 1 + len(get_captured_lora_counts(slots, specialized))


def test_a_slot_takes_in_vllm_what_is_computed(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    shape = read_shape(tmp_path)
    assert shape is not None
    with one_thread():
        manager: Any = Judge(tmp_path)._worker._adapter_manager
    taken = 0
    for module in manager.modules.values():
        buffers = (module.lora_a_stacked, module.lora_b_stacked)
        for held in buffers:
            for tensor in held if isinstance(held, tuple) else (held,):
                taken += tensor[0].nbytes
    assert abs(taken - slot_bytes(shape, MAX_RANK)) < 0.1 * taken
