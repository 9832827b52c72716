"""A training ends in a version: `lorary train --push`, and a callback for any trainer."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from peft import LoraConfig
from safetensors import safe_open
from trl import SFTConfig, SFTTrainer
from typer.testing import CliRunner

from adapters.admission import WEIGHTS
from adapters.base_model import BaseModel
from adapters.errors import InvalidName, LoraryError
from adapters.training.callback import PublishCheckpoints
from registry.cli import build
from registry.cli.handover import SettingsRegistry
from registry.client import RegistryClient
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import LocalStore
from tests.support.servers import registry_server
from tests.support.tiny_model import one_thread, write_rows, write_tiny_model


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


def example() -> str:
    """The trainer's example of docs/how-to/train.md."""
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "train.md").read_text()
    return text.partition("## From any trainer")[2].partition("```python\n")[2].partition("```")[0]


def test_the_documented_callback_publishes_what_any_trainer_trains(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = example().replace("http://127.0.0.1:8100", site.url).replace("lry_...", site.key)
    code = code.replace("support/queue", "demo/queue")
    told: dict[str, Any] = {"model": str(site.base), "rows": conversations()}
    exec(code, told)  # noqa: S102 - our own example
    assert told["publish"].published == ["demo/queue@1"]
    lineage = site.lineage("demo/queue@1")
    assert (lineage["data"], lineage["parent"]) == ("tickets of 2 November", None)
    assert len(lineage["recipe"]) == 64
    pulled = tmp_path / "pulled"
    names = {file["path"] for file in site.client.pull("demo/queue@1", pulled)["files"]}
    assert names == {"adapter_config.json", WEIGHTS, "README.md", "provenance.json"}
    said = json.loads((pulled / "provenance.json").read_text())
    assert (said["step"], said["arguments"]["max_steps"]) == (4, 4)
    assert str(tmp_path) not in json.dumps(said)
    assert not (tmp_path / "out" / "unpublished").exists()


def test_every_save_becomes_a_version_whose_parent_is_the_one_before(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def trained(publish: PublishCheckpoints, steps: int) -> None:
        arguments = SFTConfig(
            str(tmp_path / "out"), max_steps=steps, save_steps=2, use_cpu=True, bf16=False,
            report_to=[],
        )  # fmt: skip
        SFTTrainer(
            str(site.base), arguments, train_dataset=conversations(), peft_config=LoraConfig(r=4),
            callbacks=[publish],
        ).train()  # fmt: skip

    trained(PublishCheckpoints(site.client, "demo/saved", base="tiny"), 1)
    publish = PublishCheckpoints(
        site.client, "demo/saved", base="tiny", when="save", parent="demo/saved@1"
    )
    trained(publish, 4)
    assert publish.published == ["demo/saved@2", "demo/saved@3"], "the end was the last save"
    assert site.lineage("demo/saved@2")["parent"] == "demo/saved@1"
    assert site.lineage("demo/saved@3")["parent"] == "demo/saved@2"
    refused = PublishCheckpoints(site.client, "demo/saved", base="unknown", when="save")
    with pytest.raises(LoraryError, match="unknown"):
        trained(refused, 3)
    assert "was not published, training goes on" in caplog.text
    assert (tmp_path / "out" / "unpublished" / WEIGHTS).exists()
    for path, parent in (("nowhere/saved", None), ("demo/saved", "demo/absent@3")):
        absent = PublishCheckpoints(site.client, path, base="tiny", parent=parent)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        with pytest.raises(LoraryError, match=r"nowhere|absent"):
            trained(absent, 4)
        assert not list((tmp_path / "out").glob("checkpoint-*")), "it was trained"
    with pytest.raises(InvalidName):
        PublishCheckpoints(site.client, "demo/saved@1")


def conversations() -> Dataset:
    """A few rows as TRL takes them."""
    rows = [
        [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "alpha"}]
        for n in range(8)
    ]
    return Dataset.from_dict({"messages": rows})
