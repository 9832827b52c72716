"""A domain's policy: what it asks, how it changes, and which changes protect less. Pure."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from annotated_types import Ge, Gt, Le, Lt, MaxLen

from adapters.fields import Name, Number, Pem
from registry.errors import BadRequest
from registry.model.evidence import Engine, SuiteRule

Days = Annotated[int, Ge(1), Le(10_000)]
PrefixCache = Literal["domain", "key"]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What a domain requires before a version may be promoted to a guarded alias."""

    guarded: Annotated[tuple[Name, ...], MaxLen(100)] = ("production",)
    """Aliases that move only to a version which meets the requirements."""
    approvals: Annotated[int, Ge(0), Le(100)] = 1
    """How many experts, none of them the publisher, must approve the version's bytes."""
    card_sections: Annotated[tuple[Name, ...], MaxLen(100)] = ()
    """Headings that a model card must contain."""
    guarded_role: Name = "publish"
    """The role in the domain that moving a guarded alias takes."""
    keep: Number | None = None
    """How many of an adapter's newest versions `lorary gc` keeps, besides those that an alias
    names; None keeps all."""
    end_revoked: bool = True
    """Whether answers under way end when their version is revoked, or are finished."""
    signers: Annotated[tuple[Pem, ...], MaxLen(50)] = ()
    """Public keys (PEM) whose OpenSSF model signatures count."""
    signature_required: bool = False
    """Whether a version without the signature of one of `signers` is refused."""
    approvers: Annotated[dict[Name, Annotated[int, Ge(0), Le(100)]], MaxLen(20)] = {}
    """Of the approving experts, how many must also hold these roles in the domain."""
    suites: Annotated[tuple[SuiteRule, ...], MaxLen(100)] = ()
    """Evaluations that a version must have passed."""
    alpha: Annotated[float, Gt(0), Lt(0.5)] = 0.05
    """Chance, at most, that a version which breaks a suite's rule passes it, over all looks."""
    looks: Annotated[int, Ge(1), Le(1000)] = 10
    """How many recorded evaluations on one held-out set share `alpha`; later ones pass nothing."""
    engines: Annotated[tuple[Engine, ...], MaxLen(10)] = ()
    """What serves the domain: each suite must be passed on every one of these that runs the
    version's base model. Empty: on any engine."""
    max_report_days: Days | None = None
    """Age beyond which an evaluation no longer counts."""
    target_risk: Annotated[float, Gt(0), Lt(1)] | None = None
    """The share of wrong answers among those given that evaluations certify a threshold for."""
    reviewed_items: Annotated[int, Ge(0), Le(10_000)] = 0
    """How many of a version's answers experts must have settled, none of them as harmful."""
    reviewed_correct: Annotated[float, Ge(0), Lt(1)] = 0.0
    """The share of the settled answers that must be correct (of a rubric: reach its share of the
    weights). The lower confidence bound at `alpha` must reach it, one that holds however often more
    answers are judged."""
    abstain: bool = False
    """Whether servers withhold the answers with a confidence below that threshold."""
    prefix_cache: PrefixCache = "domain"
    """Whose requests share cached prompts: the whole domain's, or each key's alone."""
    shadow_texts: bool = False
    """Whether servers may keep what callers asked and got where it is compared with a candidate's
    answers."""


Weaker: TypeAlias = Callable[[Any, Any], bool]
"""Whether going from the first value to the second protects less."""


def _lower(old: float, new: float) -> bool:
    return new < old


def _higher(old: float, new: float) -> bool:
    return new > old


def _limit_relaxed(old: float | None, new: float | None) -> bool:
    """An upper limit was raised or removed."""
    return old is not None and (new is None or new > old)


def _switched_off(old: bool, new: bool) -> bool:
    return old and not new


def _switched_on(old: bool, new: bool) -> bool:
    return new and not old


def _removed(old: Sequence[str], new: Sequence[str]) -> bool:
    return not set(old) <= set(new)


