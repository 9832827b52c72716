"""May this version become production? Every way to be refused, and what cannot be tricked."""

from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from adapters.confidence import Calibration
from adapters.names import AdapterRef
from registry import errors
from registry.log.commits import Commit, decode
from registry.maintain.auditing import audit
from registry.model.access import BOOTSTRAP
from registry.model.aliases import AliasMoved, MoveAlias, RemoveAlias
from registry.model.base import Command, Entry
from registry.model.bases import RegisterBase
from registry.model.canary import SplitAlias
from registry.model.catalog import Catalog, Grant
from registry.model.collection import blobs_in_use
from registry.model.creation import CreateRegistry
from registry.model.domains import ChangePolicy, CreateDomain
from registry.model.evaluations import MAX_BEGUN, BeginEvaluation, RecordEvaluation
from registry.model.evidence import Confident, Engine, Paired, SuiteResult, SuiteRule, Tally
from registry.model.gates import requirements
from registry.model.keys import IssueKey, RevokeKey
from registry.model.machine import decide, fold
from registry.model.policies import Policy
from registry.model.requirement import Requirement
from registry.model.standing import calibrated
from registry.model.trials import Bounds
from registry.model.versions import (
    ApproveVersion,
    PublishVersion,
    RevokeVersion,
    TombstoneVersion,
)
from registry.signing import fingerprint
from registry.store.blobs import content_digest
from tests.support.catalogs import FACTS, files
from tests.support.keys import key_pair
from tests.support.oracle import ENGINE

NOW, LATER = "2026-11-24T03:00:00Z", "2026-12-31T03:00:00Z"
OPERATOR, ALICE, BOB, CAROL, METER = "operator", "alice", "bob", "carol", "meter"
SUITE, HELD_OUT, BASE = "a" * 64, "b" * 64, "0" * 64
RULE = SuiteRule(
    suite="chapters",
    digest=SUITE,
    held_out=HELD_OUT,
    floors={"accuracy": 0.6},
    margin=0.05,
    better_than_base=True,
    confident_errors=0.1,
)
POLICY = Policy(suites=(RULE,), looks=5, max_report_days=30)


def do(catalog: Catalog, command: Command, actor: str, now: str = NOW) -> Catalog:
    return fold(catalog, [Entry(actor, e) for e in decide(catalog, command, actor, now)], now)


def start(policy: Policy = POLICY) -> Catalog:
    """A domain with a publisher, two experts and an evaluator; version 1 is in production."""
    catalog = do(Catalog(), CreateRegistry("r", OPERATOR, "op", "0" * 64), BOOTSTRAP)
    catalog = do(catalog, RegisterBase("tiny", BASE, "1" * 64), OPERATOR)
    catalog = do(catalog, CreateDomain("medical", Policy(guarded=())), OPERATOR)
    for key, roles in (
        (ALICE, ("publish", "approve", "evaluate")), (BOB, ("approve",)),
        (CAROL, ("approve", "review")), (METER, ("evaluate",)),
    ):  # fmt: skip
        grants = tuple(Grant(role, "medical") for role in roles)
        catalog = do(catalog, IssueKey(key, key, "0" * 64, grants), OPERATOR)
    catalog = publish(catalog, 1)
    catalog = do(catalog, MoveAlias("medical", "coder", "production", 1), ALICE)
    catalog = publish(do(catalog, ChangePolicy("medical", policy, weaken=True), OPERATOR), 2)
    return do(catalog, approval(2), BOB)


def publish(catalog: Catalog, seed: int) -> Catalog:
    command = PublishVersion("medical", "coder", digest(seed), "tiny", files(seed), FACTS)
    return do(catalog, command, ALICE)


def digest(number: int) -> str:
    return content_digest(files(number))


def approval(number: int) -> ApproveVersion:
    return ApproveVersion("medical", "coder", number, digest(number))


def result(
    *, hits: int = 800, n: int = 1000, wrong: int = 10, sure: int = 400,
    gained: int = 60, lost: int = 50, other: str = digest(1), held_out: str = HELD_OUT,
    suite: str = SUITE, effect: float = 1.0,
) -> SuiteResult:  # fmt: skip
    """Good enough for `RULE` unless told otherwise."""
    return SuiteResult(
        suite="chapters",
        digest=suite,
        held_out=held_out,
        tallies={"accuracy": Tally(hits, n, effect)},
        paired=(
            Paired(other=BASE, gained=700, lost=10, n=n, design_effect=effect),
            Paired(other=other, gained=gained, lost=lost, n=n, design_effect=effect),
        ),
        confident=(Confident(at=0.9, wrong=wrong, n=sure, design_effect=effect),),
    )


def report(
    found: SuiteResult, number: int = 2, name: int = 0, calibration: Calibration | None = None
) -> RecordEvaluation:
    made = f"{name:064x}"
    return RecordEvaluation(
        "medical", "coder", number, digest(number), made, (found,), calibration, engine=ENGINE
    )


