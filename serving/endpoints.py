"""`/health` with the registry's state beside the engine's; and the way to the engine's adapters.

Extension point: the entry-point group `vllm.endpoint_plugins`; it replaces vLLM's own route.
"""

from argparse import Namespace
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from serving.options import check_engine
from serving.replica import Replica
from serving.telemetry import access_log
from serving.tiers.engine import Engine
from serving.tiers.recovery import PROBE_TOKENS, PROMPT_TOKENS, TOP, HeadProbe, Probe, Recovery
from serving.tiers.trial import Trials

STALE_SECONDS = 30.0
"""A registry last read longer ago than this is called stale; what was read is still served."""


class Endpoints:
    """vLLM's `EndpointPlugin` protocol."""

    name = "lorary-endpoints"
    required_tasks = None

    def attach_router(self, app: FastAPI) -> None:
        """Add the route."""
        app.add_api_route("/health", health, methods=["GET"])

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Hand the engine to the replica. Called by vLLM before it takes requests.

        Raises `CannotServe` if the engine runs with other bounds than the replica counts with.
        """
        import vllm
        from vllm.lora.request import LoRARequest
        from vllm.platforms import current_platform
        from xgrammar import TokenizerInfo

        from serving.identity import describe, measured
        from serving.replica import current

        replica = current()
        check_engine(engine_client.vllm_config, replica.settings)
        registered = state.openai_serving_models.lora_requests
        base = measured(replica.settings.model) if replica.settings.verify_base else ""
        name = f"vllm {vllm.__version__}"
        replica.identity = describe(engine_client.vllm_config, args, name=name, base=base)
        ranks = engine_client.vllm_config.parallel_config.data_parallel_size
        engine = Engine(engine_client, registered, LoRARequest, ranks=ranks)
        await engine.reconcile()  # vLLM may have left adapters of its own warm-up
        prompt_tokens = max(1, min(PROMPT_TOKENS, replica.settings.max_model_len - PROBE_TOKENS))
        pools = engine_client.vllm_config.model_config.runner_type == "pooling"
        probe = _probe(replica, prompt_tokens, pools=pools)
        recovery = Recovery(engine_client, probe, replica.shutdown.begin, ranks)
        places = engine_client.vllm_config.scheduler_config.max_num_seqs
        trials, on_cpu = Trials(recovery, registered), current_platform.is_cpu()
        replica.attach(engine, trials, places, on_cpu, ranks)
        vocab_size = engine_client.model_config.get_vocab_size()
        try:
            tokenizer = TokenizerInfo.from_huggingface(
                engine_client.get_tokenizer(), vocab_size=vocab_size
            )
        except Exception as error:  # whatever it is, everything else can be served
            access_log.failed("tokenizer", error)
            replica.grammars.refuse_all("xgrammar cannot read this base model's tokenizer.")
        else:
            replica.grammars.attach(tokenizer.serialize_json(), vocab_size)


def _probe(replica: Replica, prompt_tokens: int, *, pools: bool) -> Probe:
    """How the engine is asked whether it computes soundly, by its task.

    pools: whether it makes no text.
    """
    from vllm import PoolingParams, SamplingParams

    if replica.settings.task == "classify":
        return HeadProbe(PoolingParams(task="classify", use_activation=False), prompt_tokens)
    if pools:
        return HeadProbe(PoolingParams(task="embed"), prompt_tokens)
    sampling = SamplingParams(
        temperature=0.0, max_tokens=PROBE_TOKENS, ignore_eos=True, logprobs=TOP
    )
    return Probe(sampling, prompt_tokens)


async def health(request: Request) -> JSONResponse:
    """200 if the engine runs and is sound, the registry was read, guarded targets are warm and the
    server is not shutting down; else 503. Adapters and their errors are named only to a key with
    `operate`."""
    from serving.replica import current
    from serving.request.headers import DETAILS

    replica = current()
    engine = "ok"
    try:
        await request.app.state.engine_client.check_health()
    except Exception as error:  # whatever it is, the engine is not healthy
        engine = type(error).__name__
    trials = replica.residency.trials
    faulty = trials.faulty
    if engine == "ok":
        engine = trials.recovery.state
    follower = replica.follower
    age = follower.age_seconds if follower.has_read else None
    warming = replica.warming
    warm = warming.ready
    failures = warming.failures
    leaving = replica.shutdown.announced
    ready = engine == "ok" and follower.has_read and warm and not leaving
    body = {
        "status": "ok" if ready else "shutting_down" if leaving else "unavailable",
        "version": version("lorary"),
        "engine": engine,
        "base": replica.settings.base_name,
        "adapters": {
            "warm": warm,
            "failing": len(failures),
            "faulty": len(faulty),
            **({"failed": failures, "quarantined": faulty} if request.scope.get(DETAILS) else {}),
            "in_engine": replica.residency.names,
            "on_disk": len(replica.cache),
        },
        "registry": {
            "sequence": follower.catalog.sequence,
            "age_seconds": None if age is None else round(age, 2),
            "stale": age is None or age > STALE_SECONDS,
        },
    }
    return JSONResponse(body, 200 if ready else 503)
