"""Names of a model's modules, and the rule by which PEFT's configuration means some of them.

`layers.0.self_attn.q_proj` is meant by itself and by what follows any of its dots.
"""

import re
from collections.abc import Iterator, Mapping

MAX_NAME = 512
"""Characters of a module's name."""
_MODULE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


def is_module(name: str) -> bool:
    """Whether `name` is a plain path of letters, digits and underscores, joined by dots."""
    return len(name) <= MAX_NAME and _MODULE.fullmatch(name) is not None


def ends_of(module: str) -> Iterator[str]:
    """What follows each dot of a module's path, and the whole: PEFT's rule for names."""
    yield module
    while "." in module:
        module = module.partition(".")[2]
        yield module


class Overrides:
    """Values for some modules, by the end of their names; the first that fits wins, as in PEFT.

    PEFT and vLLM read the names as regular expressions, in which a dot fits any character:
    admission accepts a name with a dot only where it is the end of a module's name as it stands.
    """

    def __init__(self, values: Mapping[str, float]) -> None:
        self._values = {name: (n, value) for n, (name, value) in enumerate(values.items())}

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def values(self) -> list[float]:
        """Every value."""
        return [value for _, value in self._values.values()]

    def of(self, module: str) -> float | None:
        """The value for `module`, in time that does not grow with the number of values."""
        names = (f"^{module}", *ends_of(module))
        fitting = [self._values[name] for name in names if name in self._values]
        return min(fitting)[1] if fitting else None