def asked(catalog: Catalog, now: str = NOW, number: int = 2) -> dict[str, Requirement]:
    version = catalog.find(AdapterRef("medical", "coder", version=number))
    policy = catalog.domain("medical").policy
    return {r.name: r for r in requirements(version, policy, catalog, now=now)}


def lacking(catalog: Catalog, now: str = NOW) -> set[str]:
    return {name.removeprefix("chapters: ") for name, r in asked(catalog, now).items() if not r.met}


def refused(catalog: Catalog, why: str, now: str = NOW) -> None:
    """Neither a move nor a split gets past the gate, and the refusal says why."""
    for command in (
        MoveAlias("medical", "coder", "production", 2),
        SplitAlias("medical", "coder", "production", 2, 10),
    ):
        with pytest.raises(errors.PromotionNotEarned, match=why):
            decide(catalog, command, ALICE, now)


def promoted(catalog: Catalog) -> Catalog:
    return do(catalog, MoveAlias("medical", "coder", "production", 2), ALICE)


def test_a_version_that_meets_every_rule_is_promoted() -> None:
    catalog = do(start(), report(result()), METER)
    assert lacking(catalog) == set()
    assert len(asked(catalog)) == 6
    assert promoted(catalog).resolve(AdapterRef("medical", "coder")).number == 2


def test_without_an_evaluation_nothing_is_promoted() -> None:
    refused(start(), "no evaluation of these bytes is recorded")


@pytest.mark.parametrize(
    ("found", "rule"),
    [
        (result(hits=610), "accuracy at least 60 %"),
        (result(gained=40, lost=90), "no worse than medical/coder@1"),
        (result(wrong=60), "at most 10 % errors at confidence ≥ 90 %"),
        (result(sure=0, wrong=0), "at most 10 % errors at confidence ≥ 90 %"),
        # Alike items: the same counts show less.
        (result(hits=650, effect=6.0), "accuracy at least 60 %"),
    ],
)
def test_each_rule_refuses_by_itself(found: SuiteResult, rule: str) -> None:
    catalog = do(start(), report(found), METER)
    assert rule in lacking(catalog)
    refused(catalog, rule)


def test_better_accuracy_does_not_excuse_more_confident_errors() -> None:
    better = result(hits=950, gained=200, lost=5, wrong=80)
    catalog = do(start(), report(better), METER)
    assert lacking(catalog) == {"at most 10 % errors at confidence ≥ 90 %"}
    refused(catalog, "80 of 400 wrong")


def test_the_publishers_own_report_counts_for_nothing_under_any_of_her_keys() -> None:
    catalog = do(start(), report(result()), ALICE)
    refused(catalog, "only its publisher evaluated it")
    second = IssueKey("k2", "Alice ", "0" * 64, (Grant("evaluate", "medical"),))
    catalog = do(do(catalog, second, OPERATOR), report(result(), name=1), "k2")
    refused(catalog, "only its publisher evaluated it")


def test_an_authors_report_does_not_count_when_a_colleague_publishes_the_weights_again() -> None:
    fitted = Calibration(method="temperature", temperature=2.0, threshold=0.7)
    rita = IssueKey("rita", "rita", "0" * 64, (Grant("publish", "medical"),))
    catalog = do(start(msgspec.structs.replace(POLICY, approvals=0)), rita, OPERATOR)
    for adapter, who in (("other", ALICE), ("coder", "rita")):
        again = PublishVersion("medical", adapter, digest(3), "tiny", files(3), FACTS)
        catalog = do(catalog, again, who)
    catalog = do(catalog, report(result(), number=3, calibration=fitted), ALICE)
    unmet = [r.evidence for r in asked(catalog, number=3).values() if not r.met]
    assert "only a publisher of its weights evaluated it" in unmet
    version = catalog.find(AdapterRef("medical", "coder", version=3))
    assert calibrated(catalog.keys, version) is None
    other = do(catalog, report(result(), number=3, name=1, calibration=fitted), METER)
    version = other.find(AdapterRef("medical", "coder", version=3))
    assert calibrated(other.keys, version) is not None


def test_a_report_about_other_bytes_is_not_recorded() -> None:
    command = RecordEvaluation("medical", "coder", 2, digest(1), "c" * 64, (result(),))
    with pytest.raises(errors.Conflict, match="Evaluate the bytes that are published"):
        decide(start(), command, METER, NOW)


def test_a_report_that_a_collection_may_have_removed_is_not_recorded() -> None:
    catalog = start()
    assert decide(catalog, report(result()), METER, NOW)
    with pytest.raises(errors.BeingCollected):
        decide(catalog.changed(swept=1), report(result()), METER, NOW)


def test_a_report_on_an_edited_held_out_set_does_not_count() -> None:
    refused(do(start(), report(result(held_out="c" * 64)), METER), "the report is on items cccccc")


def test_a_report_by_an_edited_suite_does_not_count() -> None:
    refused(do(start(), report(result(suite="c" * 64)), METER), "the report is by suite cccccc")


def test_a_report_grows_stale_with_time() -> None:
    catalog = do(start(), report(result()), METER)
    assert lacking(catalog, LATER) == {"report"}
    refused(catalog, "older than 30 days", LATER)


