"""Settings of one serving replica, read once from the environment."""

from pathlib import Path

from pydantic import Field

from adapters.home import SMALL_MODEL, default_model
from registry.settings import StoreSettings


class ServingSettings(StoreSettings):
    """One replica (`lorary serve`): vLLM with the gate in front of it."""

    host: str = Field(default="127.0.0.1", description="Address the API listens on.")
    port: int = Field(default=8000, ge=1, le=65535, description="Port of the API.")
    model: str = Field(
        default_factory=lambda: str(default_model()),
        description="The base model: a directory, or a Hugging Face id.",
    )
    base_name: str = Field(
        default=SMALL_MODEL,
        description="The base model's name in the registry; callers may ask for it, too.",
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
    cold_loads: int = Field(
        default=2, ge=1, description="Adapters downloaded at once; others wait their turn."
    )
    cold_queue: int = Field(
        default=32, ge=1, description="Versions that may wait for a download; more get 429."
    )
    max_loras: int = Field(default=4, ge=1, description="Adapters that share one batch.")
    max_cpu_loras: int = Field(default=16, ge=1, description="Adapters kept in host memory.")
    max_model_len: int = Field(
        default=2048, gt=0, description="Longest prompt and answer together, in tokens."
    )
    kv_cache_gib: int = Field(default=1, ge=1, description="Memory for the KV cache on a CPU, GiB.")

    @property
    def cache_folder(self) -> Path:
        """Where downloaded adapters lie."""
        return self.adapter_cache or self.home / "cache" / "adapters"
