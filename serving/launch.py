"""vLLM's own launcher, started in this process with the gate in place."""

import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from adapters.errors import LoraryError
from registry.log.follower import Follower
from serving import sizing
from serving.errors import CannotServe
from serving.hardware import cpu, devices
from serving.hardware.defaults import ServePlan
from serving.hardware.devices import Machine
from serving.identity import measured
from serving.options import RUST_FRONTEND, check_options
from serving.outcomes.reporting import check_serving_key
from serving.request.fields import MAX_CHOICES
from serving.settings import CPU_KV_CACHE_GIB, ServingSettings
from serving.telemetry import access_log

STRUCTURED_OUTPUTS = '{"backend": "xgrammar", "disable_any_whitespace": true}'
"""Grammars are tried for xgrammar (`serving.grammars`). By default vLLM falls back to another
backend, and every later request then gets that one. No whitespace between JSON tokens: small models
would write nothing else."""


def require_model(settings: ServingSettings) -> None:
    """Raise `CannotServe` if the base model is a directory that holds none."""
    if Path(settings.model).is_absolute() and not Path(settings.model, "config.json").exists():
        raise CannotServe(
            f"There is no model in {settings.model}. Build the small one (lorary small-model), "
            "or set LORARY_MODEL."
        )


def preflight(settings: ServingSettings) -> None:
    """Raise `CannotServe`, in seconds and in plain words, for what would fail after minutes."""
    if os.environ.get(RUST_FRONTEND, "0") not in ("", "0"):
        raise CannotServe(
            f"{RUST_FRONTEND} replaces vLLM's server by one without the gateway. Unset it."
        )
    require_model(settings)
    try:
        catalog = Follower(settings.open_store()).refresh()
    except LoraryError as error:
        raise CannotServe(f"The registry cannot be read: {error.message}") from error
    if catalog.sequence == 0:
        raise CannotServe(f"{settings.store} holds no registry. Create it: lorary init")
    if settings.base_name not in catalog.bases:
        raise CannotServe(
            f"Base model {settings.base_name!r} is not registered. "
            f"Register it: lorary base add {settings.model} --name {settings.base_name}"
        )
    base = measured(settings.model) if settings.verify_base else ""
    if base and base != catalog.bases[settings.base_name].digest:
        raise CannotServe(
            f"{settings.model} is not the model registered as {settings.base_name!r}: its files "
            f"have digest {base[:12]}, not {catalog.bases[settings.base_name].digest[:12]}. Set "
            "LORARY_MODEL to the registered model, or register this one under another name. To "
            "serve another build of it, such as a quantised one, set LORARY_VERIFY_BASE=false."
        )
    check_serving_key(settings.serving_key.get_secret_value(), catalog)
    if settings.max_cpu_loras < settings.max_loras:
        raise CannotServe("LORARY_MAX_CPU_LORAS is below LORARY_MAX_LORAS. Raise it.")
    refuse_taken(settings.host, settings.port)


def environment(settings: ServingSettings, argv: Sequence[str] = ()) -> dict[str, str]:
    """What vLLM and the replica read from their environment. vLLM's own routes that load and unload
    adapters stay off: `serving.tiers.engine` does both through the engine client.

    argv: vLLM's command line, see `arguments`.
    """
    variables = {
        "LORARY_TASK": settings.task,  # the replica reads its settings anew
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "0",
        "VLLM_PLUGINS": "lorary-endpoints,lorary-metrics,lorary-cpu-lora",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(settings.kv_cache_gib or CPU_KV_CACHE_GIB),
        "VLLM_SERVER_DEV_MODE": "0",
        "VLLM_XGRAMMAR_CACHE_MB": "128",
        "VLLM_MAX_N_SEQUENCES": str(MAX_CHOICES),
        "VLLM_API_KEY": "",
        RUST_FRONTEND: "0",
        "VLLM_COMPUTE_NANS_IN_LOGITS": "1",
        "VLLM_RAISE_ON_LOGIT_NANS": "0",  # it would end the engine, and with it everybody's answers
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    if Path(settings.model).is_absolute():
        variables["HF_HUB_OFFLINE"] = "1"
    return variables | cpu.variables(argv, devices.cpus())


def arguments(
    settings: ServingSettings, extra: Sequence[str] = (), chosen: Sequence[str] = ()
) -> list[str]:
    """vLLM's command line. Raises as `check_options`.

    chosen: options for this machine. extra: the operator's; they go at the end.
    """
    check_options(extra, settings.task)
    return [
        f"--model={settings.model}",
        f"--served-model-name={settings.base_name}",
        f"--host={settings.host}",
        f"--port={settings.port}",
        f"--max-model-len={settings.max_model_len}",
        "--enable-lora",
        f"--max-loras={settings.max_loras}",
        f"--max-cpu-loras={settings.max_cpu_loras}",
        f"--max-lora-rank={settings.max_lora_rank}",
        "--scheduling-policy=priority",
        *_for_cpu(extra),
        *chosen,
        *(for_heads(settings) if settings.task == "classify" else ()),
        f"--structured-outputs-config={STRUCTURED_OUTPUTS}",
        "--middleware=serving.gate.Gate",
        "--worker-extension-cls=serving.worker.WorkerExtension",
        "--disable-fastapi-docs",
        "--disable-uvicorn-access-log",
        *extra,
    ]


def for_heads(settings: ServingSettings) -> list[str]:
    """Options that make the base a model for classification heads.

    vLLM gives the base a head of its own and refuses to start if nothing fills it. One row of the
    output embedding does, the first token's; no request reaches it. A base head of one row is also
    what vLLM wants before it offers /score and /rerank.
    """
    from transformers import AutoTokenizer

    token = AutoTokenizer.from_pretrained(settings.model).convert_ids_to_tokens(0)
    overrides = {"method": "no_post_processing", "classifier_from_token": [token]}
    return [
        "--runner=pooling",
        "--convert=classify",
        f"--max-lora-cls-labels={settings.max_labels}",
        f"--hf-overrides={json.dumps(overrides)}",
    ]


def _for_cpu(extra: Sequence[str]) -> list[str]:
    from torch.backends.cpu import get_cpu_capability
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return []
    return cpu.options(extra, devices.cpus(), capability=get_cpu_capability())


def settled(
    settings: ServingSettings, extra: Sequence[str], machine: Machine
) -> tuple[ServingSettings, ServePlan]:
    """The settings that `machine` is served with, and the plan that they are from.

    Raises `CannotServe` for a refused option and for what the machine lacks or cannot hold.
    """
    check_options(extra, settings.task)
    plan = sizing.plan_for(settings, extra, machine)
    sizing.check(plan, sizing.requested_of(settings, extra))
    return settings.model_copy(update=plan.settings), plan


def run(settings: ServingSettings, extra: Sequence[str]) -> None:
    """Start the server and return when it has ended."""
    settings, plan = settled(settings, extra, sizing.read_machine())
    preflight(settings)
    argv = arguments(settings, extra, plan.options)
    access_log.install()
    os.environ.update(environment(settings, argv) | sizing.variables(settings, plan))
    sys.argv = ["lorary serve", *argv]
    from vllm.entrypoints.launchers.api_server.entry import main

    main()


def refuse_taken(host: str, port: int) -> None:
    """Raise `CannotServe` if nothing can listen there. host: an IPv4 or IPv6 address."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CannotServe(
                f"Port {port} on {host} cannot be used ({error.strerror}). Choose another: --port"
            ) from error