def test_answers_grow_stale_however_lately_they_were_recorded() -> None:
    recorded = replace(report(result()), answered="2026-10-01T00:00:00Z")
    refused(do(start(), recorded, METER), "the answers of 2026-10-01 are older than 30 days")
    early = replace(report(result()), answered="2099-01-01T00:00:00Z")
    refused(do(start(), early, METER), "older than 30 days", LATER)


def test_an_engine_is_kept_beside_the_counts_and_bounded() -> None:
    engine = Engine(
        name="vllm 0.32.0", device="cpu", dtype="float32", quantization="", base=BASE,
        settings={"max_model_len": "2048"},
    )  # fmt: skip
    catalog = do(start(), replace(report(result()), engine=engine), METER)
    version = catalog.find(AdapterRef("medical", "coder", version=2))
    assert version.evaluations[-1].engine == engine
    for broken in (
        msgspec.structs.replace(engine, name="x" * 201),
        msgspec.structs.replace(engine, settings={str(n): "" for n in range(41)}),
        msgspec.structs.replace(engine, dtype="float\x00"),
    ):
        with pytest.raises(errors.BadRequest, match="engine"):
            decide(start(), replace(report(result()), engine=broken), METER, NOW)
    with pytest.raises(errors.BadRequest, match="answered: 'yesterday' is not a time"):
        decide(start(), replace(report(result()), answered="yesterday"), METER, NOW)


def test_a_report_grows_stale_when_production_moves() -> None:
    catalog = do(publish(start(), 3), report(result()), METER)
    policy = msgspec.structs.replace(POLICY, suites=())
    moved = do(
        do(catalog, ChangePolicy("medical", policy, weaken=True), OPERATOR), approval(3), BOB
    )
    moved = do(moved, MoveAlias("medical", "coder", "production", 3), ALICE)
    moved = do(moved, ChangePolicy("medical", POLICY, weaken=True), OPERATOR)
    assert lacking(moved) == {"no worse than medical/coder@3"}
    refused(moved, "does not compare the two")


def test_evidence_from_one_engine_does_not_satisfy_the_gate_under_another() -> None:
    """The same bytes, the same answers: what was measured in float32 says nothing of bfloat16."""
    half = replace(ENGINE, dtype="bfloat16")
    catalog = do(start(replace(POLICY, engines=(half,))), report(result()), METER)
    found = asked(catalog)["chapters: report"]
    assert not found.met
    assert found.evidence == (
        "requalify: the report is by another engine than the policy names (dtype)"
    )
    assert "lorary eval medical/coder@2 --url SERVER, which runs vllm 0.32.0 on cpu, bfloat16" in (
        found.remedy
    )
    refused(catalog, "requalify")
    catalog = do(catalog, replace(report(result(), name=1), engine=half), METER)
    assert lacking(catalog) == set()
    assert decide(catalog, MoveAlias("medical", "coder", "production", 2), ALICE, NOW)
    # Back to the first engine: its own report counts, the newer one of the other engine does not.
    policy = replace(POLICY, engines=(ENGINE,))
    catalog = do(catalog, ChangePolicy("medical", policy, weaken=True), OPERATOR)
    assert lacking(catalog) == set()


def test_an_update_of_lorary_alone_makes_no_evidence_stale() -> None:
    updated = replace(ENGINE, settings={**ENGINE.settings, "lorary": "9.9"})
    catalog = do(start(replace(POLICY, engines=(updated,))), report(result()), METER)
    assert lacking(catalog) == set()


def test_a_report_that_does_not_say_which_engine_answered_is_no_evidence_for_one() -> None:
    catalog = start(replace(POLICY, engines=(ENGINE,)))
    catalog = do(catalog, replace(report(result()), engine=None), METER)
    refused(catalog, "requalify: the report does not say which engine answered")


def test_where_a_policy_names_two_engines_a_version_must_pass_on_both() -> None:
    half = replace(ENGINE, dtype="bfloat16")
    catalog = do(start(replace(POLICY, engines=(ENGINE, half))), report(result()), METER)
    assert lacking(catalog) == {f"chapters on engine {half.fingerprint[:12]}: report"}
    catalog = do(catalog, replace(report(result(), name=1), engine=half), METER)
    assert lacking(catalog) == set()


def test_a_policy_whose_engines_run_another_base_lets_nothing_pass() -> None:
    other = replace(ENGINE, base="9" * 64)
    catalog = do(start(replace(POLICY, engines=(other,))), report(result()), METER)
    refused(catalog, "engine: the policy lists no engine that runs tiny")


def test_a_change_of_engine_keeps_nobody_from_going_back_and_says_requalify() -> None:
    catalog = do(start(), report(result()), METER)
    catalog = do(catalog, MoveAlias("medical", "coder", "production", 2), ALICE)
    catalog = do(catalog, MoveAlias("medical", "coder", "production", 2), ALICE)
    half = replace(ENGINE, dtype="bfloat16")
    policy = replace(POLICY, engines=(half,))
    catalog = do(catalog, ChangePolicy("medical", policy), OPERATOR)
    found = asked(catalog)["evaluation"]
    assert found.met
    assert "requalify: no evaluation that counts is on vllm 0.32.0 on cpu, bfloat16" in (
        found.evidence
    )
    assert "lorary eval --all-promoted" in found.remedy
    catalog = do(catalog, replace(report(result(), name=1), engine=half), METER)
    assert "requalify" not in asked(catalog)["evaluation"].evidence


