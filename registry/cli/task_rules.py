"""A policy's rules for tasks, written short: the task is named, its digests are looked up."""

from typing import Any

from registry.client import RegistryClient
from registry.errors import BadRequest

PINS = ("suite", "digest", "held_out")


def pinned(changes: dict[str, Any], registry: RegistryClient, domain: str) -> dict[str, Any]:
    """`changes` of a domain's policy, with each rule of `suites` that names a task and no digests
    pinned to the task's version; a task without `@VERSION` means its newest.

    Raises `BadRequest` for a task with several suites where the rule names none of them, and what
    the registry refuses.
    """
    rules = changes.get("suites")
    if not isinstance(rules, list):
        return changes
    return {**changes, "suites": [_pinned(rule, registry, domain) for rule in rules]}


def _pinned(rule: Any, registry: RegistryClient, domain: str) -> Any:
    named = isinstance(rule, dict) and isinstance(rule.get("task"), str) and rule["task"]
    if not named or "digest" in rule or "held_out" in rule:
        return rule
    version = registry.task(f"{domain}/{rule['task']}")
    suites = [s for s in version["suites"] if s["suite"] == rule.get("suite", s["suite"])]
    if len(suites) != 1:
        has = ", ".join(suite["suite"] for suite in version["suites"])
        raise BadRequest(f"Task {version['ref']} has the suites {has}. Name one as `suite`.")
    (suite,) = suites
    task = f"{version['task']}@{version['version']}"
    return {**rule, **{name: suite[name] for name in PINS}, "task": task}
