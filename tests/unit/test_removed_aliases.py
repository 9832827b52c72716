"""An alias can be removed, and removing one is no way around the gate."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from registry import errors
from registry.cli import build
from registry.log.commits import Commit
from registry.maintain.auditing import audit
from registry.model.aliases import MoveAlias, RemoveAlias
from registry.model.base import Entry
from registry.model.canary import SplitAlias
from registry.model.domains import CreateDomain
from registry.model.machine import decide
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import LocalStore
from tests.support.catalogs import publish_bytes
from tests.support.servers import registry_server
from tests.unit import test_gates
from tests.unit.test_decide import ALICE, NOW, OPERATOR, do, published, start

OPEN = Policy(guarded=())


def test_a_removed_alias_names_nothing_and_its_history_stays() -> None:
    catalog = do(start(OPEN), published(1), ALICE)
    catalog = do(catalog, MoveAlias("medical", "coder", "prodcution", 1), ALICE)
    before = catalog
    catalog = do(catalog, RemoveAlias("medical", "coder", "prodcution"), ALICE)
    adapter = catalog.adapters["medical/coder"]
    assert adapter.aliases == {}
    assert [(move.version, move.previous) for move in adapter.moves] == [(1, None), (0, 1)]
    assert decide(catalog, RemoveAlias("medical", "coder", "prodcution"), ALICE, NOW) == ()
    (event,) = decide(before, RemoveAlias("medical", "coder", "prodcution"), ALICE, NOW)
    commit = Commit(sequence=1, id="x", time=NOW, previous=None, entries=(Entry(ALICE, event),))
    assert audit(before, commit) == []


def test_a_guarded_alias_is_removed_by_operators_alone() -> None:
    catalog = do(start(Policy(guarded=("production",), approvals=0)), published(1), ALICE)
    catalog = do(catalog, MoveAlias("medical", "coder", "production", 1), ALICE)
    with pytest.raises(errors.Forbidden):
        decide(catalog, RemoveAlias("medical", "coder", "production"), ALICE, NOW)
    assert decide(catalog, RemoveAlias("medical", "coder", "production"), OPERATOR, NOW)


def test_a_candidate_is_compared_with_what_a_removed_alias_named() -> None:
    catalog = test_gates.do(
        test_gates.start(),
        test_gates.report(test_gates.result(gained=40, lost=90)),
        test_gates.METER,
    )
    before = test_gates.lacking(catalog)
    removed = test_gates.do(
        catalog, RemoveAlias("medical", "coder", "production"), test_gates.OPERATOR
    )
    assert before == test_gates.lacking(removed) == {"no worse than medical/coder@1"}


def test_from_the_shell_an_alias_is_rolled_back_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "store")
    operator = Registry.create(store, name="r", key_name="op")
    registry = Registry(store)
    registry.execute(CreateDomain("medical", OPEN), operator.id)
    for seed in (1, 2):
        publish_bytes(registry, operator.id, "medical", "coder", seed)
        registry.execute(MoveAlias("medical", "coder", "production", seed), operator.id)
    registry.close()
    shell = CliRunner()
    with registry_server(str(store.root), tmp_path) as url:
        monkeypatch.setenv("LORARY_REGISTRY_URL", url)
        monkeypatch.setenv("LORARY_KEY", operator.text)

        def run(*arguments: str) -> str:
            done = shell.invoke(build(), ["alias", *arguments], catch_exceptions=False)
            return done.output

        assert "version 1 again, not 2" in run("rollback", "medical/coder")
        assert "removed" in run("rm", "medical/coder", "production")
        assert "removed" in run("ls", "medical/coder")
        with pytest.raises(errors.BadRequest, match="pointed to no version before"):
            run("rollback", "medical/coder", "beta")
        assert "version 1 again" in run("rollback", "medical/coder")


def test_a_split_ends_with_its_alias() -> None:
    catalog = do(do(start(OPEN), published(1), ALICE), published(2), ALICE)
    for command in (
        MoveAlias("medical", "coder", "beta", 1),
        SplitAlias("medical", "coder", "beta", 2, 50),
        RemoveAlias("medical", "coder", "beta"),
    ):
        catalog = do(catalog, command, ALICE)
    assert catalog.adapters["medical/coder"].splits == {}


def test_a_rollback_from_the_shell_undoes_no_move_that_it_did_not_see(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = []

    class Asked:
        def adapter(self, _: str) -> dict[str, Any]:
            moves = [("beta", 1, None), ("production", 3, None), ("beta", 2, 1)]
            names = ("alias", "version", "previous")
            return {"moves": [dict(zip(names, move, strict=True)) for move in moves]}

        def execute(self, command: MoveAlias) -> dict[str, Any]:
            given.append(command)
            return {}

    monkeypatch.setattr("registry.cli.publishing.client", lambda: nullcontext(Asked()))
    CliRunner().invoke(build(), ["alias", "rollback", "medical/coder", "beta"])
    assert given == [MoveAlias("medical", "coder", "beta", 1, expected=2)]