def begun(run: str = "r1", number: int = 2, *, held_out: str = HELD_OUT) -> BeginEvaluation:
    return BeginEvaluation("medical", "coder", number, digest(number), run, (held_out,))


def test_a_look_is_counted_when_it_is_begun_whether_or_not_it_is_recorded() -> None:
    catalog = do(do(start(), begun("a"), METER), begun("b"), METER)
    catalog = do(catalog, replace(report(result()), run="c"), METER)
    assert "look 3 of 5" in asked(catalog)["chapters: report"].evidence


def test_a_run_that_goes_on_is_one_look_and_pays_for_one_report() -> None:
    catalog = do(do(start(), begun(), METER), begun("later"), METER)
    assert decide(catalog, begun(), METER, NOW) == ()
    first = replace(report(result()), run="r1")
    catalog = do(catalog, first, METER)
    assert "look 1 of 5" in asked(catalog)["chapters: report"].evidence
    catalog = do(catalog, replace(report(result(), name=1), run="r1"), METER)
    assert "look 3 of 5" in asked(catalog)["chapters: report"].evidence


def test_nobody_records_under_a_look_that_somebody_else_began() -> None:
    catalog = do(start(), begun(), ALICE)
    catalog = do(catalog, replace(report(result()), run="r1"), METER)
    assert "look 2 of 5" in asked(catalog)["chapters: report"].evidence
    with pytest.raises(errors.Forbidden, match="evaluate"):
        decide(catalog, begun("x"), BOB, NOW)


def test_runs_that_are_never_recorded_are_bounded() -> None:
    catalog = start()
    for number in range(MAX_BEGUN):
        catalog = do(catalog, begun(str(number)), METER)
    with pytest.raises(errors.Conflict, match="did not record"):
        decide(catalog, begun("more"), METER, NOW)
    assert decide(catalog, begun("more"), ALICE, NOW), "one evaluator kept another out"


def test_a_run_that_goes_on_with_other_items_is_a_look_at_those() -> None:
    other = "7" * 64
    catalog = do(do(start(), begun(held_out=other), METER), begun(), METER)
    assert catalog.domains["medical"].looks == {other: 1, HELD_OUT: 1}
    assert decide(catalog, begun(held_out=other), METER, NOW) == ()
    catalog = do(catalog, begun("later"), METER)
    catalog = do(catalog, replace(report(result()), run="r1"), METER)
    assert "look 1 of 5" in asked(catalog)["chapters: report"].evidence
    many = tuple(f"{number:064x}" for number in range(100))
    catalog = do(catalog, replace(begun("wide"), held_out=many), METER)
    with pytest.raises(errors.Conflict, match="Begin another"):
        decide(catalog, begun("wide"), METER, NOW)


def test_a_run_about_other_bytes_is_not_begun() -> None:
    with pytest.raises(errors.Conflict, match="has digest"):
        decide(start(), replace(begun(), digest="f" * 64), METER, NOW)


def test_of_several_reports_the_newest_counts_and_not_the_kindest() -> None:
    catalog = do(start(), report(result()), METER)
    catalog = do(catalog, report(result(hits=500), name=1), METER)
    assert "accuracy at least 60 %" in lacking(catalog)


def test_looks_at_one_held_out_set_are_counted_whoever_looks_and_paid_for() -> None:
    catalog = start()
    for look in range(4):
        catalog = do(catalog, report(result(), name=look), ALICE)
    catalog = do(catalog, report(result(), name=4), METER)
    assert lacking(catalog) == set()
    assert "look 5 of 5" in asked(catalog)["chapters: report"].evidence
    catalog = do(catalog, report(result(), name=5), METER)
    refused(catalog, "put fresh held-out items in the policy")


def test_more_looks_make_each_one_stricter() -> None:
    one = msgspec.structs.replace(POLICY, looks=1)
    many = msgspec.structs.replace(POLICY, looks=200)
    near = report(result(hits=635))
    assert lacking(do(start(one), near, METER)) == set()
    assert lacking(do(start(many), near, METER)) == {"accuracy at least 60 %"}


def test_the_same_report_twice_is_one_look() -> None:
    catalog = do(start(), report(result()), METER)
    assert decide(catalog, report(result()), METER, NOW) == ()
    with pytest.raises(errors.Conflict, match="other counts"):
        decide(catalog, report(result(hits=999)), METER, NOW)


def test_the_publisher_cannot_approve_with_a_second_key() -> None:
    second = IssueKey("k2", "Alice", "0" * 64, (Grant("approve", "medical"),))
    catalog = do(start(), second, OPERATOR)
    for key in (ALICE, "k2"):
        with pytest.raises(errors.Forbidden, match="cannot approve"):
            decide(catalog, approval(2), key, NOW)


