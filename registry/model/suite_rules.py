"""What a policy's rule of a suite asks of a version's newest report on it. Pure.

A rule holds only if its confidence bound does, at alpha / looks; see `registry.model.gates`.
"""

import math
from collections.abc import Iterator
from datetime import timedelta

from registry.model.catalog import Catalog, Version
from registry.model.evidence import (
    Confident,
    Engine,
    Paired,
    SuiteResult,
    SuiteRule,
    Tally,
    effective,
)
from registry.model.intervals import inferiority_p_value, lower_bound, upper_bound
from registry.model.policies import Policy
from registry.model.recorded import Evaluation
from registry.model.requirement import Requirement
from registry.model.standing import evaluator_fault
from registry.times import instant


def weighed(
    rule: SuiteRule,
    version: Version,
    policy: Policy,
    catalog: Catalog,
    production: Version | None,
    now: str,
    engine: Engine | None,
) -> Iterator[Requirement]:
    """The report on one suite and, if there is one that counts, every rule weighed against it.

    engine: the one that must have answered; None for any.
    """
    found = reported(rule, version, policy, catalog, now, engine)
    name = _title(rule)
    if engine is not None and len(policy.engines) > 1:
        name += f" on engine {engine.fingerprint[:12]}"
    if isinstance(found, str):
        server = f" --url SERVER, which runs {described(engine)}" if engine is not None else ""
        yield Requirement(
            name=f"{name}: report",
            met=False,
            evidence=found,
            remedy=f"lorary eval {version.ref}{server}, with an evaluator's key",
        )
        return
    evaluation, result, look = found
    paid = look <= policy.looks
    yield Requirement(
        name=f"{name}: report",
        met=paid,
        evidence=f"{evaluation.report[:12]} of {evaluation.time[:10]}, look {look} of "
        f"{policy.looks} at its held-out items",
        remedy="" if paid else "every paid look is used up: put fresh held-out items in the policy",
    )
    alpha = policy.alpha / policy.looks
    for tally, floor in sorted(rule.floors.items()):
        yield _floor(name, tally, floor, result.tallies.get(tally), alpha)
    if rule.better_than_base:
        base = catalog.bases[version.base].digest
        pair = next((pair for pair in result.paired if pair.other == base), None)
        yield _against(f"{name}: better than {version.base}", pair, 0.0, alpha)
    if rule.margin is not None and production is not None and production.digest != version.digest:
        pair = next((pair for pair in result.paired if pair.other == production.digest), None)
        yield _against(f"{name}: no worse than {production.ref}", pair, rule.margin, alpha)
    if rule.confident_errors is not None:
        level = next((c for c in result.confident if c.at == rule.confident_at), None)
        yield _confident(name, rule, rule.confident_errors, level, alpha)


def _title(rule: SuiteRule) -> str:
    """The suite or, of a task that was pushed, the task's version."""
    if not rule.task:
        return rule.suite
    title = f"task {rule.task}"
    return title if rule.suite == rule.task.partition("@")[0] else f"{rule.suite} of {title}"


def reported(
    rule: SuiteRule,
    version: Version,
    policy: Policy,
    catalog: Catalog,
    now: str,
    engine: Engine | None,
) -> tuple[Evaluation, SuiteResult, int] | str:
    """The newest report that counts, with its look; or why there is none.

    The newest, whatever it found: choosing the best of several reports would be cheating.
    """
    missing: str | None = None
    for evaluation in reversed(version.evaluations):
        for result, look in zip(evaluation.results, evaluation.looks, strict=True):
            if result.suite != rule.suite:
                continue
            fault = _fault(rule, version, catalog, evaluation, result, engine)
            if fault is not None:
                missing = missing or fault
            elif not _fresh(evaluation.since, policy.max_report_days, now):
                return f"the answers of {evaluation.since[:10]} are older than " \
                    f"{policy.max_report_days} days"  # fmt: skip
            else:
                return evaluation, result, look
    return missing or "no evaluation of these bytes is recorded"


