"""A training ends in a version: `lorary train --push`."""

import json
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