def test_one_expert_with_two_keys_counts_once() -> None:
    catalog = do(start(msgspec.structs.replace(POLICY, approvals=2)), report(result()), METER)
    second = IssueKey("b2", "bob", "0" * 64, (Grant("approve", "medical"),))
    catalog = do(catalog, second, OPERATOR)
    assert decide(catalog, approval(2), BOB, NOW) == ()
    assert decide(catalog, approval(2), "b2", NOW) == ()
    refused(catalog, "1 more approval")
    assert lacking(do(catalog, approval(2), CAROL)) == set()


def test_an_approval_by_a_revoked_key_does_not_count_and_can_be_given_again() -> None:
    catalog = do(do(start(), report(result()), METER), RevokeKey(BOB, "stolen"), OPERATOR)
    refused(catalog, "1 more approval.*1 by revoked keys do not count")
    renewed = IssueKey("b2", "bob", "0" * 64, (Grant("approve", "medical"),))
    catalog = do(do(catalog, renewed, OPERATOR), approval(2), "b2")
    assert lacking(catalog) == set()


def test_an_approval_by_a_key_that_expired_since_still_counts() -> None:
    catalog = do(start(msgspec.structs.replace(POLICY, approvals=2)), report(result()), METER)
    brief = IssueKey("d", "dan", "0" * 64, (Grant("approve", "medical"),), "2026-11-24T04:00:00Z")
    catalog = do(do(catalog, brief, OPERATOR), approval(2), "d")
    assert lacking(catalog, "2026-11-25T03:00:00Z") == set()


def test_an_evaluation_by_a_revoked_key_does_not_count() -> None:
    catalog = do(do(start(), report(result()), METER), RevokeKey(METER, "stolen"), OPERATOR)
    refused(catalog, "its evaluator's key was revoked")


def test_who_published_the_weights_cannot_approve_them_under_a_colleagues_name() -> None:
    catalog = start(msgspec.structs.replace(POLICY, suites=()))
    rita = IssueKey("rita", "rita", "0" * 64, (Grant("publish", "medical"),))
    laundered = PublishVersion("medical", "copy", digest(2), "tiny", files(2), FACTS)
    catalog = do(do(catalog, rita, OPERATOR), laundered, "rita")
    approve = ApproveVersion("medical", "copy", 1, digest(2))
    with pytest.raises(errors.Forbidden, match="published the weights"):
        decide(catalog, approve, ALICE, NOW)
    assert decide(catalog, approve, CAROL, NOW)


def test_an_author_of_the_weights_in_another_domain_does_not_approve_them() -> None:
    catalog = do(start(), CreateDomain("legal", Policy(approvals=0)), OPERATOR)
    both = (Grant("approve", "medical"), Grant("publish", "legal"))
    catalog = do(catalog, IssueKey("lena", "Lena", "0" * 64, both), OPERATOR)
    approve = ApproveVersion("medical", "coder", 1, digest(1))
    assert decide(catalog, approve, "lena", NOW)
    approved = do(catalog, approve, "lena")
    same = PublishVersion("legal", "copy", digest(1), "tiny", files(1), FACTS)
    with pytest.raises(errors.Forbidden, match="cannot approve"):
        decide(do(catalog, same, "lena"), approve, "lena", NOW)
    assert asked(approved, number=1)["approvals"].met
    assert not asked(do(approved, same, "lena"), number=1)["approvals"].met


@pytest.mark.parametrize(("name", "person"), [("Alice  ", None), ("ALICE", None), ("a", "alice")])
def test_a_name_that_only_looks_different_is_no_second_person(
    name: str, person: str | None
) -> None:
    grants = (Grant("approve", "medical"),)
    second = IssueKey("k2", name, "0" * 64, grants, person=person)
    with pytest.raises(errors.Forbidden, match="cannot approve"):
        decide(do(start(), second, OPERATOR), approval(2), "k2", NOW)


@pytest.mark.parametrize("role", ["approve", "review"])
@pytest.mark.parametrize("name", ["\u00a0alice", "\uff21lice", "\u0430lice"])
def test_an_expert_whose_name_can_look_like_anothers_needs_another_identity(
    name: str, role: str
) -> None:
    grants = (Grant(role, "medical"),)
    with pytest.raises(errors.BadRequest, match="--person"):
        decide(start(), IssueKey("k2", name, "0" * 64, grants), OPERATOR, NOW)
    named = IssueKey("k2", name, "0" * 64, grants, person="a.smith@hospital.org")
    assert decide(start(), named, OPERATOR, NOW)
    app = IssueKey("k2", name, "0" * 64, (Grant("infer", "medical"),))
    assert decide(start(), app, OPERATOR, NOW)


def test_a_service_is_no_expert() -> None:
    grants = (Grant("approve", "medical"),)
    with pytest.raises(errors.BadRequest, match="persons"):
        decide(start(), IssueKey("k2", "bot", "0" * 64, grants, service=True), OPERATOR, NOW)


