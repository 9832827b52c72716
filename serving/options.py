"""Which of vLLM's options may follow `lorary serve --`.

Options that Lorary sets itself, that open a way around the gateway, or that make the gateway count
adapters differently than the engine are refused in every spelling that vLLM's parser (argparse,
with `_` for `-`, `--no-` before, `.key` after and unique abbreviations) would take for them. What
the engine came up with is compared with the settings as well, since vLLM also reads environment
variables.
"""

from collections.abc import Sequence
from typing import Any

from serving.errors import CannotServe
from serving.settings import ServingSettings

_REPLICAS = "Run more replicas instead, each `lorary serve` with a port of its own"
_RANKS = f"Use --data-parallel-size alone, for the devices of one machine. {_REPLICAS}"
_PROCESSES = f"One API process serves all ranks of --data-parallel-size. {_REPLICAS}"
_POOLING = (
    "vLLM does not let the gateway choose a data-parallel rank for requests that generate no text. "
    f"Leave --data-parallel-size out. {_REPLICAS}."
)
_PUBLISH = "Publish adapters to the registry instead: lorary push"
_OPEN = "It would open a way around the gateway. Leave it out"
_GATEWAY = "The gateway depends on it. Leave it out"
_ONE_MACHINE = "Adapters' files lie on this machine's disk. Use GPUs of one machine"
_WHOLE = "vLLM would leave out part of what adapters change. Leave it out"
_KV = "A KV cache outside of vLLM may mix up adapters and tenants. Leave it out"
_HEADS = "Heads are read as `--task classify` sets it. Leave it out"

FIXED = {
    "--model": "Set LORARY_MODEL instead",
    "--served-model-name": "Set LORARY_BASE_NAME instead",
    "--host": "Use `lorary serve --host` or LORARY_HOST instead",
    "--port": "Use `lorary serve --port` or LORARY_PORT instead",
    "--max-model-len": "Set LORARY_MAX_MODEL_LEN instead",
    "--max-loras": "Set LORARY_MAX_LORAS instead",
    "--max-cpu-loras": "Set LORARY_MAX_CPU_LORAS instead",
    "--max-lora-rank": "Set LORARY_MAX_LORA_RANK instead",
    "--config": "Give the options one by one after `--` instead",
    "--max-lora-cls-labels": "Set LORARY_MAX_LABELS and use `lorary serve --task classify` instead",
    "--api-key": "Issue keys with `lorary key issue` instead",
    "--enable-lora": _GATEWAY,
    "--enable-prompt-embeds": _GATEWAY,
    "--scheduling-policy": _GATEWAY,
    "--structured-outputs-config": _GATEWAY,
    "--disable-fastapi-docs": _GATEWAY,
    "--disable-uvicorn-access-log": _GATEWAY,
    "--worker-extension-cls": _GATEWAY,
    "--disable-log-stats": _GATEWAY,
    "--skip-tokenizer-init": _GATEWAY,
    "--tokens-only": _GATEWAY,
    "--sse-keep-alive-interval": "The first event counts as the first token. Leave it out",
    "--scheduler-cls": _GATEWAY,
    "--worker-cls": _GATEWAY,
    "--max-num-active-seqs": "Lower --max-num-seqs instead",
    "--max-num-queued-reqs": "Set LORARY_CONCURRENCY instead",
    "--max-num-queued-tokens": "Set LORARY_CONCURRENCY instead",
    "--device-ids": "Set CUDA_VISIBLE_DEVICES instead",
    "--weight-transfer-config": "The base model is the one that is registered. Leave it out",
    "--enable-trace-replay": _OPEN,
    "--tool-server": _OPEN,
    "--kv-transfer-config": _KV,
    "--kv-offloading-backend": f"{_KV}: --kv-offloading-size alone is vLLM's own",
    "--lora-modules": _PUBLISH,
    "--lora-target-modules": _WHOLE,
    "--default-mm-loras": _PUBLISH,
    "--middleware": _OPEN,
    "--root-path": _OPEN,
    "--uds": _OPEN,
    "--grpc": _OPEN,
    "--grpc-port": _OPEN,
    "--allowed-origins": _OPEN,
    "--trust-request-chat-template": _OPEN,
    "--trust-request-mm-kwargs": _OPEN,
    "--headless": _RANKS,
    "--api-server-count": _PROCESSES,
    "--enable-elastic-ep": _REPLICAS,
    "-asc": _PROCESSES,
}
"""Refused options, and what to do instead."""
FAMILIES = {
    "--lora-": _PUBLISH,
    "--data-parallel-": _RANKS,
    "--dp-": _RANKS,
    "--elastic-ep-": _REPLICAS,
    "-dp": _RANKS,
    "--master-": _ONE_MACHINE,
    "--nnodes": _ONE_MACHINE,
    "--node-rank": _ONE_MACHINE,
    "-n": _ONE_MACHINE,
    "-r": _ONE_MACHINE,
}
"""How refused options begin, and what to do instead."""
FOR_HEADS = {
    "--runner": _HEADS,
    "--convert": _HEADS,
    "--hf-overrides": _HEADS,
    "--pooler-config": _HEADS,
}
"""Options that a server with LORARY_TASK=classify refuses, too."""
SUPPORTED = ("--data-parallel-size", "-dp")
"""Options that are allowed though others begin like them."""
LOGPROBS = 5
"""Log-probabilities of a token that trials of adapters ask for (`serving.tiers.recovery.TOP`)."""
RUST_FRONTEND = "VLLM_USE_RUST_FRONTEND"


