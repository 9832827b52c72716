"""Stage classify on a tiny model: it learns, ends in the same weights, and is admitted."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.admission import admit, files_in
from adapters.base_model import BaseModel
from adapters.recipe import Classify, parse_recipe
from adapters.training import provenance
from adapters.training.provenance import Provenance
from adapters.training.run import rehearse, train
from tests.support.tiny_model import one_thread, write_tiny_model

WORDS = {"left": "port", "right": "starboard", "up": "aloft"}


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny base model and rows whose last word decides the label."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_model(folder / "base")
    rows = [
        {"text": f"{number}: {word}", "label": label, "unit": str(number)}
        for number in range(40)
        for word, label in WORDS.items()
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def recipe_for(tiny: Path, more: str = "") -> Classify:
    made = parse_recipe(
        f"stage: classify\nadapter: demo/directions\nbase: tiny\ndata: {tiny / 'rows.jsonl'}\n"
        f"batch: 8\nsteps: 12\nsave_every: 3\nlearning_rate: 0.01\nwarmup_steps: 0\n{more}"
    )
    assert isinstance(made, Classify)
    return made


def run(tiny: Path, out: Path, more: str = "") -> Provenance:
    return train(recipe_for(tiny, more), tiny / "base", out, progress=lambda *_: None)[0]


def weights(directory: Path) -> str:
    return hashlib.sha256((directory / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def trained(tiny: Path) -> Path:
    run(tiny, tiny / "trained")
    return tiny / "trained"


def test_it_learns_and_its_directory_is_admitted_with_its_labels(tiny: Path, trained: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    admission = admit(files_in(trained), BaseModel.from_directory(tiny / "base", "tiny"))
    assert admission.problems == ()
    assert admission.facts is not None
    head = admission.facts.head
    assert head is not None
    assert head.labels == ("aloft", "port", "starboard")
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny / "base", num_labels=3, dtype=torch.float32
    )
    adapted = PeftModel.from_pretrained(model, trained).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny / "base")
    right = 0
    for word, label in WORDS.items():
        for number in range(100, 110):
            logits = adapted(**tokenizer(f"{number}: {word}", return_tensors="pt")).logits[0]
            right += head.labels[int(np.argmax(logits.detach().numpy()))] == label
    assert right >= 27, f"{right} of 30"


def test_the_card_says_how_it_is_asked_and_what_it_may_answer(trained: Path) -> None:
    card = (trained / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert "- starboard" in card
    assert "lorary serve --task classify" in card


def test_stopped_and_begun_again_it_ends_in_the_weights_of_an_undisturbed_run(
    tiny: Path, trained: Path, tmp_path: Path
) -> None:
    class Stopped(Exception):
        pass

    def stop(step: int, *_: object) -> None:
        if step == 7:
            raise Stopped

    out = tmp_path / "out"
    with pytest.raises(Stopped):
        train(recipe_for(tiny), tiny / "base", out, progress=stop)
    assert not out.exists()
    steps: list[int] = []
    train(recipe_for(tiny), tiny / "base", out, progress=lambda step, *_: steps.append(step))
    assert steps == list(range(7, 13)), "it goes on from the checkpoint at step 6"
    assert weights(out) == weights(trained)
    assert not list(tmp_path.glob(".*.training"))


def test_the_same_plan_is_not_trained_again(tiny: Path, trained: Path) -> None:
    _, reused = train(
        recipe_for(tiny), tiny / "base", trained, reuse=True, progress=lambda *_: None
    )
    assert reused


def test_its_plan_covers_its_own_code_and_other_stages_plans_do_not(trained: Path) -> None:
    plan = json.loads((trained / "provenance.json").read_bytes())["plan"]
    other = parse_recipe("stage: sft\nadapter: demo/directions\nbase: tiny\ndata: rows.jsonl\n")
    assert plan["code"] == provenance.code_digest(recipe_for(trained.parent))
    assert plan["code"] != provenance.code_digest(other)


def test_it_goes_on_from_another_adapter(tiny: Path, trained: Path, tmp_path: Path) -> None:
    first = run(tiny, tmp_path / "next", f"start: {trained}\nlabels: [port, starboard, aloft]\n")
    anew = run(tiny, tmp_path / "anew", "seed: 1\n")
    assert first.plan.start_digest
    assert first.history[0]["loss"] != anew.history[0]["loss"]


def test_a_rehearsal_tells_what_the_whole_would_take_and_keeps_nothing(tiny: Path) -> None:
    told = rehearse(recipe_for(tiny), tiny / "base")
    assert told["steps"] == 12
    assert told["step_seconds"] > 0
    assert not list(tiny.glob("*.training"))
