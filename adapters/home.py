"""Where Lorary keeps what it builds and downloads on this machine."""

import os
from pathlib import Path


def home() -> Path:
    """`LORARY_HOME`, by default `~/.lorary`."""
    return Path(os.environ.get("LORARY_HOME") or Path.home() / ".lorary")


def cache(*parts: str) -> Path:
    """A place below the cache folder; everything there can be built again."""
    return home().joinpath("cache", *parts)


def default_model() -> Path:
    """Where the small base model lies once it is built."""
    return cache("models", SMALL_MODEL)


SMALL_MODEL = "smollm2-135m-instruct"
SMALL_MODEL_KNOWN_AS = "HuggingFaceTB/SmolLM2-135M-Instruct"
