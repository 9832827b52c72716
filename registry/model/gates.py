"""May this version become production? What a policy asks, item by item, with the evidence. Pure.

`decide` enforces the answer for guarded aliases and their splits; the API, the command line and
the pages show the same one.

A rule of a suite holds only if its confidence bound does, at alpha / looks: a version that truly
breaks a rule passes it, over all paid looks at one held-out set, with chance alpha at most
(Bonferroni). Several rules need no further correction, since all must hold (the
intersection-union test; Berger, Technometrics 24 (1982)). That holds for looks that were recorded,
and for versions not fitted to what earlier reports on the same items revealed.
"""

import math
from collections.abc import Iterator
from datetime import timedelta

import msgspec

from adapters.names import DEFAULT_ALIAS
from registry.model.catalog import Catalog, Evaluation, Version, in_good_standing, person
from registry.model.evidence import (
    Confident,
    Engine,
    Paired,
    SuiteResult,
    SuiteRule,
    Tally,
    effective,
)
from registry.model.harm import RULINGS, Harm, about, harm_of
from registry.model.intervals import inferiority_p_value, lower_bound, upper_bound
from registry.model.policies import Policy
from registry.model.reviewing import findings
from registry.model.standing import authors, evaluator_fault, roles_of
from registry.signing import fingerprint
from registry.times import instant

HARM, EXPERT_REVIEW = "harm", "expert review"
"""Names of the two requirements that follow from reviews."""
SHOWN, LONGEST = 3, 200
"""Findings of harm that a requirement names, and letters of a reason that it shows."""


