"""The rules of the registry, driven with random histories: what no order of commands can break."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import LoraryError
from adapters.names import AdapterRef
from registry import errors
from registry.log.commits import Commit, decode, follow
from registry.model.access import BOOTSTRAP
from registry.model.aliases import AliasMoved, MoveAlias
from registry.model.base import Command, Entry
from registry.model.bases import RegisterBase
from registry.model.canary import RollBackSplit, SplitAlias
from registry.model.catalog import Catalog, Grant
from registry.model.creation import CreateRegistry
from registry.model.domains import ChangePolicy, CreateDomain, SetDefaultAdapter
from registry.model.feedback import GiveFeedback
from registry.model.keys import IssueKey, RevokeKey
from registry.model.machine import decide, fold
from registry.model.policies import Policy
from registry.model.ratings import CATEGORIES, RATINGS
from registry.model.standing import authors
from registry.model.trials import Arm, Bounds, Evidence
from registry.model.versions import ApproveVersion, PublishVersion, RevokeVersion, TombstoneVersion
from registry.store.blobs import content_digest
from tests.support.catalogs import FACTS, files

NOW = "2026-11-24T03:00:00Z"
OPERATOR, ALICE, BOB, READER = "operator", "alice", "bob", "reader"


def do(catalog: Catalog, command: Command, actor: str, now: str = NOW) -> Catalog:
    return fold(catalog, [Entry(actor, e) for e in decide(catalog, command, actor, now)], now)


def start(policy: Policy | None = None) -> Catalog:
    """A registry with a base, a domain, two experts who may publish and approve, and a reader."""
    catalog = do(Catalog(), CreateRegistry("r", OPERATOR, "op", "0" * 64), BOOTSTRAP)
    catalog = do(catalog, RegisterBase("tiny", "0" * 64, "1" * 64), OPERATOR)
    catalog = do(catalog, CreateDomain("medical", policy or Policy()), OPERATOR)
    expert = (Grant("publish", "medical"), Grant("approve", "medical"))
    for key, grants in ((ALICE, expert), (BOB, expert), (READER, (Grant("infer", "medical"),))):
        catalog = do(catalog, IssueKey(key, key, "0" * 64, grants), OPERATOR)
    return catalog


def published(seed: int, adapter: str = "coder") -> PublishVersion:
    return PublishVersion(
        "medical", adapter, content_digest(files(seed)), "tiny", files(seed), FACTS
    )


adapters = st.sampled_from(["coder", "other"])
versions = st.integers(1, 4)
digests = st.integers(0, 3).map(lambda seed: content_digest(files(seed)))
commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(published, st.integers(0, 3), adapters),
    st.builds(
        MoveAlias, st.just("medical"), adapters, st.sampled_from(["production", "beta"]), versions
    ),
    st.builds(
        SplitAlias,
        st.just("medical"),
        adapters,
        st.sampled_from(["production", "beta"]),
        versions,
        st.integers(0, 99),
        st.none() | st.just(Bounds(min_requests=1, max_negative_share=0.1)),
    ),
    st.builds(
        RollBackSplit,
        st.just("medical"),
        adapters,
        st.sampled_from(["production", "beta"]),
        versions,
        st.integers(0, 3),
        st.just("error_rate"),
        st.just(Evidence(candidate=Arm(requests=20, errors=20), stable=Arm())),
    ),
    st.builds(
        GiveFeedback,
        st.just("medical"),
        adapters,
        versions,
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, 2**32),
        st.just("app"),
        st.sampled_from(RATINGS),
        st.none() | st.sampled_from(CATEGORIES),
    ),
    st.builds(TombstoneVersion, st.just("medical"), adapters, versions, st.just("old")),
    st.builds(ApproveVersion, st.just("medical"), adapters, versions, digests),
    st.builds(RevokeVersion, st.just("medical"), adapters, versions, st.just("wrong")),
    st.builds(SetDefaultAdapter, st.just("medical"), adapters),
    st.builds(ChangePolicy, st.just("medical"), st.builds(Policy, approvals=st.integers(0, 2))),
    st.builds(RevokeKey, st.sampled_from([ALICE, BOB]), st.just("left")),
)
histories = st.lists(
    st.tuples(commands, st.sampled_from([OPERATOR, ALICE, BOB, READER, "nobody"])), max_size=40
)


def test_adapters_do_not_differ_in_case_only() -> None:
    catalog = do(start(), published(1), ALICE)
    with pytest.raises(errors.Conflict, match="medical/coder exists"):
        decide(catalog, published(2, "Coder"), ALICE, NOW)
    with pytest.raises(errors.UnknownAdapter, match="Did you mean medical/coder"):
        catalog.find(AdapterRef.parse("medical/CODER@1"))
    catalog = do(catalog, published(2, "Coder.v2_x"), ALICE)
    assert catalog.find(AdapterRef.parse("medical/Coder.v2_x@1")).number == 1


def test_what_is_not_there_is_refused_with_the_command_that_helps() -> None:
    catalog = do(start(), published(1), ALICE)
    with pytest.raises(errors.UnknownDomain, match="`lorary domain ls`"):
        catalog.domain("nowhere")
    with pytest.raises(errors.UnknownAlias, match=r"lorary alias set medical/coder@1 production"):
        catalog.find(AdapterRef.parse("medical/coder"))


@given(histories)
def test_no_history_breaks_the_registry(history: list[tuple[Command, str]]) -> None:
    catalog = start()
    for command, actor in history:
        before = msgspec.json.encode(catalog)
        try:
            events = decide(catalog, command, actor, NOW)
        except LoraryError:
            continue
        finally:
            assert msgspec.json.encode(catalog) == before, "deciding changed the state"
        assert actor != READER
        assert actor != "nobody"
        for event in events:
            if isinstance(event, AliasMoved) and event.alias == "production":
                policy = catalog.domains["medical"].policy
                ref = AdapterRef("medical", event.adapter, event.version)
                version = catalog.resolve(ref)
                assert len(set(version.approvers) - {version.publisher}) >= policy.approvals
        catalog = fold(catalog, [Entry(actor, event) for event in events], NOW)
        check(catalog)


def check(catalog: Catalog) -> None:
    for adapter in catalog.adapters.values():
        assert [v.number for v in adapter.versions] == list(range(1, len(adapter.versions) + 1))
        assert set(adapter.aliases.values()) <= {v.number for v in adapter.versions}
        assert {s.number for s in adapter.splits.values()}.isdisjoint(
            r.split for r in adapter.rollbacks
        )
        for version in adapter.versions:
            assert version.publisher not in version.approvers
            known = version.feedback.opinions
            assert version.feedback.tally.negative == sum(o.rating == "negative" for o in known)
            if version.revoked is not None:
                with pytest.raises(errors.VersionRevoked):
                    catalog.resolve(version.ref)


@given(histories, st.lists(st.integers(1, 5), min_size=1))
def test_the_state_does_not_depend_on_how_commits_were_grouped(
    history: list[tuple[Command, str]], sizes: list[int]
) -> None:
    one_by_one, entries = start(), list[Entry]()
    for command, actor in history:
        try:
            events = decide(one_by_one, command, actor, NOW)
        except LoraryError:
            continue
        new = [Entry(actor, event) for event in events]
        one_by_one = fold(one_by_one, new, NOW)
        entries += new
    grouped, position, turn = start(), 0, 0
    while position < len(entries):
        size = sizes[turn % len(sizes)]
        group = tuple(entries[position : position + size])
        commit = Commit(
            sequence=turn + 1, id=str(turn), time=NOW, previous=grouped.head, entries=group
        )
        grouped = follow(grouped, decode(msgspec.json.encode(commit), turn + 1))
        position, turn = position + size, turn + 1
    assert grouped.adapters == one_by_one.adapters
    assert grouped.keys == one_by_one.keys
    assert grouped.domains == one_by_one.domains
    assert msgspec.json.decode(msgspec.json.encode(grouped), type=Catalog) == grouped


def test_a_guarded_alias_waits_for_experts_other_than_the_publisher() -> None:
    catalog = do(start(Policy(approvals=1)), published(0), ALICE)
    move = MoveAlias("medical", "coder", "production", 1)
    with pytest.raises(errors.PromotionNotEarned, match="1 more approval"):
        decide(catalog, move, ALICE, NOW)
    approve = ApproveVersion("medical", "coder", 1, content_digest(files(0)))
    with pytest.raises(errors.Forbidden, match="cannot approve"):
        decide(catalog, approve, ALICE, NOW)
    catalog = do(do(catalog, approve, BOB), move, ALICE)
    assert catalog.resolve(AdapterRef("medical", "coder")).number == 1


def test_an_approval_is_for_the_very_bytes() -> None:
    catalog = do(start(), published(0), ALICE)
    with pytest.raises(errors.Conflict, match="has digest"):
        decide(catalog, ApproveVersion("medical", "coder", 1, "f" * 64), BOB, NOW)


def test_pushing_the_newest_bytes_again_changes_nothing() -> None:
    catalog = do(start(), published(0), ALICE)
    assert decide(catalog, published(0), ALICE, NOW) == ()
    assert len(decide(catalog, published(1), ALICE, NOW)) == 1


def test_an_expired_key_opens_nothing() -> None:
    grants = (Grant("publish", "medical"),)
    issue = IssueKey("short", "short", "0" * 64, grants, "2026-11-24T04:00:00Z")
    catalog = do(start(), issue, OPERATOR)
    assert decide(catalog, published(0), "short", NOW)
    with pytest.raises(errors.Unauthenticated, match="expired"):
        decide(catalog, published(0), "short", "2026-11-24T04:00:00Z")


def test_names_resolve_as_the_grammar_says() -> None:
    catalog = start(Policy(guarded=()))
    for seed in range(3):
        catalog = do(catalog, published(seed), ALICE)
    with pytest.raises(errors.NoDefaultAdapter, match="medical/coder"):
        catalog.resolve(AdapterRef.parse("medical"))
    with pytest.raises(errors.UnknownAlias):
        catalog.resolve(AdapterRef.parse("medical/coder"))
    catalog = do(catalog, MoveAlias("medical", "coder", "production", 2), ALICE)
    catalog = do(catalog, SetDefaultAdapter("medical", "coder"), OPERATOR)
    for text, number in {
        "medical": 2, "medical/coder": 2, "medical/coder@production": 2, "medical/coder@3": 3
    }.items():  # fmt: skip
        assert catalog.resolve(AdapterRef.parse(text)).number == number
    with pytest.raises(errors.UnknownVersion, match="newest is medical/coder@3"):
        catalog.resolve(AdapterRef.parse("medical/coder@4"))
    with pytest.raises(errors.UnknownAdapter, match=r"Did you mean medical/coder\?"):
        catalog.resolve(AdapterRef.parse("medical/codr"))
    catalog = do(catalog, RevokeVersion("medical", "coder", 2, "wrong for sepsis"), OPERATOR)
    with pytest.raises(errors.VersionRevoked, match="wrong for sepsis"):
        catalog.resolve(AdapterRef.parse("medical"))


def test_each_state_has_its_own_authors() -> None:
    catalog = do(start(), published(1), ALICE)
    version = catalog.adapters["medical/coder"].versions[0]
    assert authors(catalog, version) == {"alice"}
    newer = do(catalog, published(1, "other"), BOB)
    assert authors(newer, version) == {"alice", "bob"}
    assert authors(catalog, version) == {"alice"}
