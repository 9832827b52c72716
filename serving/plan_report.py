"""A `ServePlan` as a table for people and as a value for JSON."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from registry.cli.output import say, table
from serving.hardware.budget import human
from serving.hardware.defaults import ServePlan
from serving.hardware.devices import GIB, Machine

COMPUTED = "Memory is computed from the model's shape; vLLM measures the truth when it starts."


def show(model: str, plan: ServePlan, problems: Sequence[str]) -> None:
    """Print it."""
    say(f"Base model: {model}")
    say(_machine(plan.machine))
    table(
        ["setting", "value", "why"],
        [[_setting(one.name), str(one.value), one.why] for one in plan.choices],
    )
    if plan.parts:
        table(
            ["memory", "for", "size"],
            [[part.of, part.name, human(part.size)] for part in plan.parts],
        )
        say(COMPUTED)
    for problem in problems:
        say(f"Does not fit: {problem}")


def as_value(plan: ServePlan, problems: Sequence[str]) -> dict[str, Any]:
    """The same for JSON."""
    return {
        "machine": _machine(plan.machine),
        "settings": {
            one.name: {"value": one.value, "why": one.why, "given": one.given}
            for one in plan.choices
        },
        "memory": [{"of": part.of, "for": part.name, "bytes": part.size} for part in plan.parts],
        "vllm": list(plan.options),
        "problems": list(problems),
    }


def _setting(name: str) -> str:
    return f"LORARY_{name.upper()}" if "_" in name or name == "concurrency" else name


def _machine(machine: Machine) -> str:
    host = f"{machine.memory / GIB:.0f} GiB of host memory, {machine.cpus} CPUs"
    if not machine.gpus:
        return f"A CPU: {host}"
    kinds = Counter((gpu.name, gpu.memory) for gpu in machine.gpus)
    gpus = ", ".join(
        f"{count} x {name} ({size / GIB:.0f} GiB)" for (name, size), count in kinds.items()
    )
    driver = f", driver {machine.driver}" if machine.driver else ""
    return f"{gpus}{driver}: {host}"
