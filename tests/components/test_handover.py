"""A training anywhere ends in a version: `lorary train --push`, and a callback for plain TRL."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from typer.testing import CliRunner

from adapters.admission import WEIGHTS
from adapters.base_model import BaseModel
from registry.cli import build
from registry.cli.handover import SettingsRegistry
from registry.client import RegistryClient
from registry.errors import AdmissionRefused, StoreUnavailable
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import LocalStore
from registry.trainer_callback import PublishCheckpoints
from tests.support.servers import registry_server
from tests.support.tiny_model import one_thread, write_rows, write_tiny_model

DOCS = Path(__file__).resolve().parents[2] / "docs/training.md"


@dataclass
class Site:
    """A registry with one domain, and a base model that it knows."""

    url: str
    key: str
    base: Path
    client: RegistryClient

    def lineage(self, ref: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.resolve(ref)["lineage"]
        return found

    def dtypes(self, ref: str, folder: Path) -> set[str]:
        self.client.pull(ref, folder)
        with safe_open(folder / WEIGHTS, "pt") as opened:
            return {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    store = LocalStore(folder / "store")
    key = Registry.create(store, name="team", key_name="operator")
    registry = Registry(store)
    registry.execute(CreateDomain("demo", Policy(guarded=())), key.id)
    registry.close()
    base = write_tiny_model(folder / "base")
    with (
        one_thread(),
        registry_server(store.url, folder, seconds=300) as url,
        RegistryClient(url, key.text) as client,
    ):
        client.add_base(BaseModel.from_directory(base, "tiny"))
        yield Site(url, key.text, base, client)


def test_what_lorary_train_pushes_names_the_version_that_it_continues(
    site: Site, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    environment = {
        "LORARY_REGISTRY_URL": site.url, "LORARY_KEY": site.key, "LORARY_HOME": str(tmp_path),
    }  # fmt: skip

    def trained(adapter: str, *more: str) -> dict[str, Any]:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(
            f"stage: sft\nadapter: demo/{adapter}\nbase: tiny\ndata: {rows}\nsteps: 2\nbatch: 4\n"
            "warmup_steps: 0\nforgetting: false\nrank: 4\n"
        )
        command = ["train", str(recipe), "--base", str(site.base), "--json", *more]
        done = CliRunner().invoke(
            build(), command, obj=SettingsRegistry(), env=environment, catch_exceptions=False
        )
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    first = trained("first", "--push", "demo/first")
    assert first["published"] == "demo/first@1"
    assert site.lineage("demo/first@1")["parent"] is None
    assert site.dtypes("demo/first@1", tmp_path / "pulled") == {"BF16"}
    second = trained("second", "--push", "demo/second", "start=demo/first")
    assert second["lineage"]["parent"] == "demo/first@1", "known by its weights"
    assert site.lineage("demo/second@1")["parent"] == "demo/first@1"
    again = trained("first", "--push", "demo/first", "--reuse")
    assert (again["reused"], again["published"]) == (True, "demo/first@1")


def documented(heading: str) -> str:
    """The Python example under a heading of docs/training.md."""
    section = DOCS.read_text().partition(f"## {heading}\n")[2]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_documented_callback_publishes_each_checkpoint_of_plain_trl(
    site: Site, tmp_path: Path
) -> None:
    rows = [{"prompt": f"Item {n}: which ward?", "completion": "urgent"} for n in range(8)]
    (tmp_path / "triage.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    program = documented("From a training elsewhere").replace("BASE", str(site.base))
    (tmp_path / "program.py").write_text(program.replace("medical/", "demo/"))
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={
            **os.environ, "LORARY_REGISTRY_URL": site.url, "LORARY_KEY": site.key,
            "OMP_NUM_THREADS": "1",
        },
        check=True,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "['demo/triage@1', 'demo/triage@2']"
    first, second = (site.lineage(f"demo/triage@{number}") for number in (1, 2))
    assert (first["parent"], second["parent"]) == (None, "demo/triage@1")
    assert first["data"] == second["data"] == "triage-2026-11"
    assert first["recipe"] == second["recipe"], "the same arguments"
    assert site.dtypes("demo/triage@2", tmp_path / "pulled") == {"BF16"}
    provenance = json.loads((tmp_path / "pulled" / "provenance.json").read_text())
    assert provenance["step"] == 4
    assert "output_dir" not in provenance["arguments"], "places of this machine"


class State:
    is_world_process_zero, global_step, max_steps, epoch = True, 2, 4, 0.5
    log_history: tuple[dict[str, float], ...] = ({"loss": 1.5},)


class Arguments:
    def __init__(self, folder: Path) -> None:
        self.output_dir = str(folder)

    def to_sanitized_dict(self) -> dict[str, Any]:
        return {"learning_rate": 0.1, "output_dir": self.output_dir}


class Unreachable(RegistryClient):
    def push(self, *_: Any, **__: Any) -> dict[str, Any]:
        raise StoreUnavailable("The registry does not answer.")


def saved(site: Site, folder: Path) -> Path:
    """A checkpoint that was published above, as a trainer leaves it."""
    site.client.pull("demo/triage@1", folder / "checkpoint-2")
    return folder


def test_a_registry_that_cannot_be_reached_does_not_end_a_training(
    site: Site, tmp_path: Path
) -> None:
    folder = saved(site, tmp_path)
    with Unreachable(site.url, site.key) as nobody:
        publish = PublishCheckpoints(nobody, "demo/triage")
        publish.on_save(Arguments(folder), State(), None)
    assert publish.published == []
    assert publish.failed == [folder / "checkpoint-2"]


def test_what_the_registry_refuses_ends_it(site: Site, tmp_path: Path) -> None:
    folder = saved(site, tmp_path)
    publish = PublishCheckpoints(site.client, "demo/triage", base="another")
    with pytest.raises(Exception, match="another"):
        publish.on_save(Arguments(folder), State(), None)
    config = folder / "checkpoint-2" / "adapter_config.json"
    config.write_text(config.read_text().replace('"LORA"', '"IA3"'))
    with pytest.raises(AdmissionRefused):
        PublishCheckpoints(site.client, "demo/triage").on_save(Arguments(folder), State(), None)


def test_only_the_first_process_publishes(site: Site, tmp_path: Path) -> None:
    class Second(State):
        is_world_process_zero = False

    publish = PublishCheckpoints(site.client, "demo/triage")
    publish.on_save(Arguments(tmp_path), Second(), None)
    assert publish.published == []