def _added(old: Sequence[str], new: Sequence[str]) -> bool:
    """More are allowed than before; the first ones only add a condition."""
    return bool(old) and not set(new) <= set(old)


def _engine_removed(old: Sequence[Engine], new: Sequence[Engine]) -> bool:
    return any(engine not in new for engine in old)


def _any_lower(old: Mapping[str, float], new: Mapping[str, float]) -> bool:
    return any(new.get(name, 0) < least for name, least in old.items())


def _shared_by_more(old: PrefixCache, new: PrefixCache) -> bool:
    return (old, new) == ("key", "domain")


def _other(old: object, new: object) -> bool:
    """No order is known, so any change may protect less."""
    return old != new


def _never(_old: object, _new: object) -> bool:
    """The field protects nothing, or the error rate that it shares out stays the same."""
    return False


def _rules_weaker(old: Sequence[SuiteRule], new: Sequence[SuiteRule]) -> bool:
    after = {rule.suite: rule for rule in new}
    return any(
        rule.suite not in after or any(_weaker(rule, after[rule.suite], RULE_FIELDS))
        for rule in old
    )


POLICY_FIELDS: dict[str, Weaker] = {
    "guarded": _removed,
    "approvals": _lower,
    "card_sections": _removed,
    "guarded_role": _other,
    "keep": _never,
    "end_revoked": _switched_off,
    "signers": _added,
    "signature_required": _switched_off,
    "approvers": _any_lower,
    "suites": _rules_weaker,
    "alpha": _higher,
    "looks": _never,
    "engines": _engine_removed,
    "max_report_days": _limit_relaxed,
    "target_risk": _limit_relaxed,
    "reviewed_items": _lower,
    "reviewed_correct": _lower,
    "abstain": _switched_off,
    "prefix_cache": _shared_by_more,
    "shadow_texts": _switched_on,
}
"""For each field of a policy, when a change of it protects less."""

RULE_FIELDS: dict[str, Weaker] = {
    "suite": _never,
    "digest": _other,
    "held_out": _other,
    "task": _never,
    "floors": _any_lower,
    "margin": _limit_relaxed,
    "better_than_base": _switched_off,
    "confident_at": _higher,
    "confident_errors": _limit_relaxed,
}
"""The same for a suite's rule. Other questions are another exam, which counts as weaker; what they
are follows from the digests, whatever the task is called."""


def merged(old: Policy, changes: Mapping[str, Any]) -> Policy:
    """`old` with the fields that `changes` names, as plain JSON values, replaced.

    Raises `BadRequest` for a field that no policy has and for a value of another type.
    """
    if unknown := sorted(changes.keys() - POLICY_FIELDS.keys()):
        near = difflib.get_close_matches(unknown[0], POLICY_FIELDS, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Use one of {', '.join(POLICY_FIELDS)}."
        raise BadRequest(f"A policy has no field {unknown[0][:60]!r}. {hint}")
    try:
        return msgspec.convert({**msgspec.to_builtins(old), **changes}, Policy)
    except msgspec.ValidationError as error:
        raise BadRequest(f"The policy cannot be read: {error}. Correct it.") from error


def differences(old: Policy, new: Policy) -> dict[str, tuple[Any, Any]]:
    """The fields that differ, each with its value before and after, as plain JSON values."""
    before, after = msgspec.to_builtins(old), msgspec.to_builtins(new)
    return {name: (before[name], after[name]) for name in after if before[name] != after[name]}


def weakened(old: Policy, new: Policy) -> tuple[str, ...]:
    """The fields whose change protects less, in the order of the policy's fields."""
    return tuple(_weaker(old, new, POLICY_FIELDS))


def _weaker(old: object, new: object, fields: Mapping[str, Weaker]) -> list[str]:
    return [
        name for name, weaker in fields.items() if weaker(getattr(old, name), getattr(new, name))
    ]
