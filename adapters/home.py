"""Where Lorary keeps what it builds and downloads on this machine."""

import os
from pathlib import Path

SMALL_MODEL = "smollm2-135m-instruct"
"""The name of the small base model, which is the default one."""
SMALL_MODEL_KNOWN_AS = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Its name on the Hugging Face Hub, which adapters trained elsewhere give as their base."""


def home() -> Path:
    """Lorary's folder on this machine: `LORARY_HOME`, by default `~/.lorary`."""
    return Path(os.environ.get("LORARY_HOME") or Path.home() / ".lorary")


def cache(*parts: str) -> Path:
    """A path below the cache folder. Everything there can be deleted and is built again.

    parts: folders and a file's name, joined in this order. Nothing is created.
    """
    return home().joinpath("cache", *parts)


def default_model() -> Path:
    """The directory of the small base model, which `adapters.small_model.build` makes."""
    return cache("models", SMALL_MODEL)
