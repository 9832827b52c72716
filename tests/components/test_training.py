"""A short real training on the real small model ends in an adapter that would be admitted."""

import json
from pathlib import Path

import pytest

from adapters.admission import admit, files_in
from adapters.base_model import BaseModel
from adapters.home import SMALL_MODEL, default_model
from adapters.packs import PACKS
from adapters.small_model import build
from adapters.training.run import train


@pytest.fixture(scope="module")
def base() -> Path:
    build(default_model())
    return default_model()


def test_two_steps_make_a_publishable_directory_and_the_same_again(
    base: Path, tmp_path: Path
) -> None:
    pack = PACKS["legal"]
    recipe = pack.recipe.changed(["steps=2", "batch=2"])
    steps: list[tuple[int, int]] = []
    made = []
    for name in ("one", "two"):
        provenance, reused = train(
            pack, recipe, base, SMALL_MODEL, tmp_path / name, reuse=True,
            progress=lambda step, total, _: steps.append((step, total)),
        )  # fmt: skip
        assert not reused
        made.append(provenance)
    assert steps == [(1, 2), (2, 2)] * 2
    files = files_in(tmp_path / "one")
    admission = admit(files, BaseModel.from_directory(base, SMALL_MODEL))
    assert admission.problems == ()
    assert set(files) == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "provenance.json"
    }  # fmt: skip
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == SMALL_MODEL
    plan = made[0].plan
    assert plan.data_digest == pack.load().digest
    assert plan.recipe == recipe
    assert set(plan.versions) == {"torch", "transformers", "peft", "trl"}
    weights = [(tmp_path / n / "adapter_model.safetensors").read_bytes() for n in ("one", "two")]
    assert weights[0] == weights[1], "the same plan makes the same weights"


def test_an_adapter_of_the_same_plan_is_kept(base: Path, tmp_path: Path) -> None:
    pack = PACKS["legal"]
    recipe = pack.recipe.changed(["steps=2", "batch=2"])

    def run() -> bool:
        out = tmp_path / "out"
        return train(pack, recipe, base, SMALL_MODEL, out, reuse=True, progress=lambda *_: None)[1]

    assert [run(), run()] == [False, True]


@pytest.mark.parametrize("domain", PACKS)
def test_every_pack_has_enough_held_out_items_and_its_demo_question(domain: str) -> None:
    pack = PACKS[domain]
    data = pack.load()
    assert len(data.held_out) >= 100
    assert {item.label for item in data.train} == set(pack.labels)
    assert {item.label for item in data.held_out[:100]} <= set(pack.labels)
    assert not {i.unit for i in data.train} & {i.unit for i in data.held_out}
    assert pack.demo_question in data.held_out
    assert data.digest == pack.load().digest
