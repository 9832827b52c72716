"""Short real trainings end in adapters that would be admitted, or say why they cannot be served."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adapters import recipes
from adapters.admission import admit, files_in
from adapters.base_model import BaseModel
from adapters.home import SMALL_MODEL, default_model
from adapters.packs import PACKS
from adapters.recipe import AnyRecipe, TrainingRuns, parse_recipe
from adapters.small_model import build
from adapters.training.job import Record
from adapters.training.provenance import Provenance
from adapters.training.run import train
from tests.support.tiny_model import one_thread, write_rows, write_tiny_model


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny base model and rows to train it on."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_model(folder / "base")
    write_rows(folder / "rows.jsonl")
    return folder


def recipe_for(tiny: Path, text: str) -> AnyRecipe:
    common = f"adapter: demo/tiny\nbase: tiny\ndata: {tiny / 'rows.jsonl'}\nbatch: 4\n"
    return parse_recipe(common + text)


def run(tiny: Path, out: Path, text: str) -> Provenance:
    return train(recipe_for(tiny, text), tiny / "base", out, progress=lambda *_: None)[0]


def weights(directory: Path) -> str:
    return hashlib.sha256((directory / "adapter_model.safetensors").read_bytes()).hexdigest()


def column(history: list[Record], key: str) -> list[float]:
    return [record[key] for record in history if key in record]


@pytest.fixture(scope="module")
def base() -> Path:
    build(default_model())
    return default_model()


def test_two_steps_make_a_publishable_directory_and_the_same_again(
    base: Path, tmp_path: Path
) -> None:
    recipe = recipes.load("legal").changed(["steps=2", "batch=2", "forgetting=false"])
    steps: list[tuple[int, int]] = []
    made = []
    for name in ("one", "two"):
        provenance, reused = train(
            recipe, base, tmp_path / name, reuse=True,
            progress=lambda step, total, _: steps.append((step, total)),
        )  # fmt: skip
        assert not reused
        made.append(provenance)
    assert steps == [(1, 2), (2, 2)] * 2
    files = files_in(tmp_path / "one")
    admission = admit(files, BaseModel.from_directory(base, SMALL_MODEL))
    assert admission.problems == ()
    assert set(files) == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "provenance.json",
        "training.png",
    }  # fmt: skip
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == SMALL_MODEL
    plan = made[0].plan
    assert plan.data_digest == PACKS["legal"].load().digest
    assert plan.recipe == recipe
    assert set(plan.versions) == {"torch", "transformers", "peft", "trl"}
    assert weights(tmp_path / "one") == weights(tmp_path / "two"), "the same plan, the same weights"


def test_an_adapter_of_the_same_plan_is_kept(tiny: Path, tmp_path: Path) -> None:
    recipe = recipe_for(tiny, "stage: sft\nsteps: 2")

    def trained() -> bool:
        out = tmp_path / "out"
        return train(recipe, tiny / "base", out, reuse=True, progress=lambda *_: None)[1]

    assert [trained(), trained()] == [False, True]


def test_parts_of_a_batch_give_the_loss_of_the_whole_batch(tiny: Path, tmp_path: Path) -> None:
    whole = run(tiny, tmp_path / "whole", "stage: sft\nsteps: 4")
    parts = run(tiny, tmp_path / "parts", "stage: sft\nsteps: 4\naccumulate: 2")
    assert column(parts.history, "loss") == pytest.approx(column(whole.history, "loss"), rel=1e-4)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_is_saved_is_rounded_to_bfloat16_unless_the_recipe_says_otherwise(
    method: str, tiny: Path, tmp_path: Path
) -> None:
    text = f"stage: sft\nsteps: 2\nforgetting: false\nmethod: {method}\n"
    run(tiny, tmp_path / "half", text)
    run(tiny, tmp_path / "whole", f"{text}saved_as: float32")
    half, whole = (
        load_file(next((tmp_path / name).glob("*.safetensors"))) for name in ("half", "whole")
    )
    assert {tensor.dtype for tensor in half.values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in whole.values()} == {torch.float32}
    for name, tensor in whole.items():
        torch.testing.assert_close(half[name], tensor.bfloat16(), rtol=0, atol=0)


def test_training_stops_when_the_held_out_loss_no_longer_falls_and_takes_the_best(
    tiny: Path, tmp_path: Path
) -> None:
    text = "stage: sft\nsteps: 60\nlearning_rate: 0.03\nwarmup_steps: 0\nvalidation: 0.2\n"
    provenance = run(tiny, tmp_path / "out", text + "evaluate_every: 2\npatience: 2")
    evaluated = column(provenance.history, "eval_loss")
    assert len(column(provenance.history, "loss")) < 60
    assert len(evaluated) >= 3
    assert min(evaluated) == evaluated[-3], "two evaluations without improvement end it"


STAGES = {
    "sft": "stage: sft\nsteps: 12",
    "dpo": "stage: dpo\nsteps: 12\ndata: legal",
    "ppo": "stage: ppo\nsteps: 12\nmax_new_tokens: 6\nreward: verifiable",
}


@pytest.mark.parametrize("stage", STAGES)
def test_killed_and_resumed_it_ends_in_the_weights_of_an_undisturbed_run(
    stage: str, tiny: Path, tmp_path: Path
) -> None:
    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text(
        f"adapter: demo/tiny\nbase: tiny\ndata: {tiny / 'rows.jsonl'}\nbatch: 4\nsave_every: 3\n"
        f"dropout: {0.1 if stage == 'sft' else 0.0}\n{STAGES[stage]}\n"
    )
    recipe, undisturbed, disturbed = recipes.load(str(recipe_file)), tmp_path / "u", tmp_path / "d"
    train(recipe, tiny / "base", undisturbed, progress=lambda *_: None)
    command = [sys.executable, "-m", "tests.support.endless_training"]
    with subprocess.Popen(
        [*command, str(recipe_file), str(tiny / "base"), str(disturbed), "7"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # as here: sums depend on who adds them
        stdout=subprocess.PIPE,
        text=True,
    ) as training:
        assert training.stdout is not None
        assert any(line == "step 7\n" for line in training.stdout)
        os.kill(training.pid, signal.SIGKILL)
    assert training.returncode == -signal.SIGKILL
    assert not disturbed.exists()
    steps: list[int] = []
    train(recipe, tiny / "base", disturbed, progress=lambda step, *_: steps.append(step))
    assert steps == list(range(7, 13)), "it goes on from the checkpoint at step 6"
    assert weights(disturbed) == weights(undisturbed)
    assert not list(tmp_path.glob(".*.training"))


def test_two_processes_cannot_train_into_one_directory(tiny: Path, tmp_path: Path) -> None:
    recipe = recipe_for(tiny, "stage: sft\nsteps: 1\nwarmup_steps: 0")

    def again(*_: object) -> None:
        with pytest.raises(TrainingRuns, match="Another process"):
            train(recipe, tiny / "base", tmp_path / "out", progress=lambda *_: None)

    train(recipe, tiny / "base", tmp_path / "out", progress=again)


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
