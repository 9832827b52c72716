"""An alias can be removed, and removing one is no way around the gate."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from registry import errors
from registry.cli import build
from registry.log.commits import Commit
from registry.maintain.auditing import audit
from registry.model.aliases import MoveAlias, RemoveAlias
from registry.model.base import Entry
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
        with pytest.raises(errors.BadRequest, match="named no version before"):
            run("rollback", "medical/coder", "beta")
        assert "version 1 again" in run("rollback", "medical/coder")
