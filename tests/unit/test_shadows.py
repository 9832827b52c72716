"""Shadows in the log: who may have one, what ends it, and what replicas report of it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from starlette.testclient import TestClient

from adapters.heads import Head
from registry import errors
from registry.http import create_app
from registry.maintain.collection import expired
from registry.model.access import Secret
from registry.model.aliases import MoveAlias, RemoveAlias
from registry.model.base import Command
from registry.model.catalog import Adapter, Grant
from registry.model.comparisons import KEPT, MAX_REPORTERS, Comparison, Shadow, summary
from registry.model.domains import ChangePolicy
from registry.model.keys import IssueKey
from registry.model.policies import Policy
from registry.model.shadow import EndShadow, ReportShadow, StartShadow
from registry.model.versions import RevokeVersion, TombstoneVersion
from registry.settings import RegistrySettings
from tests.support.replicas import Site, make_site

CODER = ("medical", "coder")
ALIAS = (*CODER, "production")
START = StartShadow(*ALIAS, candidate=2, share=0.1)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = make_site(tmp_path)
    made.publish(*CODER, b"two")
    made.publish(*CODER, b"three")
    run(made, MoveAlias(*ALIAS, 1))
    yield made
    made.registry.close()


def run(site: Site, command: Command) -> Adapter:
    site.registry.execute(command, site.operator.id)
    return site.registry.catalog.adapters["medical/coder"]


def last(adapter: Adapter) -> Shadow:
    return adapter.shadows[-1]


def test_a_shadow_changes_nothing_of_what_callers_get(site: Site) -> None:
    before = site.registry.catalog.adapters["medical/coder"]
    after = run(site, START)
    assert (after.aliases, after.splits) == (before.aliases, before.splits)
    shadow = after.shadowed["production"]
    assert (shadow.candidate, shadow.stable, shadow.share) == (2, 1, 0.1)
    assert run(site, START).shadows == after.shadows, "the same again changes nothing"


def test_a_shadow_needs_no_promotion(site: Site) -> None:
    policy = ChangePolicy("medical", Policy(approvals=3))
    site.registry.execute(policy, site.operator.id)
    with pytest.raises(errors.PromotionNotEarned):
        run(site, MoveAlias(*ALIAS, 2))
    assert run(site, START).shadowed["production"].candidate == 2


@pytest.mark.parametrize(
    ("begin", "error"),
    [
        (StartShadow(*ALIAS, 1, 0.1), errors.BadRequest),
        (StartShadow(*ALIAS, 9, 0.1), errors.UnknownVersion),
        (StartShadow(*ALIAS, 4, 0.1), errors.BaseMismatch),
        (StartShadow(*ALIAS, 3, 0.1), errors.VersionRevoked),
        (StartShadow(*ALIAS, 2, 0.0), errors.BadRequest),
        (StartShadow(*ALIAS, 2, 1.1), errors.BadRequest),
        (StartShadow(*CODER, "beta", 2, 0.1), errors.UnknownAlias),
    ],
)
def test_a_candidate_that_no_server_could_answer_with_is_refused(
    site: Site, begin: StartShadow, error: type[Exception]
) -> None:
    site.publish(*CODER, b"four", base="other")
    run(site, MoveAlias(*ALIAS, 1))
    run(site, RevokeVersion(*CODER, 3, "wrong"))
    with pytest.raises(error):
        run(site, begin)


@pytest.mark.parametrize("number", [1, 2])
def test_a_version_that_classifies_neither_has_nor_is_a_shadow(site: Site, number: int) -> None:
    catalog = site.registry.catalog
    adapter = catalog.adapters["medical/coder"]
    versions = list(adapter.versions)
    old = versions[number - 1]
    facts = msgspec.structs.replace(old.facts, head=Head(size=2))
    versions[number - 1] = msgspec.structs.replace(old, facts=facts)
    changed = msgspec.structs.replace(adapter, versions=tuple(versions))
    catalog = catalog.changed(adapters={**catalog.adapters, "medical/coder": changed})
    with pytest.raises(errors.BadRequest, match="classification heads"):
        list(START.decide(catalog, site.operator.id, "2030-01-01T00:00:00Z"))


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (EndShadow(*ALIAS), "ended by"),
        (MoveAlias(*ALIAS, 3), "the alias was moved"),
        (MoveAlias(*ALIAS, 2), "the alias was moved"),
        (RemoveAlias(*ALIAS), "the alias was removed"),
        (RevokeVersion(*CODER, 2, "wrong"), "version 2 was revoked"),
        (RevokeVersion(*CODER, 1, "wrong"), "version 1 was revoked"),
        (TombstoneVersion(*CODER, 2, "old"), "version 2 was deleted"),
        (StartShadow(*ALIAS, 3, 0.1), "another took its place"),
        (StartShadow(*ALIAS, 2, 0.2), "another took its place"),
    ],
)
def test_a_shadow_ends_with_what_it_compares(site: Site, command: Command, reason: str) -> None:
    first = last(run(site, START))
    after = run(site, command)
    shadow = next(s for s in after.shadows if s.number == first.number)
    assert shadow.ended is not None
    assert shadow.reason is not None
    assert shadow.reason.startswith(reason)
    assert after.shadowed.get("production") != first


@pytest.mark.parametrize(
    "command",
    [
        MoveAlias(*CODER, "beta", 2),
        RevokeVersion(*CODER, 3, "wrong"),
        StartShadow(*CODER, "beta", 2, 0.1),
        EndShadow(*CODER, "beta"),
    ],
)
def test_what_concerns_another_alias_or_version_ends_no_shadow(
    site: Site, command: Command
) -> None:
    run(site, MoveAlias(*CODER, "beta", 1))
    running = last(run(site, START))
    assert run(site, command).shadowed["production"] == running


def test_a_candidate_that_shadows_is_not_collected(site: Site) -> None:
    site.registry.execute(ChangePolicy("medical", Policy(guarded=(), keep=1)), site.operator.id)
    catalog = site.registry.catalog
    assert [version.number for version in expired(catalog)] == [2]
    run(site, START)
    assert expired(site.registry.catalog) == []
    run(site, EndShadow(*ALIAS))
    assert [version.number for version in expired(site.registry.catalog)] == [2]


def test_an_adapter_remembers_the_latest_shadows_and_all_that_run(site: Site) -> None:
    run(site, MoveAlias(*CODER, "beta", 1))
    run(site, StartShadow(*CODER, "beta", 2, 0.5))
    for _ in range(KEPT + 5):
        run(site, START)
        adapter = run(site, EndShadow(*ALIAS))
    numbers = [shadow.number for shadow in adapter.shadows]
    assert numbers == [1, *range(7, KEPT + 7)]


def report(seen: Comparison, reporter: str = "a", shadow: int = 1) -> ReportShadow:
    return ReportShadow(*ALIAS, shadow=shadow, reporter=reporter, seen=seen)


@pytest.fixture
def running(site: Site) -> Callable[[Command], Comparison]:
    """Gives a replica's report about a running shadow; what was seen in all."""
    run(site, START)
    serving = IssueKey("serving", "replica", "0" * 64, (Grant("serve", "*"),))
    site.registry.execute(serving, site.operator.id)

    def give(command: Command) -> Comparison:
        site.registry.execute(command, "serving")
        return last(site.registry.catalog.adapters["medical/coder"]).seen

    return give