def _fault(
    rule: SuiteRule,
    version: Version,
    catalog: Catalog,
    evaluation: Evaluation,
    result: SuiteResult,
    engine: Engine | None,
) -> str | None:
    """Why a result is no evidence for the rule on `engine`; None if it is."""
    fault = evaluator_fault(catalog, version, evaluation.evaluator)
    if fault is not None:
        return fault
    if result.held_out != rule.held_out:
        return (
            f"the report is on items {result.held_out[:12]}, the policy names {rule.held_out[:12]}"
        )
    if result.digest != rule.digest:
        return f"the report is by suite {result.digest[:12]}, the policy names {rule.digest[:12]}"
    if engine is None:
        return None
    if evaluation.engine is None:
        return "requalify: the report does not say which engine answered"
    if names := evaluation.engine.differences(engine):
        return (
            f"requalify: the report is by another engine than the policy names ({', '.join(names)})"
        )
    return None


def _fresh(time: str, days: int | None, now: str) -> bool:
    return days is None or instant(now) - instant(time) <= timedelta(days=days)


def _floor(suite: str, name: str, floor: float, tally: Tally | None, alpha: float) -> Requirement:
    title = f"{suite}: {name} at least {percent(floor)}"
    if tally is None or tally.n == 0:
        return Requirement(name=title, met=False, evidence="not measured", remedy="evaluate again")
    bound = lower_bound(effective(tally.hits, tally), effective(tally.n, tally), alpha)
    met = bound >= floor
    found = f"{tally.hits} of {tally.n}, lower bound {percent(bound)}"
    remedy = "" if met else _remedy(tally.hits / tally.n >= floor)
    return Requirement(name=title, met=met, evidence=found, remedy=remedy)


def _against(title: str, pair: Paired | None, margin: float, alpha: float) -> Requirement:
    if pair is None or pair.n == 0:
        missing = "the newest report does not compare the two"
        return Requirement(name=title, met=False, evidence=missing, remedy="evaluate again")
    gained, lost = math.floor(effective(pair.gained, pair)), math.ceil(effective(pair.lost, pair))
    n = max(math.floor(effective(pair.n, pair)), gained + lost)
    p = inferiority_p_value(gained, lost, n, margin)
    met = p <= alpha
    within = f" within {percent(margin)}" if margin else ""
    found = f"+{pair.gained} -{pair.lost} of {pair.n}{within}, p = {p:.2g} (needs {alpha:.2g})"
    remedy = "" if met else _remedy((pair.gained - pair.lost) / pair.n >= -margin)
    return Requirement(name=title, met=met, evidence=found, remedy=remedy)


def _confident(
    suite: str, rule: SuiteRule, limit: float, level: Confident | None, alpha: float
) -> Requirement:
    at = percent(rule.confident_at)
    title = f"{suite}: at most {percent(limit)} errors at confidence ≥ {at}"
    if level is None:
        return Requirement(name=title, met=False, evidence="not measured", remedy="evaluate again")
    bound = upper_bound(effective(level.wrong, level), effective(level.n, level), alpha)
    met = bound <= limit
    found = f"{level.wrong} of {level.n} wrong, upper bound {percent(bound)}"
    promising = level.n > 0 and level.wrong / level.n <= limit
    remedy = "" if met else _remedy(promising or level.n == 0)
    return Requirement(name=title, met=met, evidence=found, remedy=remedy)


def _remedy(promising: bool) -> str:
    return "more held-out items may show it" if promising else "train a better version"


def percent(share: float) -> str:
    """A share as people read it."""
    return f"{100 * share:.4g} %"


def described(engine: Engine) -> str:
    """An engine in a few words, and the beginning of its fingerprint."""
    quantised = f", {engine.quantization}" if engine.quantization else ""
    return (
        f"{engine.name} on {engine.device}, {engine.dtype}{quantised} ({engine.fingerprint[:12]})"
    )
