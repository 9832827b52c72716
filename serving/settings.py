"""Settings of one serving replica, read once from the environment."""

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, model_validator

from adapters.home import SMALL_MODEL, default_model
from registry.settings import StoreSettings
from serving.hardware.presets import Name
from serving.request.limits import Bounds

CPU_KV_CACHE_GIB = 1
"""Memory for the KV cache on a CPU, unless it is set."""


RENAMED = {
    "LORARY_LEAVE_NOTICE_SECONDS": "LORARY_DRAIN_DELAY_SECONDS",
    "LORARY_LEAVE_PATIENCE_SECONDS": "LORARY_SHUTDOWN_GRACE_SECONDS",
    "LORARY_TURN_SECONDS": "LORARY_SLOT_SECONDS",
}
"""Old names of settings. They are refused: a setting that is ignored is worse than an error."""


class ServingSettings(StoreSettings):
    """One replica (`lorary serve`): vLLM with the gate in front of it.

    The defaults are a CPU's. On a GPU those that nobody set are chosen for the device and the model
    (`serving.hardware`); `lorary serve --plan` shows them.
    """

    host: str = Field(default="127.0.0.1", description="Address the API listens on.")
    port: int = Field(default=8000, ge=1, le=65535, description="Port of the API.")
    model: str = Field(
        default_factory=lambda: str(default_model()),
        description="The base model: a directory, or a Hugging Face id.",
    )
    task: Literal["generate", "classify"] = Field(
        default="generate",
        description="What the engine is started for: adapters that write answers, or adapters with "
        "a classification head. One server does one of the two.",
    )
    max_labels: int = Field(
        default=64,
        ge=1,
        le=1000,
        description="Labels that an adapter's head may have on a server with LORARY_TASK=classify; "
        "each slot of a batch holds a head of that size.",
    )
    base_name: str = Field(
        default=SMALL_MODEL,
        description="The base model's name in the registry; callers may ask for it, too.",
    )
    verify_base: bool = Field(
        default=True,
        description="Read the base model's files at the start and refuse others than those that "
        "were registered. Off, evaluations cannot say which base answered.",
    )
    adapter_cache: Path | None = Field(
        default=None, description="Folder for downloaded adapters; by default below the home."
    )
    poll_seconds: float = Field(
        default=1.0, gt=0, le=60, description="How often the registry's log is looked at."
    )
    max_body_bytes: int = Field(
        default=4 << 20, gt=0, description="Largest request body that is read."
    )
    cache_bytes: int = Field(
        default=20 << 30,
        gt=0,
        description="Bytes of adapters kept on disk; the least popular make room.",
    )
    cold_loads: int = Field(
        default=2,
        ge=1,
        description="Adapters downloaded at once; others wait their turn. On a GPU chosen for the "
        "machine.",
    )
    cold_queue: int = Field(
        default=32,
        ge=1,
        description="Versions that may wait for a download; more get 429. On a GPU chosen for the "
        "machine.",
    )
    key_cold_loads: int = Field(
        default=4,
        ge=1,
        description="Versions that the requests of one key may bring into the engine at once; "
        "its other requests wait. On a GPU chosen for the machine.",
    )
    key_requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        description="Requests a minute that one key may send, a request with several prompts or "
        "choices counting as that many; unset: no limit.",
    )
    key_tokens_per_minute: int | None = Field(
        default=None,
        ge=1,
        description="Tokens a minute that one key's prompts and answers may have; unset: no limit.",
    )
    key_concurrency: int | None = Field(
        default=None,
        ge=1,
        description="Sequences (prompts times choices) of one key that may run or wait at once.",
    )
    adapter_concurrency: int | None = Field(
        default=None,
        ge=1,
        description="Sequences for one adapter that may run or wait at once.",
    )
    concurrency: int = Field(
        default=1024,
        ge=1,
        description="Sequences that may run or wait in this replica at once. On a GPU chosen for "
        "it.",
    )
    replicas: int = Field(
        default=1, ge=1, description="Replicas among which the keys' limits are divided."
    )
    request_seconds: float | None = Field(
        default=None,
        gt=0,
        description="Seconds after which an unfinished answer is ended; unset: no limit. A caller "
        "may ask for less in the header X-Lorary-Timeout.",
    )
    grammar_seconds: float = Field(
        default=3.0,
        gt=0,
        le=60,
        description="CPU time that the grammar or schema of an answer may take to compile.",
    )
    free_grammars: bool = Field(
        default=False,
        description="Take `structured_outputs.grammar` and structural tags. What they cost for "
        "each token can grow with the answer, for all callers: only where each one is trusted.",
    )
    drain_delay_seconds: float = Field(
        default=0.0,
        ge=0,
        description="Seconds after SIGTERM for which requests are still taken, while /health "
        "says 503: time for load balancers to notice.",
    )
    shutdown_grace_seconds: float = Field(
        default=25.0,
        ge=0,
        description="Seconds that requests under way then have to end, before they are ended.",
    )
    registry_url: str = Field(
        default="http://127.0.0.1:8100",
        description="The registry's service, which feedback and rollbacks are reported to.",
    )
    serving_key: SecretStr = Field(
        default=SecretStr(""),
        description="A key with the role serve, the same for all replicas: reports feedback and "
        "rollbacks, and signs the ids of answers. Unset: no feedback, and a rollback is this "
        "replica's alone.",
    )
    deployment: str = Field(
        default="",
        pattern="^[a-z0-9-]{0,63}$",
        description="Name of this deployment, the same for all its replicas. Their files and "
        "batches lie below serving/NAME in the store, where they must be allowed to write. Unset: "
        "'default' where the store is a directory, and no batches on S3.",
    )
    batch_concurrency: int | None = Field(
        default=None,
        ge=1,
        description="Lines of batches that run on a replica at once; unset: one for each 16 "
        "sequences that the engine computes at once.",
    )
    batch_file_bytes: int = Field(
        default=64 << 20, gt=0, le=256 << 20, description="Largest file that may be uploaded."
    )
    batch_owner_bytes: int = Field(
        default=1 << 30,
        gt=0,
        description="Bytes of the files that one person, service or key may keep.",
    )
    batch_keep_days: int = Field(
        default=30,
        ge=1,
        le=365,
        description="Days for which files and ended batches are kept; a caller may ask for less.",
    )
    open_metrics: bool = Field(
        default=False,
        description="Show /metrics without a key: for routers that cannot send one, such as "
        "llm-d's. It names adapters of all domains, so keep the port from callers.",
    )
    shadow_concurrency: int = Field(
        default=2,
        ge=0,
        description="Copies of callers' requests that candidates answer at once; 0: none.",
    )
    shadow_tokens_per_minute: int = Field(
        default=100_000,
        ge=1,
        description="Tokens a minute that the copies of one domain's requests may have.",
    )
    shadow_folder: Path | None = Field(
        default=None,
        description="Folder in which compared requests and answers are kept, for domains whose "
        "policy says shadow_texts; unset: nowhere.",
    )
    shadow_folder_bytes: int = Field(
        default=64 << 20, ge=1, description="Bytes that it may hold; then no more are kept."
    )
    metric_versions: int = Field(
        default=500,
        ge=1,
        description="Versions with metrics of their own; those asked for least recently lose them.",
    )
    max_loras: int = Field(
        default=4,
        ge=1,
        description="Adapters that share one batch (slots). On a GPU chosen for device and model.",
    )
    slot_seconds: float = Field(
        default=5.0,
        ge=0,
        description="Seconds that an adapter keeps its slot while others wait for one of the "
        "LORARY_MAX_LORAS slots; 0: the engine alone decides, and some may wait forever.",
    )
    batching_seconds: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Longest time that a request waits so that its prompt is computed in one step "
        "with others'; 0: none waits. For a GPU that computes prompts eagerly and answers of "
        "different lengths; measure whether it gains.",
    )
    max_cpu_loras: int = Field(
        default=16,
        ge=1,
        description="Adapters kept in host memory: the engine knows no more than these by name. "
        "On a GPU chosen for host memory and model.",
    )
    reconcile_seconds: float = Field(
        default=5.0,
        gt=0,
        description="How often the adapters held are compared with the engine's own list.",
    )
    max_model_len: int = Field(
        default=2048,
        gt=0,
        description="Longest prompt and answer together, in tokens. On a GPU chosen for device and "
        "model.",
    )
    kv_cache_gib: int | None = Field(
        default=None,
        ge=1,
        description="Memory for the KV cache, GiB. Unset: 1 on a CPU; on a GPU what is free beside "
        "the model and the slots.",
    )
    lora_preset: Name = Field(
        default="standard",
        description="How vLLM computes adapters on a GPU: standard, specialized (kernels and CUDA "
        "graphs by active adapters) or dual-stream (a second stream, too).",
    )

    @model_validator(mode="before")
    @classmethod
    def _no_old_names(cls, values: Any) -> Any:
        for old, new in RENAMED.items():
            if old in os.environ:
                raise ValueError(f"{old} is now {new}")
        return values

    @property
    def bounds(self) -> Bounds:
        """This replica's share of the limits."""

        def share(limit: int | None) -> float | None:
            return None if limit is None else limit / self.replicas

        def whole(limit: int | None) -> int | None:
            return None if limit is None else max(1, limit // self.replicas)

        return Bounds(
            key_requests=share(self.key_requests_per_minute),
            key_tokens=share(self.key_tokens_per_minute),
            key_concurrency=whole(self.key_concurrency),
            adapter_concurrency=whole(self.adapter_concurrency),
            concurrency=self.concurrency,
        )

    @property
    def deployment_name(self) -> str:
        """Where files and batches lie; "" where there are none."""
        return self.deployment or ("" if "://" in self.store else "default")

    @property
    def slots(self) -> int:
        """Adapters that may have requests in the engine at once."""
        return self.max_loras if self.slot_seconds else self.concurrency

    @property
    def cache_folder(self) -> Path:
        """Where downloaded adapters lie."""
        return self.adapter_cache or self.home / "cache" / "adapters"