def test_reports_of_several_replicas_add_up_and_each_counts_once(
    running: Callable[[Command], Comparison],
) -> None:
    running(report(Comparison(compared=3, tokens=5)))
    assert running(report(Comparison(compared=3, tokens=5))).compared == 3
    assert running(report(Comparison(compared=4, tokens=9))).compared == 4
    assert running(report(Comparison(compared=3, tokens=5))).compared == 4, "a late report"
    seen = running(report(Comparison(compared=2, failed=1, first_seconds=0.5), "b"))
    assert (seen.compared, seen.failed, seen.tokens, seen.first_seconds) == (6, 1, 9, 0.5)


@pytest.mark.parametrize(
    "seen",
    [
        Comparison(compared=1, texts=2),
        Comparison(compared=1, texts=1, same_first=0, same_text=1),
        Comparison(compared=1, timed=2),
        Comparison(compared=1, timed=1, token_slower=2),
        Comparison(compared=1, timed=1, first_slower=2),
        Comparison(compared=1, scored=2),
        Comparison(compared=2, scored=2, correct=1, gained=2),
        Comparison(compared=2, scored=2, correct=1, lost=2),
        Comparison(compared=-1),
        Comparison(first_seconds=float("nan")),
        Comparison(token_seconds=float("inf")),
    ],
)
def test_counts_that_cannot_be_are_refused(
    running: Callable[[Command], Comparison], seen: Comparison
) -> None:
    with pytest.raises(errors.BadRequest):
        running(report(seen))