def check_options(extra: Sequence[str], task: str = "generate") -> None:
    """Raise `CannotServe` for the first option that is refused, with what to do instead.

    task: what the server is started for.
    """
    if extra and not extra[0].startswith("-"):
        raise CannotServe(
            f"{extra[0]!r} is no option of vLLM. The model is what LORARY_MODEL says; after `--` "
            "there are options only."
        )
    fixed = FIXED | (FOR_HEADS if task == "classify" else {})
    for argument in extra:
        if not argument.startswith("-"):
            continue
        spelled = argument.partition("=")[0]
        if spelled.startswith("--"):
            spelled = spelled.replace("_", "-")
        if spelled in SUPPORTED:
            if task == "classify":
                raise CannotServe(f"{argument!r} is not allowed with `--task classify`. {_POOLING}")
            continue
        option = spelled.partition(".")[0]
        positive = f"--{option[5:]}" if option.startswith("--no-") else option
        for name in (option, positive):
            for refused, instead in fixed.items():
                if refused.startswith(name):
                    raise CannotServe(f"vLLM's option {argument!r} is not allowed. {instead}.")
            for start, instead in FAMILIES.items():
                if name.startswith(start) or start.startswith(name):
                    raise CannotServe(f"vLLM's option {argument!r} is not allowed. {instead}.")


def check_engine(config: Any, settings: ServingSettings) -> None:
    """Raise `CannotServe` unless the engine runs with what the settings say.

    config: vLLM's `VllmConfig`.
    """
    lora, parallel = config.lora_config, config.parallel_config
    if lora is None:
        raise CannotServe("The engine was started without adapters. Remove what turned them off.")
    expected = {
        "max_loras": (lora.max_loras, settings.max_loras),
        "max_cpu_loras": (lora.max_cpu_loras, settings.max_cpu_loras),
        "max_lora_rank": (lora.max_lora_rank, settings.max_lora_rank),
    }
    if settings.task == "classify":
        expected["max_labels"] = (lora.max_lora_cls_labels, settings.max_labels)
    for name, (actual, wanted) in expected.items():
        if actual != wanted:
            raise CannotServe(
                f"The engine runs with {name}={actual}, and LORARY_{name.upper()} is {wanted}. "
                "Remove what sets it elsewhere (an option of vLLM, or a variable VLLM_...)."
            )
    if config.scheduler_config.policy != "priority":
        raise CannotServe(
            f"The engine's scheduling policy is {config.scheduler_config.policy!r}, not "
            "'priority'. Remove what sets it elsewhere."
        )
    if 0 <= config.model_config.max_logprobs < LOGPROBS:
        raise CannotServe(
            f"The engine gives {config.model_config.max_logprobs} log-probabilities a token at "
            f"most, and adapters are tried with {LOGPROBS}. Raise --max-logprobs."
        )
    classifies = config.model_config.convert_type == "classify"
    if classifies != (settings.task == "classify"):
        raise CannotServe(
            f"The engine was {'' if classifies else 'not '}started for classification, and "
            f"LORARY_TASK is {settings.task!r}. Use `lorary serve --task`, and no option of vLLM."
        )
    if parallel.data_parallel_size != 1:
        _check_ranks(parallel, config.model_config)


def _check_ranks(parallel: Any, model: Any) -> None:
    """Raise `CannotServe` unless this process reaches every data-parallel rank, and chooses which
    one answers."""
    others = parallel.data_parallel_external_lb or parallel.data_parallel_hybrid_lb
    if others or parallel.data_parallel_size_local != parallel.data_parallel_size:
        raise CannotServe(f"Some data-parallel ranks are not this process's. {_RANKS}.")
    if model.is_moe:
        raise CannotServe(
            "The ranks of a mixture of experts run in lockstep, which Lorary was not tried with. "
            f"Leave --data-parallel-size out. {_REPLICAS}."
        )
    if model.runner_type == "pooling":
        raise CannotServe(_POOLING)
