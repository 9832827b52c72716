"""May this version become production? What a policy asks, item by item, with the evidence. Pure.

`decide` enforces the answer for guarded aliases and their splits; the API, the command line and
the pages show the same one.

A rule of a suite holds only if its confidence bound does, at alpha / looks: a version that truly
breaks a rule passes it, over all paid looks at one held-out set, with chance alpha at most
(Bonferroni). Several rules need no further correction, since all must hold (the
intersection-union test; Berger, Technometrics 24 (1982)). That holds for looks that were recorded,
and for versions not fitted to what earlier reports on the same items revealed.
"""

from collections.abc import Iterator

from adapters.names import DEFAULT_ALIAS
from registry.model.catalog import Catalog, Version, in_good_standing, person
from registry.model.evidence import (
    Engine,
)
from registry.model.harm import RULINGS, Harm, about, harm_of
from registry.model.intervals import anytime_lower_bound
from registry.model.policies import Policy
from registry.model.requirement import Requirement
from registry.model.reviewing import settled_verdicts
from registry.model.reviews import counting
from registry.model.standing import authors, roles_of
from registry.model.suite_rules import described, percent, reported, weighed
from registry.signing import fingerprint

HARM, EXPERT_REVIEW = "harm", "expert review"
"""Names of the two requirements that follow from reviews."""
SHOWN, LONGEST = 3, 200
"""Findings of harm that a requirement names, and letters of a reason that it shows."""


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
    asked = list(in_use(version))
    asked += [*_approvals(version, policy, catalog), *_signature(version, policy)]
    adapter = catalog.adapters[f"{version.domain}/{version.adapter}"]
    moves = [move for move in adapter.moves if move.alias == alias]
    rollback = version.number in {move.version for move in moves if move.earned}
    asked += _harm(version, catalog)
    if not rollback:
        asked += _reviewed(version, policy, catalog)
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
            asked += weighed(rule, version, policy, catalog, production, now, engine)
    return tuple(asked)


def in_use(version: Version) -> Iterator[Requirement]:
    """What keeps a version from every alias, guarded or not: that it was revoked or deleted."""
    for name, reason in (("not revoked", version.revoked), ("not deleted", version.tombstone)):
        if reason is not None:
            yield Requirement(
                name=name, met=False, evidence=_cut(reason), remedy="publish another version"
            )


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
        if isinstance(reported(rule, version, policy, catalog, now, engine), str)
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


def asks_anything(policy: Policy) -> bool:
    """Whether a version must prove something before a guarded alias may name it."""
    return bool(
        policy.approvals
        or any(policy.approvers.values())
        or policy.signature_required
        or policy.suites
        or policy.reviewed_items
        or policy.reviewed_correct
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


def _harm(version: Version, catalog: Catalog) -> Iterator[Requirement]:
    """That no answer of these weights is found harmful."""
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


def _reviewed(version: Version, policy: Policy, catalog: Catalog) -> Iterator[Requirement]:
    """That experts settled enough answers of these weights, and enough of those as correct."""
    needed, floor = policy.reviewed_items, policy.reviewed_correct
    if not needed and not floor:
        return
    found = settled(version, catalog)
    enough = len(found) >= needed
    correct = sum(found.values())
    evidence = f"{len(found)} answers settled, {needed} required"
    remedy = (
        "have two experts judge more answers, in an open review (lorary review ls) or a new one: "
        f"lorary review open {version.ref}"
    )
    if floor:
        # Experts may judge until it suffices: each answer more is another look.
        bound = anytime_lower_bound(correct, len(found), policy.alpha)
        evidence += (
            f"; {correct} of them correct, lower bound {percent(bound)}, {percent(floor)} required"
        )
        if enough and bound < floor and correct < floor * len(found):
            remedy = "train a better version"
        enough = enough and bound >= floor
    if own := len(
        {review.id for review, _ in about(version, catalog)} - _by_others(version, catalog)
    ):
        evidence += f"; {own} review(s) that an author of the weights opened do not count"
    yield Requirement(
        name=EXPERT_REVIEW, met=enough, evidence=evidence, remedy="" if enough else remedy
    )


def _by_others(version: Version, catalog: Catalog) -> set[str]:
    """The reviews of these weights that none of their authors opened."""
    published = authors(catalog, version)
    return {
        review.id
        for review, _ in about(version, catalog)
        if person(catalog.keys, review.opener) not in published
    }


def settled(version: Version, catalog: Catalog) -> dict[str, bool]:
    """The items that those settled who may judge in the version's domain, and whether these
    weights answer them correctly.

    Who opens a review supplies its answers, so those that an author of the weights opened do not
    count.
    An item counts once, however many reviews it is in and however many versions of the same weights
    answer it there: as correct if every settled answer is.
    """
    found = dict[str, bool]()
    by_others = _by_others(version, catalog)
    for review, place in about(version, catalog):
        if review.id not in by_others:
            continue
        counts = counting(catalog, review)
        judges = {
            key
            for key in {judgement.expert for judgement in review.judgements}
            if counts(key) and "review" in roles_of(catalog, key, version.domain)
        }
        for item, verdict in settled_verdicts(review, place, judges.__contains__).items():
            found[item] = found.get(item, True) and verdict == "correct"
    return found


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
        + (f" because: {_cut(decision.reason)}" if decision.reason else ", the reason is hidden")
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
