"""Names of a model's modules, and how PEFT's configuration refers to them.

A name in the configuration refers to each module whose path is that name or ends with it after a
dot: `layers.0.self_attn.q_proj` is meant by `q_proj`, by `self_attn.q_proj` and by its whole path.
"""

import re
from collections.abc import Iterator, Mapping

MAX_NAME = 512
"""Most characters of a module's name."""
_MODULE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


def is_module(name: str) -> bool:
    """Whether `name` is a module's path or the end of one, and no regular expression.

    It may have letters, digits and underscores, in parts joined by dots, and at most `MAX_NAME`
    characters.
    """
    return len(name) <= MAX_NAME and _MODULE.fullmatch(name) is not None


def names_of(module: str) -> Iterator[str]:
    """The names that refer to a module: its path, then what follows each of its dots."""
    yield module
    while "." in module:
        module = module.partition(".")[2]
        yield module


class Overrides:
    """Values for some modules: PEFT's `rank_pattern` or `alpha_pattern`.

    Where several names refer to a module, the first in the mapping decides, as in PEFT. A name that
    begins with `^` refers only to the module with that whole path.

    PEFT and vLLM read the names as regular expressions, in which a dot matches any character. So
    admission accepts a name with a dot only if it is literally the end of a module's path.
    """

    def __init__(self, values: Mapping[str, float]) -> None:
        """values: the value for each name, in the configuration's order."""
        self._values = {name: (n, value) for n, (name, value) in enumerate(values.items())}

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def values(self) -> list[float]:
        """Every value, in the configuration's order."""
        return [value for _, value in self._values.values()]

    def of(self, module: str) -> float | None:
        """The value for the module with this path; None if no name refers to it.

        Takes time that does not grow with the number of values.
        """
        names = (f"^{module}", *names_of(module))
        fitting = [self._values[name] for name in names if name in self._values]
        return min(fitting)[1] if fitting else None