class Requirement(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a policy asks of a version, and how it stands."""

    name: str
    met: bool
    evidence: str
    """What was found, or what is missing."""
    remedy: str = ""
    """What to do if it is not met."""
    hidden: bool = False
    """Whether the reader may not learn whether it is met; `met` is false then."""

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}" + (f" ({self.remedy})" if self.remedy else "")


def requirements(
    version: Version,
    policy: Policy,
    catalog: Catalog,
    *,
    now: str,
    alias: str = DEFAULT_ALIAS,
) -> tuple[Requirement, ...]:
    """Everything that `policy` asks before the guarded `alias` may name `version` at `now`.

    A rollback to a version that the alias was promoted to before needs no new evaluation or review,
    so that it is never harder than the promotion was. Moves of the alias while it was unguarded, or
    its policy asked for nothing, were no promotions. Harm found by experts blocks both, until a
    decision lifts the finding.
    """
    asked = [*_approvals(version, policy, catalog), *_signature(version, policy)]
    adapter = catalog.adapters[f"{version.domain}/{version.adapter}"]
    moves = [move for move in adapter.moves if move.alias == alias]
    rollback = version.number in {move.version for move in moves if move.earned}
    asked += _reviewed(version, 0 if rollback else policy.reviewed_items, catalog)
    if rollback:
        if policy.suites:
            asked.append(_not_needed(version, policy, catalog, alias, now))
        return tuple(asked)
    # Removing an alias spares nobody the comparison with what it named.
    current = adapter.aliases.get(alias) or (moves[-1].previous if moves else None)
    production = adapter.versions[current - 1] if current else None
    if production and (production.revoked or production.tombstone) is not None:
        production = None
    engines = _engines(version, policy, catalog)
    if policy.suites and policy.engines and not engines:
        asked.append(_no_engine(version))
    for rule in policy.suites:
        for engine in engines or (None,):
            asked += _suite(rule, version, policy, catalog, production, now, engine)
    return tuple(asked)


def _engines(version: Version, policy: Policy, catalog: Catalog) -> list[Engine]:
    """The policy's engines that run the version's base model, or do not say which they run."""
    base = catalog.bases[version.base].digest
    return [engine for engine in policy.engines if engine.base in ("", base)]


def _no_engine(version: Version) -> Requirement:
    return Requirement(
        name="engine",
        met=False,
        evidence=f"the policy lists no engine that runs {version.base}",
        remedy=f"lorary domain engine {version.domain} --base {version.base} --url SERVER --add",
    )


def _not_needed(
    version: Version, policy: Policy, catalog: Catalog, alias: str, now: str
) -> Requirement:
    """In place of the suites' rules on a rollback; says on which engines there is no evidence."""
    found = f"not needed: {alias} was promoted to this version before"
    missing = [
        engine
        for engine in _engines(version, policy, catalog)
        for rule in policy.suites
        if isinstance(_report(rule, version, policy, catalog, now, engine), str)
    ]
    if not missing:
        return Requirement(name="evaluation", met=True, evidence=found)
    names = ", ".join(dict.fromkeys(map(described, missing)))
    return Requirement(
        name="evaluation",
        met=True,
        evidence=f"{found}; requalify: no evaluation that counts is on {names}",
        remedy=f"lorary eval {version.ref} --url SERVER, or lorary eval --all-promoted",
    )


def described(engine: Engine) -> str:
    """An engine in a few words, and the beginning of its fingerprint."""
    quantised = f", {engine.quantization}" if engine.quantization else ""
    return (
        f"{engine.name} on {engine.device}, {engine.dtype}{quantised} ({engine.fingerprint[:12]})"
    )


def asks_anything(policy: Policy) -> bool:
    """Whether a version must prove something before a guarded alias may name it."""
    return bool(
        policy.approvals
        or any(policy.approvers.values())
        or policy.signature_required
        or policy.suites
        or policy.reviewed_items
    )


def _approvals(version: Version, policy: Policy, catalog: Catalog) -> Iterator[Requirement]:
    published = authors(catalog, version)
    experts: dict[str, list[str]] = {}
    withdrawn = 0
    for key in version.approvers:
        who = person(catalog.keys, key)
        if not in_good_standing(catalog.keys, key):
            withdrawn += 1
        elif who not in published:
            experts.setdefault(who, []).append(key)
    remedy = f"lorary approve {version.ref}"
    if policy.approvals:
        lacking = policy.approvals - len(experts)
        found = f"{len(experts)} of {policy.approvals}"
        if lacking > 0:
            found = f"{lacking} more approval(s) needed from experts other than its publisher"
        if withdrawn:
            found += f"; {withdrawn} by revoked keys do not count"
        yield Requirement(
            name="approvals",
            met=lacking <= 0,
            evidence=found,
            remedy="" if lacking <= 0 else remedy,
        )
    for role, needed in sorted(policy.approvers.items()):
        having = sum(
            any(role in roles_of(catalog, key, version.domain) for key in keys)
            for keys in experts.values()
        )
        yield Requirement(
            name=f"approvals by the role {role}",
            met=having >= needed,
            evidence=f"{having} of {needed}",
            remedy="" if having >= needed else f"{remedy}, by a key that also has {role}",
        )


def _signature(version: Version, policy: Policy) -> Iterator[Requirement]:
    if policy.signature_required:
        met = version.signer in {fingerprint(signer) for signer in policy.signers}
        yield Requirement(
            name="signature",
            met=met,
            evidence="by a signer whom the policy names" if met else "by none the policy names",
            remedy="" if met else "publish it again, signed",
        )


def _reviewed(version: Version, needed: int, catalog: Catalog) -> Iterator[Requirement]:
    """That no answer of these weights is found harmful, and that experts settled `needed`."""
    found = harm_of(version, catalog)
    if blocking := [harm for harm in found if harm.blocks(version)]:
        yield Requirement(
            name=HARM,
            met=False,
            evidence=f"experts judged {len(blocking)} answer(s) harmful"
            f"{_listed(_undecided(harm, version) for harm in blocking)}",
            remedy=_remedy_of_harm(blocking, version),
        )
    elif found:
        yield Requirement(
            name=HARM,
            met=True,
            evidence=f"{len(found)} finding(s) of harm decided"
            f"{_listed(_decided(harm, version, catalog) for harm in found)}",
        )
    if needed:
        settled = _settled(version, catalog)
        enough = settled >= needed
        yield Requirement(
            name=EXPERT_REVIEW,
            met=enough,
            evidence=f"{settled} answers settled, {needed} required",
            remedy=""
            if enough
            else "have two experts judge more answers, in an open review (lorary review ls) or a "
            f"new one: lorary review open {version.ref}",
        )


def _settled(version: Version, catalog: Catalog) -> int:
    """How many answers of these weights those settled who may judge in the version's domain."""

    def counts(key: str) -> bool:
        standing = in_good_standing(catalog.keys, key)
        return standing and "review" in roles_of(catalog, key, version.domain)

    return sum(findings(review, place, counts).items for review, place in about(version, catalog))


def _listed(findings: Iterator[str]) -> str:
    """The first few, and how many more there are."""
    every = [text for text in findings if text]
    more = f"; and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return f": {'; '.join(every[:SHOWN])}{more}" if every else ""


def _undecided(harm: Harm, version: Version) -> str:
    """Which finding it is, and what it lacks. Items of open reviews are not named."""
    if harm.review.closed is None:
        return ""
    where = _where(harm, version)
    return f"{where} (lifted by {harm.lifting(version)} of {harm.needed} people)"


def _decided(harm: Harm, version: Version, catalog: Catalog) -> str:
    if harm.review.domain != version.domain:
        return _where(harm, version)
    said = ", ".join(
        f"{RULINGS[decision.ruling]} by {catalog.keys[decision.by].name}"
        + (f" because: {_cut(decision.reason)}" if decision.reason else "")
        for decision in harm.decisions
    )
    return f"{_where(harm, version)}: {said}"


def _where(harm: Harm, version: Version) -> str:
    """Of a review in another domain, which not all may see, no more than that."""
    if harm.review.domain != version.domain:
        return "a review in another domain"
    return f"review {harm.review.id}, item {harm.item}, version {harm.number}"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."


def _remedy_of_harm(blocking: list[Harm], version: Version) -> str:
    steps = []
    if any(harm.review.closed is None for harm in blocking):
        steps.append("where experts disagree, have a third one judge")
    closed = [harm for harm in blocking if harm.review.closed is not None]
    own = next((harm for harm in closed if harm.review.domain == version.domain), None)
    if own is not None:
        steps.append(
            "approvers who neither published the weights nor judged the item decide: lorary review "
            f"decide {own.review.id} {own.item} --version {own.number} --ruling not-harm "
            "--reason TEXT"
        )
    elif closed:
        steps.append("approvers of the other domain decide")
    return f"{'; '.join(steps)}; else publish a safer version"


def _suite(
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
    found = _report(rule, version, policy, catalog, now, engine)
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


def _report(
    rule: SuiteRule,
    version: Version,
    policy: Policy,
    catalog: Catalog,
    now: str,
    engine: Engine | None,
) -> tuple[Evaluation, SuiteResult, int] | str:
    """The newest report that counts, with its look; or why there is none.

    The newest, whatever it says: of several reports nobody picks the kindest.
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
    title = f"{suite}: {name} at least {_percent(floor)}"
    if tally is None or tally.n == 0:
        return Requirement(name=title, met=False, evidence="not measured", remedy="evaluate anew")
    bound = lower_bound(effective(tally.hits, tally), effective(tally.n, tally), alpha)
    met = bound >= floor
    found = f"{tally.hits} of {tally.n}, surely at least {_percent(bound)}"
    remedy = "" if met else _remedy(tally.hits / tally.n >= floor)
    return Requirement(name=title, met=met, evidence=found, remedy=remedy)


def _against(title: str, pair: Paired | None, margin: float, alpha: float) -> Requirement:
    if pair is None or pair.n == 0:
        missing = "the newest report does not compare the two"
        return Requirement(name=title, met=False, evidence=missing, remedy="evaluate anew")
    gained, lost = math.floor(effective(pair.gained, pair)), math.ceil(effective(pair.lost, pair))
    n = max(math.floor(effective(pair.n, pair)), gained + lost)
    p = inferiority_p_value(gained, lost, n, margin)
    met = p <= alpha
    within = f" within {_percent(margin)}" if margin else ""
    found = f"+{pair.gained} -{pair.lost} of {pair.n}{within}, p = {p:.2g} (needs {alpha:.2g})"
    remedy = "" if met else _remedy((pair.gained - pair.lost) / pair.n >= -margin)
    return Requirement(name=title, met=met, evidence=found, remedy=remedy)


def _confident(
    suite: str, rule: SuiteRule, limit: float, level: Confident | None, alpha: float
) -> Requirement:
    at = _percent(rule.confident_at)
    title = f"{suite}: at most {_percent(limit)} errors at confidence ≥ {at}"
    if level is None:
        return Requirement(name=title, met=False, evidence="not measured", remedy="evaluate anew")
    bound = upper_bound(effective(level.wrong, level), effective(level.n, level), alpha)
    met = bound <= limit
    found = f"{level.wrong} of {level.n} wrong, surely at most {_percent(bound)}"
    promising = level.n > 0 and level.wrong / level.n <= limit
    remedy = "" if met else _remedy(promising or level.n == 0)
    return Requirement(name=title, met=met, evidence=found, remedy=remedy)


def _remedy(promising: bool) -> str:
    return "more held-out items may show it" if promising else "train a better version"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"
