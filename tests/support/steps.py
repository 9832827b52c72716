"""How many steps some Python takes: a measure of its time that no busy machine changes."""

import gc
import sys
from collections.abc import Callable
from typing import Any


def steps(work: Callable[[], object]) -> int:
    """Lines of Python that `work` executes, each turn of a loop anew; none of finalizers."""
    count = 0

    def trace(_frame: Any, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    gc.disable()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
        gc.enable()
    return count