def test_another_alias_that_pointed_at_a_version_does_not_make_its_promotion_a_rollback() -> None:
    catalog = do(start(), MoveAlias("medical", "coder", "beta", 2), ALICE)
    refused(catalog, "no evaluation of these bytes is recorded")


def test_a_signature_by_a_signer_whom_the_policy_no_longer_names_does_not_count(
    tmp_path: Path,
) -> None:
    pems = [key_pair(tmp_path / name)[1] for name in ("old", "new")]
    catalog = do(start(), report(result()), METER)
    version = catalog.find(AdapterRef("medical", "coder", version=2))
    signed = msgspec.structs.replace(version, signer=fingerprint(pems[0]))
    policy = msgspec.structs.replace(POLICY, signers=(pems[0],), signature_required=True)
    by_name = {r.name: r.met for r in requirements(signed, policy, catalog, now=NOW)}
    assert by_name["signature"]
    policy = msgspec.structs.replace(policy, signers=(pems[1],))
    by_name = {r.name: r.met for r in requirements(signed, policy, catalog, now=NOW)}
    assert not by_name["signature"]


def test_a_role_in_another_domain_is_no_role_in_this_one() -> None:
    policy = msgspec.structs.replace(POLICY, approvers={"review": 1})
    catalog = do(start(policy), report(result()), METER)
    catalog = do(catalog, CreateDomain("legal", Policy()), OPERATOR)
    grants = (Grant("approve", "medical"), Grant("review", "legal"))
    catalog = do(catalog, IssueKey("eve", "eve", "0" * 64, grants), OPERATOR)
    refused(do(catalog, approval(2), "eve"), "approvals by the role review: 0 of 1")


def test_a_canary_takes_the_role_that_moving_the_alias_takes() -> None:
    policy = msgspec.structs.replace(POLICY, guarded_role="operate")
    catalog = do(start(policy), report(result()), METER)
    for command in (
        MoveAlias("medical", "coder", "production", 2),
        SplitAlias("medical", "coder", "production", 2, 10),
    ):
        with pytest.raises(errors.Forbidden, match="operate"):
            decide(catalog, command, ALICE, NOW)
        assert decide(catalog, command, OPERATOR, NOW)


def test_a_split_that_cannot_be_asked_for_does_not_tell_what_a_candidate_lacks() -> None:
    """Else whoever may promote learns it without a trace."""
    catalog = start()
    impossible = Bounds(max_error_rate=0)
    for _ in range(2):
        with pytest.raises(errors.BadRequest, match="above 0"):
            decide(
                catalog,
                SplitAlias("medical", "coder", "production", 2, 10, impossible),
                ALICE,
                NOW,
            )
        catalog = do(catalog, report(result()), METER)


def test_approvals_may_be_asked_of_a_role() -> None:
    policy = msgspec.structs.replace(POLICY, approvers={"review": 1})
    catalog = do(start(policy), report(result()), METER)
    refused(catalog, "approvals by the role review: 0 of 1")
    assert lacking(do(catalog, approval(2), CAROL)) == set()


def test_an_expert_adds_the_role_of_another_key_to_their_approval() -> None:
    policy = msgspec.structs.replace(POLICY, approvals=2, approvers={"review": 1})
    catalog = do(start(policy), report(result()), METER)
    for key, roles in (("bob2", ("approve",)), ("bob3", ("approve", "review"))):
        grants = tuple(Grant(role, "medical") for role in roles)
        catalog = do(catalog, IssueKey(key, BOB, "0" * 64, grants), OPERATOR)
    assert decide(catalog, approval(2), "bob2", NOW) == ()
    catalog = do(catalog, approval(2), "bob3")
    assert decide(catalog, approval(2), "bob3", NOW) == ()
    assert lacking(catalog) == {"approvals"}, "one person counts once"


def test_production_may_go_back_at_once_without_a_new_evaluation() -> None:
    catalog = promoted(do(start(), report(result()), METER))
    catalog = do(
        do(publish(catalog, 3), approval(3), BOB), report(result(other=digest(2)), 3, name=3), METER
    )
    catalog = do(catalog, MoveAlias("medical", "coder", "production", 3), ALICE)
    catalog = do(catalog, MoveAlias("medical", "coder", "production", 2), ALICE, LATER)
    assert catalog.resolve(AdapterRef("medical", "coder")).number == 2


def named(catalog: Catalog, *numbers: int) -> Catalog:
    """After moves of `staging` to these versions in turn."""
    for number in numbers:
        catalog = do(catalog, MoveAlias("medical", "coder", "staging", number), ALICE)
    return catalog


def guarding(catalog: Catalog, policy: Policy = POLICY) -> Catalog:
    """After `staging` was guarded, too."""
    both = msgspec.structs.replace(policy, guarded=("production", "staging"))
    return do(catalog, ChangePolicy("medical", both, weaken=True), OPERATOR)


def test_a_version_that_an_alias_named_while_unguarded_is_promoted_not_rolled_back() -> None:
    catalog = guarding(named(publish(start(), 3), 3, 1))
    catalog = do(catalog, approval(3), BOB)
    for command in (
        MoveAlias("medical", "coder", "staging", 3),
        SplitAlias("medical", "coder", "staging", 3, 10),
    ):
        with pytest.raises(errors.PromotionNotEarned, match="no evaluation of these bytes"):
            decide(catalog, command, ALICE, NOW)


