"""Changing a policy: what is not named stays, and what protects less is said and asked for."""

from contextlib import nullcontext
from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from registry import errors
from registry.cli import build
from registry.http.app import create_app
from registry.http.schemas import body_of
from registry.model.domains import ChangePolicy, CreateDomain, PolicyChanged
from registry.model.evidence import SuiteRule
from registry.model.machine import decide
from registry.model.policies import (
    POLICY_FIELDS,
    RULE_FIELDS,
    Policy,
    differences,
    merged,
    weakened,
)
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from tests.unit.test_gates import ALICE, NOW, OPERATOR, POLICY, RULE, start

STRICT = msgspec.structs.replace(
    POLICY,
    approvals=2,
    card_sections=("Intended use",),
    approvers={"review": 1},
    signature_required=True,
    signers=("a",),
    target_risk=0.1,
    reviewed_items=20,
    reviewed_correct=0.8,
    abstain=True,
    prefix_cache="key",
)
WEAKER: list[dict[str, Any]] = [
    {"guarded": ()},
    {"guarded": ("candidate",)},
    {"approvals": 1},
    {"card_sections": ()},
    {"guarded_role": "operate"},
    {"end_revoked": False},
    {"signers": ("a", "b")},
    {"signature_required": False},
    {"approvers": {}},
    {"approvers": {"review": 0}},
    {"suites": ()},
    {"alpha": 0.1},
    {"max_report_days": None},
    {"max_report_days": 31},
    {"target_risk": None},
    {"target_risk": 0.2},
    {"reviewed_items": 19},
    {"reviewed_correct": 0.7},
    {"abstain": False},
    {"prefix_cache": "domain"},
    {"shadow_texts": True},
]
WEAKER_RULES: list[dict[str, Any]] = [
    {"suite": "others"},
    {"digest": "f" * 64},
    {"held_out": "f" * 64},
    {"floors": {}},
    {"floors": {"accuracy": 0.59}},
    {"margin": None},
    {"margin": 0.06},
    {"better_than_base": False},
    {"confident_at": 0.95},
    {"confident_errors": None},
    {"confident_errors": 0.2},
]
NO_WEAKER: list[dict[str, Any]] = [
    {"guarded": ("production", "candidate")},
    {"approvals": 3},
    {"keep": 20},
    {"signers": ()},
    {"approvers": {"review": 2}},
    {"suites": (RULE, msgspec.structs.replace(RULE, suite="more"))},
    {"suites": (msgspec.structs.replace(RULE, floors={"accuracy": 0.7, "valid": 0.9}),)},
    {"alpha": 0.01},
    {"max_report_days": 10},
    {"reviewed_items": 30},
    {"reviewed_correct": 0.9},
]


@pytest.mark.parametrize("change", WEAKER, ids=str)
def test_what_protects_less_is_called_weaker(change: dict[str, Any]) -> None:
    assert weakened(STRICT, msgspec.structs.replace(STRICT, **change)) == tuple(change)


@pytest.mark.parametrize("change", WEAKER_RULES, ids=str)
def test_a_suites_rule_that_asks_less_is_called_weaker(change: dict[str, Any]) -> None:
    rule = msgspec.structs.replace(RULE, **change)
    assert weakened(STRICT, msgspec.structs.replace(STRICT, suites=(rule,))) == ("suites",)


@pytest.mark.parametrize("change", NO_WEAKER, ids=str)
def test_what_protects_as_much_or_more_is_not(change: dict[str, Any]) -> None:
    assert weakened(STRICT, msgspec.structs.replace(STRICT, **change)) == ()


def test_the_first_signer_and_the_duty_to_sign_protect_more() -> None:
    signed = msgspec.structs.replace(POLICY, signers=("a",), signature_required=True)
    assert weakened(POLICY, signed) == ()


def test_every_field_of_a_policy_says_when_it_protects_less_and_can_be_set_over_http() -> None:
    for struct, fields in ((Policy, POLICY_FIELDS), (SuiteRule, RULE_FIELDS)):
        names = list(struct.__struct_fields__)
        assert sorted(fields) == sorted(names) == sorted(body_of(struct).model_fields)


def test_only_the_named_fields_change() -> None:
    assert merged(STRICT, {"keep": 20}) == msgspec.structs.replace(STRICT, keep=20)
    assert differences(STRICT, merged(STRICT, {"keep": 20})) == {"keep": (None, 20)}


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"aproovals": 1}, "Did you mean approvals"), ({"approvals": "two"}, "approvals")],
)
def test_a_change_that_no_policy_can_take_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(errors.BadRequest, match=why):
        merged(STRICT, changes)


def test_a_weaker_policy_must_be_confirmed_and_is_marked_in_the_log() -> None:
    catalog = start()
    weaker = msgspec.structs.replace(POLICY, suites=())
    with pytest.raises(errors.PolicyWeakened, match="weakens the policy of 'medical': suites"):
        decide(catalog, ChangePolicy("medical", weaker), OPERATOR, NOW)
    (event,) = decide(catalog, ChangePolicy("medical", weaker, weaken=True), OPERATOR, NOW)
    assert event == PolicyChanged(domain="medical", policy=weaker, weakened=("suites",))


def test_two_who_change_a_policy_at_once_do_not_undo_each_others_change() -> None:
    catalog = start()
    seen = catalog.domain("medical").policy
    mine = msgspec.structs.replace(seen, keep=20)
    command = ChangePolicy("medical", mine, expected=msgspec.structs.replace(seen, approvals=3))
    with pytest.raises(errors.Conflict, match="changed meanwhile"):
        decide(catalog, command, OPERATOR, NOW)


def test_only_an_operator_changes_a_policy() -> None:
    with pytest.raises(errors.Forbidden):
        decide(start(), ChangePolicy("medical", STRICT, weaken=True), ALICE, NOW)


def test_a_change_over_http_is_of_the_policy_that_its_caller_read(
    local_store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = Registry.create(local_store, name="test", key_name="operator")
    app = create_app(RegistrySettings(store=str(local_store.root)))
    registry: Registry = app.state.registry
    registry.execute(CreateDomain("medical", Policy()), operator.id)

    def overtaken(old: Policy, changes: dict[str, Any]) -> Policy:
        registry.execute(ChangePolicy("medical", Policy(approvals=3)), operator.id)
        return merged(old, changes)

    monkeypatch.setattr("registry.http.governing.merged", overtaken)
    with TestClient(app, headers={"Authorization": f"Bearer {operator.text}"}) as client:
        answer = client.patch(
            "/api/v1/domains/medical/policy?weaken=true", json={"card_sections": ["Intended use"]}
        )
        assert answer.status_code == 409
        assert registry.refresh().domain("medical").policy == Policy(approvals=3)


def test_from_the_shell_no_policy_is_weakened_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = []

    class Asked:
        def domain(self, _: str) -> dict[str, Any]:
            return {"policy": msgspec.to_builtins(STRICT)}

        def change_policy(self, *given: Any, weaken: bool) -> dict[str, Any]:
            changed.append((*given, weaken))
            return {"policy": {}}

    monkeypatch.setattr("registry.cli.domains.client", lambda: nullcontext(Asked()))
    command = ["domain", "policy", "medical", "--approvals"]
    refused = CliRunner().invoke(build(), [*command, "1"])
    assert isinstance(refused.exception, errors.BadRequest)
    assert changed == []
    CliRunner().invoke(build(), [*command, "1", "--yes"])
    CliRunner().invoke(build(), [*command, "3"])
    assert changed == [("medical", {"approvals": n}, n == 1) for n in (1, 3)]
