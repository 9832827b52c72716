"""Tasks over HTTP and by the command line: pushed, named by a policy, asked for by the gate."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from registry.client import AsyncRegistryClient, RegistryClient
from registry.errors import (
    DigestMismatch,
    Forbidden,
    PromotionNotEarned,
    UnknownTask,
    VersionConflict,
)
from registry.maintain import archive
from registry.maintain.verify import verify
from registry.model.aliases import MoveAlias
from registry.model.domains import CreateDomain
from registry.registry import Registry
from registry.store import LocalStore
from tests.support.adapters import TINY, write_adapter
from tests.support.desk import Desk
from tests.support.oracle import ENGINE, Oracle, serving
from tests.support.pushed_tasks import contents, suite
from tests.support.servers import registry_server

PATH = "radiology/modality"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("tasks")
    store = LocalStore(folder / "store")
    operator = Registry.create(store, name="desk", key_name="operator").text
    with registry_server(store.url, folder) as url, RegistryClient(url, operator) as client:
        client.execute(CreateDomain("radiology"))
        client.add_base(TINY)
        team = client.issue_key("team", ["publish:radiology"])["key"]
        meter = client.issue_key("meter", ["evaluate:radiology"])["key"]
        with RegistryClient(url, team) as t, RegistryClient(url, meter) as m:
            t.push(write_adapter(folder / "a", seed=1), "radiology/reader")
            keys = {"operator": operator, "team": team, "meter": meter}
            yield Desk(url, client, t, m, keys, store)


def written(folder: Path, files: dict[str, bytes]) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in files}


def pushed(desk: Desk, folder: Path, number: int, n: int, **more: Any) -> dict[str, Any]:
    files = written(folder / f"v{number}", contents(n=n))
    return desk.meter.push_task(files, PATH, [suite(number, items=n)], **more)


def evaluation(digest: str, number: int) -> dict[str, Any]:
    asked = msgspec.to_builtins(suite(number))
    del asked["items"]
    tallies = {"accuracy": {"hits": 900, "n": 1000}}
    return {"digest": digest, "results": [asked | {"tallies": tallies}],
            "report": {"layout": 1, "number": number}}  # fmt: skip


def test_a_task_goes_from_a_folder_through_the_policy_to_a_promotion(
    desk: Desk, tmp_path: Path
) -> None:
    first = pushed(desk, tmp_path, 1, 6, message="six reports", expected=0)
    assert (first["ref"], first["items"], first["licence"]) == (f"{PATH}@1", 6, "CC0-1.0")
    assert pushed(desk, tmp_path, 1, 6)["version"] == 1
    with pytest.raises(VersionConflict, match="newest version of the task radiology/modality is 1"):
        pushed(desk, tmp_path, 2, 8, expected=0)
    assert pushed(desk, tmp_path, 2, 8)["ref"] == f"{PATH}@2"
    with pytest.raises(Forbidden, match="evaluate"):
        desk.team.push_task(written(tmp_path / "t", contents()), PATH, [suite(3)])

    rules = "suites=[{task: modality@1, floors: {accuracy: 0.6}}]"
    desk.act("domain", "policy", "radiology", "--approvals", "0", "--set", rules, "--yes")
    (rule,) = desk.operator.domain("radiology")["policy"]["suites"]
    assert (rule["task"], rule["digest"]) == ("modality@1", suite(1).digest)
    rules = rules.replace("modality@1", "modality")
    done = desk.run("domain", "policy", "radiology", "--set", rules, "--yes")
    assert "(protects less)" in done.stderr
    (rule,) = desk.operator.domain("radiology")["policy"]["suites"]
    assert (rule["task"], rule["digest"]) == ("modality@2", suite(2).digest)

    version = desk.team.resolve("radiology/reader@1")
    move = MoveAlias("radiology", "reader", "production", 1)
    desk.meter.record_evaluation(version["ref"], evaluation(version["digest"], 1))
    with pytest.raises(PromotionNotEarned, match="task modality@2: report"):
        desk.team.execute(move)
    assert "task modality@2" in gate(desk, "radiology", who="team", code=1)
    desk.meter.record_evaluation(version["ref"], evaluation(version["digest"], 2))
    assert desk.team.execute(move)["aliases"] == {"production": 1}


def test_the_command_line_lists_shows_and_fetches_tasks(desk: Desk, tmp_path: Path) -> None:
    pushed(desk, tmp_path, 1, 6)
    assert "modality@1 " in desk.act("task", "ls", "radiology", who="team")
    assert "(for evaluators)" in desk.act("task", "show", f"{PATH}@1", who="team")
    asked = json.loads(desk.act("task", "show", PATH, "--json", who="meter"))
    assert all(len(file["sha256"]) == 64 for file in asked["files"])
    desk.act("task", "pull", f"{PATH}@1", str(tmp_path / "out"), who="meter")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == contents()
    refused = desk.run("task", "pull", f"{PATH}@1", str(tmp_path / "no"), who="team")
    assert (refused.returncode, "no role 'evaluate'" in refused.stderr) == (1, True)
    assert not (tmp_path / "no").exists()


def test_a_version_is_retired_by_the_command_line(desk: Desk, tmp_path: Path) -> None:
    newest = pushed(desk, tmp_path, 9, 12)["ref"]
    desk.act("task", "retire", newest, "--reason", "an item was wrong")
    assert desk.meter.task(newest)["retired"] == "an item was wrong"
    gone = desk.run("task", "pull", newest, str(tmp_path / "out"), who="meter")
    assert (gone.returncode, "an item was wrong" in gone.stderr) == (1, True)


def test_an_asynchronous_client_has_the_same_verbs(desk: Desk, tmp_path: Path) -> None:
    files = written(tmp_path / "task", contents("triage"))

    async def use() -> dict[str, Any]:
        async with AsyncRegistryClient(desk.url, desk.keys["meter"]) as registry:
            await registry.push_task(files, "radiology/triage", [suite(7, "triage")])
            with pytest.raises(UnknownTask, match="Did you mean radiology/triage"):
                await registry.task("radiology/triagee")
            await registry.pull_task("radiology/triage", tmp_path / "out")
            return await registry.task("radiology/triage@1")

    assert asyncio.run(use())["items"] == 6
    assert (tmp_path / "out" / "card.md").read_bytes() == contents("triage")["card.md"]
    assert "radiology/triage" in {task["path"] for task in desk.operator.tasks("radiology")}


def test_a_list_of_files_that_is_not_the_versions_is_not_fetched(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed(desk, tmp_path, 1, 6)
    shown = desk.meter.task(f"{PATH}@1")
    lying = {**shown, "files": [{**shown["files"][0], "path": "other.md"}, *shown["files"][1:]]}
    monkeypatch.setattr(desk.meter, "task", lambda _: lying)
    with pytest.raises(DigestMismatch, match="not those of its digest"):
        desk.meter.pull_task(f"{PATH}@1", tmp_path / "out")


def test_the_log_is_sound_and_an_export_holds_the_tasks(desk: Desk, tmp_path: Path) -> None:
    pushed(desk, tmp_path, 1, 6)
    assert verify(desk.store).sound
    archive.export(desk.store, tmp_path / "registry.tar")
    copy = LocalStore(tmp_path / "copy")
    archive.import_(copy, tmp_path / "registry.tar")
    registry = Registry(copy)
    assert registry.refresh().tasks[PATH].versions[0].digest
    registry.close()
    assert verify(copy).sound


def begun(desk: Desk, tmp_path: Path, domain: str, files: dict[str, bytes]) -> Oracle:
    """A new domain with a published adapter, `reader`, and a pushed task that its policy names; the
    gate asks for evidence on it. And a server that answers as the adapter of that digest."""
    desk.operator.execute(CreateDomain(domain))
    grants = {"team": ["publish"], "meter": ["evaluate", "infer"], "Ada": ["review"],
              "Ben": ["review"]}  # fmt: skip
    for name, roles in grants.items():
        issued = desk.operator.issue_key(f"{domain} {name}", [f"{role}:{domain}" for role in roles])
        desk.keys[f"{domain} {name}"] = issued["key"]
    with RegistryClient(desk.url, desk.keys[f"{domain} team"]) as publisher:
        seed = sum(domain.encode())
        published = publisher.push(write_adapter(tmp_path / "a", seed=seed), f"{domain}/reader")
    folder, meter = tmp_path / "task", f"{domain} meter"
    written(folder, files)
    home = str(tmp_path / "home")
    pushed = desk.act("task", "push", str(folder), domain, who=meter, LORARY_HOME=home)
    assert f"{domain}/modality@1" in pushed
    policy = yaml.safe_load(desk.act("suite", "policy", domain, who=meter, LORARY_HOME=home))
    (rule,) = policy["suites"]
    assert (rule["suite"], rule["task"]) == ("modality", "modality@1")
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(policy | {"approvals": 0}))
    desk.act("domain", "policy", domain, str(file), "--yes")
    assert "task modality@1: report" in gate(desk, domain, code=1)
    engine = msgspec.structs.replace(ENGINE, base=TINY.digest)
    return Oracle(knows, {f"{domain}/reader@1": published["digest"]}, engine=engine)


def knows(model: str, question: str) -> tuple[str, float]:
    """The reader knows which modality a report describes; the base model does not."""
    right = ("x-ray", "ultrasound")[int(re.findall(r"report (\d+)", question)[-1]) % 2]
    return (right, 0.97) if model.endswith("/reader@1") else ("mri", 0.5)


def gate(desk: Desk, domain: str, *, who: str = "", code: int = 0) -> str:
    return desk.act("gate", f"{domain}/reader@1", who=who or f"{domain} team", code=code)


def evaluated(desk: Desk, tmp_path: Path, domain: str, oracle: Oracle) -> None:
    home = str(tmp_path / "home")
    with serving(oracle):
        evaluates = ("eval", f"{domain}/reader@1", "--url", oracle.url)
        desk.act(*evaluates, who=f"{domain} meter", LORARY_HOME=home)


def promoted(desk: Desk, domain: str) -> None:
    desk.act("alias", "set", f"{domain}/reader@1", "production", who=f"{domain} team")
    assert desk.operator.adapter(f"{domain}/reader")["aliases"] == {"production": 1}


def test_a_domain_without_a_pack_is_pushed_required_evaluated_and_promoted_by_commands(
    desk: Desk, tmp_path: Path
) -> None:
    oracle = begun(desk, tmp_path, "cardiology", contents(n=240))
    evaluated(desk, tmp_path, "cardiology", oracle)
    assert "accuracy at least 60 %: 118 of 118" in gate(desk, "cardiology")
    promoted(desk, "cardiology")
    page = desk.page("/adapters/cardiology/reader/versions/1", who="cardiology team")
    assert "<td>modality@1</td><td>accuracy</td>" in page


HARNESS = {
    "doc_to_text": "Report: {{report}}\nModality:",
    "doc_to_target": "{{label}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
    "filter_list": [{"name": "f", "filter": [{"function": "take_first"}]}],
    "metric_list": [{"metric": "exact_match"}],
}


def changed(files: dict[str, bytes], rows: list[dict[str, Any]], **spec: Any) -> dict[str, bytes]:
    """The files of a task with other items, and with other fields of its `task.yaml`."""
    whole = yaml.safe_load(files["task.yaml"]) | spec
    kept = {name: value for name, value in whole.items() if value is not None}
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    return {**files, "task.yaml": yaml.safe_dump(kept).encode(), "items.jsonl": lines.encode()}


def test_a_harness_yaml_goes_from_a_folder_to_a_gated_promotion(desk: Desk, tmp_path: Path) -> None:
    rows = [{"report": f"report {i}", "label": ("x-ray", "ultrasound")[i % 2]} for i in range(40)]
    files = changed(contents(), rows, score={"kind": "harness"}, prompts=None, split=None)
    files["harness.yaml"] = yaml.safe_dump(HARNESS).encode()
    oracle = begun(desk, tmp_path, "oncology", files)
    evaluated(desk, tmp_path, "oncology", oracle)
    assert "accuracy at least 60 %: 40 of 40" in gate(desk, "oncology")
    promoted(desk, "oncology")


def test_a_rubric_goes_from_a_folder_over_experts_to_a_gated_promotion(
    desk: Desk, tmp_path: Path
) -> None:
    rows = [{"text": f"report {i}", "criteria": [{"says": "names a modality"}]} for i in range(12)]
    criteria = [{"says": "is no guess", "weight": 2}, {"says": "is long", "weight": -1}]
    score = {"kind": "rubric", "criteria": criteria, "passes": 0.6}
    split = {"held_out": 1, "calibration": 0}
    files = changed(contents(), rows, score=score, labels=None, split=split)
    oracle = begun(desk, tmp_path, "urology", files)
    evaluated(desk, tmp_path, "urology", oracle)
    unread = gate(desk, "urology", code=1)
    assert "expert review: 0 answers settled, 12 required" in unread
    meter = "urology meter"
    opened = json.loads(desk.act("review", "open", "urology/reader@1", "--json", who=meter))
    assert opened["items"] == 12

    def meets(answer: str, criterion: str) -> bool:
        return criterion == "is no guess" or (answer == "x-ray" and criterion != "is long")

    assert desk.judge_all("urology Ada", opened["id"], meets) == 12
    assert desk.judge_all("urology Ben", opened["id"], meets) == 12
    desk.act("review", "close", opened["id"], who=meter)
    assert "12 of them correct, lower bound 69.39 %, 60 % required" in gate(desk, "urology")
    promoted(desk, "urology")