@pytest.mark.parametrize(("number", "forged"), [(3, False), (4, True)])
def test_a_rollback_that_an_earlier_release_let_through_is_no_forgery(
    number: int, forged: bool
) -> None:
    catalog = guarding(named(publish(publish(start(), 3), 4), 3, 1))
    for approved in (3, 4):
        catalog = do(catalog, approval(approved), BOB)
    moved = AliasMoved(
        domain="medical", adapter="coder", alias="staging", version=number, previous=1
    )
    commit = Commit(sequence=9, id="c", time=NOW, previous="0" * 64, entries=(Entry(ALICE, moved),))
    assert [doubt.forged for doubt in audit(catalog, commit)] == [forged]


def test_a_version_that_an_alias_named_while_its_policy_asked_nothing_is_promoted() -> None:
    nothing = Policy(approvals=0, approvers={"review": 0})
    catalog = guarding(named(guarding(publish(start(), 3), nothing), 3, 1))
    catalog = do(catalog, approval(3), BOB)
    with pytest.raises(errors.PromotionNotEarned, match="no evaluation of these bytes"):
        decide(catalog, MoveAlias("medical", "coder", "staging", 3), ALICE, NOW)
    reviewed = do(start(), ChangePolicy("medical", Policy(reviewed_items=2), weaken=True), OPERATOR)
    reviewed = do(reviewed, approval(1), BOB)
    back = asked(reviewed, number=1)
    assert not back["expert review"].met, "version 1 was named before anything was asked"


def test_going_back_is_never_harder_than_going_forward_was() -> None:
    """A version that met what was asked then is not asked for what is asked since."""
    catalog = guarding(start(), Policy(approvals=1))
    catalog = do(catalog, approval(1), BOB)
    catalog = named(catalog, 2, 1)
    stricter = msgspec.structs.replace(POLICY, reviewed_items=5)
    catalog = guarding(catalog, stricter)
    assert decide(catalog, MoveAlias("medical", "coder", "staging", 2), ALICE, NOW)


def test_nothing_is_compared_with_a_revoked_production() -> None:
    catalog = do(start(), report(result(gained=0, lost=300)), METER)
    assert "no worse than medical/coder@1" in lacking(catalog)
    catalog = do(catalog, RevokeVersion("medical", "coder", 1, "harmful"), OPERATOR)
    assert lacking(catalog) == set()


def test_nothing_is_compared_with_a_version_whose_files_were_deleted() -> None:
    catalog = do(start(), report(result(gained=0, lost=300)), METER)
    catalog = do(catalog, RemoveAlias("medical", "coder", "production"), OPERATOR)
    assert lacking(catalog) == {"no worse than medical/coder@1"}
    catalog = do(catalog, TombstoneVersion("medical", "coder", 1, "old"), OPERATOR)
    assert lacking(catalog) == set()


def test_counts_are_bounded_for_whoever_resolves_the_version_gets_them() -> None:
    counts = {f"{number}{'x' * 150}": Tally(1, 2) for number in range(100)}
    suites = tuple(
        SuiteResult(suite=f"s{number}", digest=SUITE, held_out=HELD_OUT, tallies=counts)
        for number in range(8)
    )
    catalog = start()
    assert decide(catalog, replace(report(result()), results=suites[:4]), METER, NOW)
    with pytest.raises(errors.TooLarge, match="131072 bytes"):
        decide(catalog, replace(report(result()), results=suites), METER, NOW)


def test_a_role_is_granted_in_a_domain_that_exists_alone() -> None:
    for domain in ("medcial", "medical"):
        issued = IssueKey("new", "new", "0" * 64, (Grant("infer", domain),))
        if domain == "medical":
            assert decide(start(), issued, OPERATOR, NOW)
        else:
            with pytest.raises(errors.UnknownDomain, match="medical"):
                decide(start(), issued, OPERATOR, NOW)


def test_only_an_evaluator_records() -> None:
    with pytest.raises(errors.Forbidden, match="evaluate"):
        decide(start(), report(result()), BOB, NOW)


@pytest.mark.parametrize(
    "found",
    [
        result(hits=1001),
        result(hits=-1),
        result(gained=600, lost=500),
        result(effect=0.5),
        result(effect=float("nan")),
        msgspec.structs.replace(result(), suite=""),
        msgspec.structs.replace(
            result(), confident=(Confident(at=1.0, wrong=0, n=5),)
        ),
    ],
)  # fmt: skip
def test_impossible_counts_are_refused(found: SuiteResult) -> None:
    with pytest.raises(errors.BadRequest):
        decide(start(), report(found), METER, NOW)


