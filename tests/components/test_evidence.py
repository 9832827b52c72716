"""Evidence and policies over HTTP and by the command line, against a real registry."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from typer.testing import CliRunner

from eval.asking import Server
from eval.cli import judging
from eval.evaluate import Subject, evaluate
from eval.served import Model
from registry.cli import build
from registry.client import RegistryClient
from registry.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    PolicyWeakened,
    PromotionNotEarned,
    UnknownFile,
)
from registry.model.aliases import MoveAlias
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import LocalStore
from tests.support.adapters import TINY, write_adapter
from tests.support.desk import Desk
from tests.support.oracle import ENGINE, Oracle, serving
from tests.support.servers import registry_server
from tests.unit.test_evaluate import SUITE, lot, truth

PATH = "medical/coder"
RULE = {
    "suite": "chapters", "digest": "a" * 64, "held_out": "b" * 64,
    "floors": {"accuracy": 0.6}, "margin": 0.05, "confident_errors": 0.1,
}  # fmt: skip
POLICY = {"approvals": 0, "looks": 3, "max_report_days": 30, "suites": [RULE]}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("evidence")
    store = LocalStore(folder / "store")
    operator = Registry.create(store, name="desk", key_name="operator").text
    with registry_server(store.url, folder) as url, RegistryClient(url, operator) as client:
        client.execute(CreateDomain("medical"))
        client.add_base(TINY)
        team = client.issue_key("team", ["publish:medical", "evaluate:medical"])["key"]
        meter = client.issue_key("meter", ["evaluate:medical"])["key"]
        both = client.issue_key("judge", ["evaluate:medical", "review:medical"])["key"]
        with RegistryClient(url, team) as t, RegistryClient(url, meter) as m:
            t.push(write_adapter(folder / "a", seed=1), PATH)
            keys = {"operator": operator, "team": team, "meter": meter, "judge": both}
            yield Desk(url, client, t, m, keys, store)


def evaluation(digest: str, hits: int = 900, note: str = "") -> dict[str, Any]:
    result = {
        "suite": "chapters", "digest": "a" * 64, "held_out": "b" * 64,
        "tallies": {"accuracy": {"hits": hits, "n": 1000}},
        "confident": [{"at": 0.9, "wrong": 3, "n": 400}],
    }  # fmt: skip
    calibration = {"method": "temperature", "temperature": 1.5, "threshold": 0.7, "n": 200}
    return {"digest": digest, "results": [result], "calibration": calibration,
            "report": {"layout": 1, "note": note}}  # fmt: skip


def test_a_policy_is_written_as_yaml_and_read_back(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(POLICY))
    done = desk.run("domain", "policy", "medical", str(file), "--yes", "--json")
    assert done.returncode == 0, done.stderr
    policy = json.loads(done.stdout)["policy"]
    assert policy["suites"][0]["floors"] == {"accuracy": 0.6}
    assert (policy["looks"], policy["max_report_days"]) == (3, 30)
    file.write_text("suites: [")
    assert "is not valid YAML" in desk.run("domain", "policy", "medical", str(file)).stderr
    file.write_text(yaml.safe_dump({"aproovals": 1}))
    assert "Did you mean approvals" in desk.run("domain", "policy", "medical", str(file)).stderr


def test_a_policy_is_changed_in_an_editor(desk: Desk, tmp_path: Path) -> None:
    desk.operator.change_policy("medical", POLICY | {"keep": None}, weaken=True)
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/^keep: .*/keep: 7/' \"$1\"\n")
    editor.chmod(0o700)
    done = desk.run("domain", "policy", "medical", "--edit", EDITOR=str(editor))
    assert done.returncode == 0, done.stderr
    assert "keep: null -> 7" in done.stderr
    assert desk.operator.domain("medical")["policy"]["keep"] == 7
    editor.write_text("#!/bin/sh\nsed -i 's/^approvals: .*/approvals: -1/' \"$1\"\n")
    done = desk.run("domain", "policy", "medical", "--edit", EDITOR=str(editor))
    assert (done.returncode, "approvals" in done.stderr) == (2, True)
    desk.operator.change_policy("medical", {"keep": None})


def test_looking_at_a_policy_changes_nothing_and_a_change_keeps_the_rest(desk: Desk) -> None:
    desk.operator.change_policy("medical", POLICY | {"approvals": 2}, weaken=True)
    before = desk.operator.domain("medical")["policy"]
    shown = desk.run("domain", "policy", "medical")
    assert yaml.safe_load(shown.stdout) == before
    assert desk.operator.domain("medical")["policy"] == before
    kept = desk.run("domain", "policy", "medical", "--keep", "20")
    assert kept.returncode == 0, kept.stderr
    assert "keep: null -> 20" in kept.stderr
    assert desk.operator.domain("medical")["policy"] == before | {"keep": 20}


def test_a_weaker_policy_takes_a_confirmation_and_is_marked_in_the_log(desk: Desk) -> None:
    desk.operator.change_policy("medical", POLICY | {"approvals": 2}, weaken=True)
    change = ("domain", "policy", "medical", "--set", "approvals=1", "--set", "max_report_days=60")
    refused = desk.run(*change)
    assert refused.returncode == 2
    assert "approvals: 2 -> 1  (protects less)" in refused.stderr
    assert "Repeat the command with --yes" in refused.stderr
    with pytest.raises(PolicyWeakened, match="approvals, max_report_days"):
        desk.operator.change_policy("medical", {"approvals": 1, "max_report_days": 60})
    assert desk.operator.domain("medical")["policy"]["approvals"] == 2
    assert desk.run(*change, "--yes").returncode == 0
    *_, last = desk.operator.log()
    assert last["entries"][0]["event"]["weakened"] == ["approvals", "max_report_days"]


def test_the_gate_answers_item_by_item_and_by_its_exit_code(desk: Desk) -> None:
    desk.operator.change_policy("medical", POLICY, weaken=True)
    before = desk.run("gate", f"{PATH}@1")
    assert before.returncode == 1
    assert "no evaluation of these bytes is recorded" in before.stdout
    with pytest.raises(PromotionNotEarned, match="no evaluation"):
        desk.team.execute(MoveAlias("medical", "coder", "production", 1))
    digest = desk.meter.resolve(f"{PATH}@1")["digest"]
    desk.team.record_evaluation(f"{PATH}@1", evaluation(digest, note="by the publisher"))
    assert "only its publisher evaluated it" in desk.run("gate", f"{PATH}@1").stdout
    assert desk.meter.resolve(f"{PATH}@1")["calibration"] is None
    recorded = desk.meter.record_evaluation(f"{PATH}@1", evaluation(digest))
    assert recorded["calibration"]["temperature"] == 1.5
    after = desk.run("gate", f"{PATH}@1", "--json")
    assert after.returncode == 0
    answer = json.loads(after.stdout)
    assert answer["met"]
    names = [requirement["name"] for requirement in answer["requirements"]]
    assert names == [
        "chapters: report", "chapters: accuracy at least 60 %",
        "chapters: at most 10 % errors at confidence ≥ 90 %",
    ]  # fmt: skip
    assert "look 2 of 3" in answer["requirements"][0]["evidence"]
    desk.team.execute(MoveAlias("medical", "coder", "production", 1))
    assert "evaluated  2 time(s)" in desk.run("show", f"{PATH}@1").stdout


def test_a_report_is_kept_as_it_came(desk: Desk) -> None:
    newest = desk.meter.resolve(f"{PATH}@1")["evaluations"][-1]["report"]
    assert desk.meter.report(f"{PATH}@1", newest) == {"layout": 1, "note": ""}
    with pytest.raises(UnknownFile):
        desk.meter.report(f"{PATH}@1", "0" * 64)


def test_what_cannot_be_evidence_is_refused(desk: Desk) -> None:
    digest = desk.meter.resolve(f"{PATH}@1")["digest"]
    with pytest.raises(Conflict, match="Evaluate the bytes that are published"):
        desk.meter.record_evaluation(f"{PATH}@1", evaluation("f" * 64))
    broken = evaluation(digest)
    broken["results"][0]["tallies"]["accuracy"]["hits"] = "many"
    with pytest.raises(BadRequest, match="cannot be read"):
        desk.meter.record_evaluation(f"{PATH}@1", broken)
    with pytest.raises(BadRequest, match="cannot be"):
        desk.meter.record_evaluation(f"{PATH}@1", evaluation(digest, hits=1001))
    with pytest.raises(Forbidden):
        desk.meter.execute(MoveAlias("medical", "coder", "production", 1))


def test_what_was_recorded_becomes_a_page_a_cards_index_and_a_review(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORARY_HOME", str(tmp_path))
    ref, digest = f"{PATH}@1", desk.meter.resolve(f"{PATH}@1")["digest"]

    def answer(model: str, question: str) -> tuple[str, float]:
        right = lot(model, question) < (0.8 if model == ref else 0.3)
        return (truth(question) if right else "Nose"), 0.95 if right else 0.6

    version, base = Model(ref, digest), Model("tiny", TINY.digest, is_base=True)
    engine = msgspec.structs.replace(ENGINE, base=TINY.digest)
    with serving(Oracle(answer, {ref: digest}, engine=engine)) as oracle:
        server, subject = Server(oracle.url, "", engine), Subject(version=version, base=base)
        found = evaluate(server, subject, [SUITE])
    desk.meter.record_evaluation(ref, found.body(digest))
    page, index, printed = (tmp_path / name for name in ("report.html", "card.yaml", "report.pdf"))
    assert desk.run("report", ref, str(page)).returncode == 0
    assert f"Evaluation of {ref}" in page.read_text()
    assert "<svg" in page.read_text()
    assert engine.fingerprint[:16] in page.read_text()
    recorded = desk.meter.resolve(ref)["evaluations"][-1]
    assert recorded["engine"] == msgspec.to_builtins(engine)
    assert recorded["answered"] == found.answered
    assert desk.run("report", ref, str(printed)).returncode == 0
    assert printed.read_bytes().startswith(b"%PDF-")
    assert desk.run("report", ref, str(index)).returncode == 0
    metrics = yaml.safe_load(index.read_text())["model-index"][0]["results"][0]["metrics"]
    accuracy = found.results[0].tallies["accuracy"]
    assert metrics[0]["value"] == pytest.approx(accuracy.hits / accuracy.n, abs=1e-4)
    opened = json.loads(desk.run("review", "open", ref, "--n", "6", "--json").stdout)
    assert opened["items"] == 6
    assert opened["title"] in desk.run("review", "ls", "--json").stdout
    tasks = tmp_path / "tasks.json"
    export = ("review", "export", opened["id"], str(tasks), "--what", "label-studio")
    assert "its results are hidden from you" in desk.run(*export, who="judge").stderr
    assert desk.run(*export, who="meter").returncode == 0
    again = desk.run("review", "import", ref, str(tasks), "--json")
    assert json.loads(again.stdout)["items"] == 6
    refused = desk.run("review", "open", ref, "--n", "6", who="judge")
    assert "they say which version gave each answer" in refused.stderr
    missing = desk.run("review", "open", ref, "--against", "1", who="meter")
    assert missing.returncode == 1
    assert "did not ask @1" in missing.stderr


def test_after_the_engine_changed_one_command_qualifies_the_fleet_anew_and_goes_on(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two promoted versions; the server is started with another data type; the run is cut short."""
    rule = {
        "suite": SUITE.name, "digest": SUITE.digest, "held_out": SUITE.held_out,
        "floors": {"accuracy": 0.6},
    }  # fmt: skip
    desk.operator.execute(CreateDomain("fleet", Policy(approvals=0)))
    keys = {}
    for name, roles in (("crew", ["publish:fleet"]), ("gauge", ["evaluate:fleet"])):
        keys[name] = desk.operator.issue_key(name, roles)["key"]
    digests = {}
    with RegistryClient(desk.url, keys["crew"]) as crew:
        for seed, name in enumerate(("a", "b"), start=50):
            pushed = crew.push(write_adapter(tmp_path / name, seed=seed), f"fleet/{name}")
            digests[pushed["ref"]] = pushed["digest"]
            crew.execute(MoveAlias("fleet", name, "production", 1))
    engine = msgspec.structs.replace(ENGINE, base=TINY.digest)

    def answer(model: str, question: str) -> tuple[str, float]:
        return (truth(question) if lot(model, question) < 0.9 else "Nose"), 0.9

    for name, value in (
        ("LORARY_REGISTRY_URL", desk.url), ("LORARY_KEY", keys["gauge"]),
        ("LORARY_HOME", str(tmp_path)),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(judging, "suites_for", lambda *_: (None, [SUITE]))

    def lorary(*arguments: str, key: str = keys["gauge"]) -> Any:
        monkeypatch.setenv("LORARY_KEY", key)
        return CliRunner().invoke(build(), list(arguments))

    def outcomes(result: Any) -> list[tuple[str, str]]:
        return [(one["ref"], one["outcome"]) for one in json.loads(result.stdout)]

    def requalify(ref: str) -> bool:
        asked = desk.operator.requirements(ref)["requirements"]
        return any("requalify" in requirement["evidence"] for requirement in asked)

    with serving(Oracle(answer, digests, engine=engine)) as oracle:
        every = ("eval", "--all-promoted", "fleet", "--url", oracle.url, "--json")
        assert outcomes(lorary(*every)) == [("fleet/a@1", "recorded"), ("fleet/b@1", "recorded")]
        asked = len(oracle.asked)
        again = lorary(*every)
        assert (again.exit_code, {state for _, state in outcomes(again)}) == (
            0, {"qualified before"},
        )  # fmt: skip
        assert len(oracle.asked) == asked
        desk.operator.change_policy("fleet", {"suites": [rule]})
        set_engine = ("domain", "engine", "fleet", "--url", oracle.url)
        assert lorary(*set_engine, key=desk.keys["operator"]).exit_code == 0
        # They were promoted while the policy asked for nothing: promoted again, they earn it.
        assert desk.operator.requirements("fleet/a@1")["met"]

        oracle.engine = msgspec.structs.replace(engine, dtype="bfloat16")
        refused = lorary(*set_engine, key=desk.keys["operator"])
        assert refused.exit_code != 0
        assert lorary(*set_engine, "--yes", key=desk.keys["operator"]).exit_code == 0
        assert requalify("fleet/a@1")
        oracle.broken_after = 2 * asked - 100  # while the second version is asked
        cut = lorary(*every)
        assert cut.exit_code == 1
        assert outcomes(cut) == [("fleet/a@1", "recorded"), ("fleet/b@1", "failed")]
        assert (requalify("fleet/a@1"), requalify("fleet/b@1")) == (False, True)
        looks = desk.operator.domain("fleet")["looks"][SUITE.held_out]
        oracle.broken_after = None
        assert outcomes(lorary(*every)) == [
            ("fleet/a@1", "qualified before"), ("fleet/b@1", "recorded"),
        ]  # fmt: skip
        assert len(oracle.asked) <= 2 * asked + 16, "what was answered is not asked again"
        assert not requalify("fleet/b@1")
        assert desk.operator.domain("fleet")["looks"][SUITE.held_out] == looks == 4
