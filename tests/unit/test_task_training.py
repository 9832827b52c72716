"""Training reads the training side of a task's own split, and nothing that is held out."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from adapters.cli.training import _load_recipe
from adapters.recipe import BadRecipe, Classify, Sft
from adapters.tasks import InvalidTask, read
from adapters.training.data import corpus_of
from adapters.training.tasks import recipe_of
from registry.cli import build
from tests.unit.test_task_folder import content, rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "modality"
    made.mkdir()
    write(made, content())
    return made


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)


def recipe(folder: Path, kind: type[Any] = Sft, **fields: Any) -> Any:
    return kind(adapter="radiology/modality", data=(str(folder),), **fields)


def test_a_missing_base_model_is_refused_with_what_to_do(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORARY_HOME", str(tmp_path / "home"))
    (folder / "recipe.yaml").write_text("stage: sft\nadapter: radiology/modality\ndata: .\n")
    asked = ["train", "--task", str(folder), "--out", str(tmp_path / "out")]
    for options, remedy in (
        ([], r"There is no base model in .*\. Build it: lorary small-model"),
        (["--base", str(tmp_path / "x")], r"There is no base model in .*x\. Specify another"),
    ):
        with pytest.raises(BadRecipe, match=remedy):
            CliRunner().invoke(build(), [*asked, *options], catch_exceptions=False)


def test_each_item_of_the_training_side_is_learnt_as_it_is_asked(folder: Path) -> None:
    task = read(folder)
    corpus = corpus_of(recipe(folder, validation=0.2))
    train = [*corpus.train, *corpus.validation]
    assert {(row.question, row.answer, row.unit) for row in train} == {
        (task.prompt(item), item.target, item.group) for item in task.side("train")
    }
    assert corpus.digest == task.digest
    assert not {row.unit for row in corpus.train} & {row.unit for row in corpus.validation}


def test_a_head_learns_the_texts_without_the_prompt(folder: Path) -> None:
    corpus = corpus_of(recipe(folder, Classify))
    texts = {item.text: item.target for item in read(folder).side("train")}
    assert {row.question: row.answer for row in corpus.train} == texts


def test_a_part_of_a_task_is_a_part_of_its_units(folder: Path) -> None:
    first = corpus_of(Sft(adapter="radiology/modality", data=(f"{folder}[:50%]",)))
    rest = corpus_of(Sft(adapter="radiology/modality", data=(f"{folder}[50%:]",)))
    assert {row.unit for row in first.train}.isdisjoint(row.unit for row in rest.train)
    assert len(first.train) + len(rest.train) == len(read(folder).side("train"))


def test_a_task_without_anything_to_learn_or_with_leaks_is_not_trained_on(folder: Path) -> None:
    write(folder, content({"split": {"held_out": 1}}))
    with pytest.raises(BadRecipe, match="for judging only"):
        corpus_of(recipe(folder))
    leaking = [{**row, "unit": "", "id": str(i), "text": "the very same text", "target": "CT",
                "split": ("train", "held_out")[i % 2]}
               for i, row in enumerate(rows(4))]  # fmt: skip
    write(folder, content(items=leaking))
    with pytest.raises(InvalidTask, match="has its text in training"):
        corpus_of(recipe(folder))
    pattern = [{"text": f"q{i}", "match": ["x"]} for i in range(20)]
    write(folder, content({"score": {"kind": "pattern"}, "labels": None}, pattern))
    with pytest.raises(BadRecipe, match="no answer to learn"):
        corpus_of(recipe(folder))


def test_a_tasks_own_recipe_is_used_and_can_be_changed(folder: Path) -> None:
    with pytest.raises(BadRecipe, match="adapter=DOMAIN/NAME"):
        recipe_of(folder)
    made = _load_recipe("adapter=radiology/modality", ["steps=7"], folder)
    assert (made.adapter, made.data, made.steps) == ("radiology/modality", (str(folder),), 7)
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump({"stage": "classify", "adapter": "radiology/head", "data": ["."]})
    )
    head = _load_recipe("steps=9", [], folder)
    assert isinstance(head, Classify)
    assert (head.adapter, head.data, head.steps) == ("radiology/head", (str(folder),), 9)
    assert json.dumps(head.data)