def test_a_calibration_is_kept_with_the_version_unless_its_publisher_made_it() -> None:
    hot = Calibration(method="temperature", temperature=2.0, threshold=0.7)
    catalog = do(start(), report(result(), calibration=hot), ALICE)
    assert threshold(catalog) is None
    catalog = do(catalog, report(result(), name=7, calibration=hot), METER)
    kept = calibrated(catalog.keys, catalog.find(AdapterRef("medical", "coder", version=2)))
    assert kept is not None
    assert kept.calibration == msgspec.structs.replace(hot, report=f"{7:064x}")
    assert kept.engine == ENGINE


def threshold(catalog: Catalog) -> float | None:
    found = calibrated(catalog.keys, catalog.find(AdapterRef("medical", "coder", version=2)))
    return None if found is None else found.calibration.threshold


def test_the_calibration_of_a_key_that_is_revoked_later_counts_no_more() -> None:
    fitted = Calibration(method="temperature", temperature=2.0, threshold=0.7)
    catalog = do(start(), report(result(), name=7, calibration=fitted), METER)
    grants = (Grant("evaluate", "medical"),)
    catalog = do(catalog, IssueKey("thief", "thief", "0" * 64, grants), OPERATOR)
    for name in (8, 9):
        loose = msgspec.structs.replace(fitted, threshold=0.0)
        catalog = do(catalog, report(result(), name=name, calibration=loose), "thief")
    assert threshold(catalog) == 0.0
    catalog = do(catalog, RevokeKey("thief", "stolen"), OPERATOR)
    assert threshold(catalog) == 0.7, "the newest of those that count"
    catalog = do(catalog, RevokeKey(METER, "left"), OPERATOR)
    assert threshold(catalog) is None


@pytest.mark.parametrize(
    "broken",
    [
        Calibration(method="temperature", temperature=0.0),
        Calibration(method="temperature", temperature=float("inf")),
        Calibration(method="isotonic", knots=((0.1, 0.2),)),
        Calibration(method="isotonic", knots=((0.1, 0.9), (0.2, 0.1))),
        Calibration(method="isotonic", knots=((0.1, 0.2), (0.9, 1.5))),
        Calibration(method="temperature", threshold=1.5),
    ],
)
def test_an_unusable_calibration_is_refused(broken: Calibration) -> None:
    with pytest.raises(errors.BadRequest, match="calibration"):
        decide(start(), report(result(), calibration=broken), METER, NOW)


def policies() -> Iterable[Policy]:
    yield msgspec.structs.replace(POLICY, alpha=0.5)
    yield msgspec.structs.replace(POLICY, looks=0)
    yield msgspec.structs.replace(POLICY, max_report_days=0)
    yield msgspec.structs.replace(POLICY, target_risk=0.0)
    yield msgspec.structs.replace(POLICY, suites=(RULE, RULE))
    yield msgspec.structs.replace(POLICY, approvers={"review": 2})
    yield msgspec.structs.replace(POLICY, approvers={"wizard": 1})
    yield msgspec.structs.replace(
        POLICY, suites=(msgspec.structs.replace(RULE, floors={"accuracy": 60.0}),)
    )


@pytest.mark.parametrize("policy", policies())
def test_a_policy_that_cannot_be_kept_is_refused(policy: Policy) -> None:
    with pytest.raises(errors.BadRequest):
        decide(start(), ChangePolicy("medical", policy, weaken=True), OPERATOR, NOW)


def test_commits_from_before_evaluations_still_decode() -> None:
    old = (
        b'{"schema":1,"sequence":3,"id":"x","time":"2026-01-01T00:00:00Z","previous":null,'
        b'"entries":[{"actor":"op","event":{"type":"DomainCreated","domain":"medical","policy":'
        b'{"guarded":["production"],"approvals":2,"card_sections":[]}}}]}'
    )
    commit = decode(old, 3).commit
    catalog = fold(Catalog(), commit.entries, commit.time)
    assert catalog.domains["medical"].policy == Policy(approvals=2)


def test_the_state_with_evidence_survives_its_own_encoding() -> None:
    catalog = do(start(), report(result()), METER)
    assert msgspec.json.decode(msgspec.json.encode(catalog), type=Catalog) == catalog


def test_a_report_outlives_the_bytes_that_it_is_about() -> None:
    catalog = do(start(), report(result()), METER)
    before = blobs_in_use(catalog)
    catalog = do(catalog, TombstoneVersion("medical", "coder", 2, "withdrawn"), OPERATOR)
    (evaluation,) = catalog.find(AdapterRef("medical", "coder", version=2)).evaluations
    assert before - blobs_in_use(catalog) == {file.sha256 for file in files(2)}
    assert evaluation.report in blobs_in_use(catalog)


def test_two_suites_on_one_held_out_set_are_one_look_at_it() -> None:
    other = msgspec.structs.replace(result(), suite="others")
    both = msgspec.structs.replace(report(result()), results=(result(), other))
    assert do(start(), both, METER).domain("medical").looks == {HELD_OUT: 1}


def test_bytes_that_were_given_up_can_be_published_again() -> None:
    catalog = do(start(), TombstoneVersion("medical", "coder", 2, "by mistake"), OPERATOR)
    again = publish(catalog, 2).find(AdapterRef("medical", "coder", version=3))
    assert (again.digest, again.tombstone) == (digest(2), None)