def test_the_last_totals_of_a_shadow_that_has_ended_are_kept_and_those_of_another_are_refused(
    site: Site, running: Callable[[Command], Comparison]
) -> None:
    run(site, EndShadow(*ALIAS))
    assert running(report(Comparison(compared=1))).compared == 1
    with pytest.raises(errors.Conflict, match="Shadow 2 of medical/coder@production"):
        running(report(Comparison(compared=1), shadow=2))


def test_a_shadow_takes_reports_of_so_many_processes_and_no_more(site: Site) -> None:
    adapter = run(site, START)
    reports = {str(number): Comparison(compared=1) for number in range(MAX_REPORTERS)}
    full = msgspec.structs.replace(last(adapter), reports=reports)
    catalog = site.registry.catalog
    adapters = {
        **catalog.adapters,
        "medical/coder": msgspec.structs.replace(adapter, shadows=(full,)),
    }
    catalog = catalog.changed(adapters=adapters)
    command = report(Comparison(compared=2), "one more")
    with pytest.raises(errors.Conflict, match="Start it again"):
        list(command.decide(catalog, "serving", "2030-01-01T00:00:00Z"))
    assert list(report(Comparison(compared=2), "7").decide(catalog, "s", "2030-01-01T00:00:00Z"))


def test_what_was_seen_is_reported_with_its_interval(site: Site) -> None:
    seen = Comparison(
        compared=20, failed=5, dropped=7, texts=10, same_text=8, same_first=9, tokens=100,
        candidate_tokens=90, timed=4, first_seconds=0.4, candidate_first_seconds=0.8,
        first_slower=4, token_seconds=0.04, candidate_token_seconds=0.02, scored=10, correct=6,
        gained=2, lost=1,
    )  # fmt: skip
    told = dict(summary(seen))
    assert told["compared"] == "20 requests; 7 more were not asked"
    assert told["candidate failed"].startswith("5 of 25 (")
    # Clopper and Pearson, as R's binom.test(8, 10) says.
    assert told["same text"] == "8 of 10 (44.4 to 97.5 %)"
    assert told["same first word"].startswith("9 of 10")
    assert told["to the first token"].startswith("200 ms, of the answers given 100 ms; slower: 4 o")
    assert told["for each token"].startswith("5 ms, of the answers given 10 ms; slower: 0 of 4")
    assert told["correct"].startswith("7 of 10")
    assert told["correct answers given"].startswith("6 of 10")
    assert list(summary(Comparison())) == [("compared", "0 requests; 0 more were not asked")]


def test_the_api_and_the_page_show_counts_and_no_reporter(site: Site) -> None:
    run(site, START)
    secret = Secret.generate()
    grants = (Grant("serve", "medical"),)
    site.registry.execute(IssueKey(secret.id, "r", secret.digest, grants), site.operator.id)
    site.registry.close()
    app = create_app(RegistrySettings(store=str(site.folder / "store")))
    address = "/api/v1/adapters/medical/coder"
    body = {"shadow": 1, "reporter": "host-7", "seen": {"compared": 3, "texts": 3}}
    with TestClient(app, headers={"Origin": "http://testserver"}) as client:
        for expected in (True, False):
            answer = client.post(
                f"{address}/aliases/production/shadow/report",
                json=body,
                headers={"Authorization": f"Bearer {secret.text}"},
            )
            assert answer.json() == {"recorded": expected}
        operator = {"Authorization": f"Bearer {site.operator.text}"}
        (shown,) = client.get(address, headers=operator).json()["shadows"]
        assert shown["seen"]["compared"] == 3
        assert shown["seen"]["failed"] == 0
        assert (shown["replicas"], shown["ended"]) == (1, None)
        assert "host-7" not in str(shown)
        client.post("/login", data={"key": site.operator.text})
        page = client.get("/adapters/medical/coder").text
        section = page[page.index('id="shadows"') : page.index("<h2>History</h2>")]
        assert "same text: 0 of 3 (0.0 to 70.8 %)" in section
        assert "host-7" not in section
        assert "production shadowed" in page[page.index("<h2>History</h2>") :]
