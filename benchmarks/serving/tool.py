"""A third party's load generator."""

from typing import Any

from benchmarks.serving.pair import Pair


def measure(pair: Pair, *, quick: bool) -> dict[str, Any]:
    """Nothing yet."""
    return {}
