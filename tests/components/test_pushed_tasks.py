"""Tasks over HTTP and by the command line: pushed, named by a policy, asked for by the gate."""

import asyncio
import json
import re
import subprocess
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
    done = desk.run("domain", "policy", "radiology", "--approvals", "0", "--set", rules, "--yes")
    assert done.returncode == 0, done.stderr
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
    said = desk.run("gate", "radiology/reader@1", who="team")
    assert (said.returncode, "task modality@2" in said.stdout) == (1, True)
    desk.meter.record_evaluation(version["ref"], evaluation(version["digest"], 2))
    assert desk.team.execute(move)["aliases"] == {"production": 1}


def test_the_command_line_lists_shows_and_fetches_tasks(desk: Desk, tmp_path: Path) -> None:
    pushed(desk, tmp_path, 1, 6)
    done = desk.run("task", "ls", "radiology", who="team")
    assert (done.returncode, "modality@1 " in done.stdout) == (0, True), done.stderr
    shown = desk.run("task", "show", f"{PATH}@1", who="team")
    assert (shown.returncode, "(for evaluators)" in shown.stdout) == (0, True), shown.stderr
    asked = json.loads(desk.run("task", "show", PATH, "--json", who="meter").stdout)
    assert all(len(file["sha256"]) == 64 for file in asked["files"])
    done = desk.run("task", "pull", f"{PATH}@1", str(tmp_path / "out"), who="meter")
    assert done.returncode == 0, done.stderr
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == contents()
    refused = desk.run("task", "pull", f"{PATH}@1", str(tmp_path / "no"), who="team")
    assert (refused.returncode, "no role 'evaluate'" in refused.stderr) == (1, True)
    assert not (tmp_path / "no").exists()


def test_a_version_is_retired_by_the_command_line(desk: Desk, tmp_path: Path) -> None:
    newest = pushed(desk, tmp_path, 9, 12)["ref"]
    done = desk.run("task", "retire", newest, "--reason", "an item was wrong")
    assert done.returncode == 0, done.stderr
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


def test_a_domain_without_a_pack_is_pushed_required_evaluated_and_promoted_by_commands(
    desk: Desk, tmp_path: Path
) -> None:
    domain, ref = "cardiology", "cardiology/reader@1"
    desk.operator.execute(CreateDomain(domain))
    for who in ("team", "meter"):
        roles = {"team": ["publish"], "meter": ["evaluate", "infer"]}[who]
        grants = [f"{role}:{domain}" for role in roles]
        desk.keys[f"{domain} {who}"] = desk.operator.issue_key(f"{domain} {who}", grants)["key"]
    team, meter = f"{domain} team", f"{domain} meter"
    with RegistryClient(desk.url, desk.keys[team]) as publisher:
        digest = publisher.push(write_adapter(tmp_path / "a", seed=5), "cardiology/reader")[
            "digest"
        ]
    folder = tmp_path / "task"
    written(folder, contents(n=240))
    home = {"LORARY_HOME": str(tmp_path / "home")}

    def run(*arguments: str, who: str) -> subprocess.CompletedProcess[str]:
        done = desk.run(*arguments, who=who, **home)
        assert done.returncode == 0, done.stderr
        return done

    assert f"{domain}/modality@1" in run("task", "push", str(folder), domain, who=meter).stdout
    begun = yaml.safe_load(run("suite", "policy", domain, who=meter).stdout)
    (rule,) = begun["suites"]
    assert (rule["suite"], rule["task"]) == ("modality", "modality@1")
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(begun | {"approvals": 0}))
    run("domain", "policy", domain, str(file), "--yes", who="operator")
    lacking = desk.run("gate", ref, who=team, **home)
    assert (lacking.returncode, "task modality@1: report" in lacking.stdout) == (1, True)

    def answer(model: str, question: str) -> tuple[str, float]:
        right = ("x-ray", "ultrasound")[int(re.findall(r"report (\d+)", question)[-1]) % 2]
        return (right, 0.97) if model == ref else ("mri", 0.5)

    engine = msgspec.structs.replace(ENGINE, base=TINY.digest)
    with serving(Oracle(answer, {ref: digest}, engine=engine)) as oracle:
        run("eval", ref, "--url", oracle.url, who=meter)
    run("gate", ref, who=team)
    run("alias", "set", ref, "production", who=team)
    assert desk.operator.adapter("cardiology/reader")["aliases"] == {"production": 1}
