"""Rows of stage classify: read whole or refused by number, with labels that a head may have."""

import json
from pathlib import Path
from typing import Any

import pytest

from adapters import recipes
from adapters.packs import PACKS
from adapters.recipe import BadRecipe, Classify, parse_recipe
from adapters.training.classification import rows as stage_rows
from adapters.training.classification.rows import corpus_of, fitting

HEADER = "stage: classify\nadapter: demo/rows\nbase: tiny\n"
ROWS: tuple[dict[str, Any], ...] = (
    {"text": "It hurts.", "label": "urgent"},
    {"text": "It itches.", "label": "routine", "unit": "skin"},
    {"prompt": "Thank you.", "completion": "none"},
)


def labels_of(folder: Path, *rows: Any, more: str = "") -> tuple[str, ...]:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = parse_recipe(f"{HEADER}data: {file}\n{more}")
    assert isinstance(recipe, Classify)
    corpus = corpus_of(recipe)
    assert [row.question for row in corpus.train] == [
        row.get("text") or row["prompt"] for row in rows
    ]
    return stage_rows.labels_of(recipe, corpus)


def test_a_row_is_a_text_as_it_stands_and_labels_are_sorted(tmp_path: Path) -> None:
    assert labels_of(tmp_path, *ROWS) == ("none", "routine", "urgent")


def test_labels_of_the_recipe_keep_their_order_and_may_have_no_row(tmp_path: Path) -> None:
    more = "labels: [urgent, routine, none, unknown]\n"
    assert labels_of(tmp_path, *ROWS, more=more) == ("urgent", "routine", "none", "unknown")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"text": "a"}, "row 2 does not suit this stage: it lacks 'label'"),
        ({"label": "urgent"}, "it lacks 'text'"),
        ({"text": "", "label": "urgent"}, "its text is no text, or empty"),
        ({"text": "a", "label": 1}, "its label is no text"),
        ({"text": ["a"], "label": "urgent"}, "its text is no text"),
        ({"text": "a", "label": "urgent", "history": "It hurt before."}, "'history' is not read"),
        ("a", "no JSON object"),
    ],
)
def test_a_row_that_cannot_be_read_is_refused_by_its_number(
    row: Any, told: str, tmp_path: Path
) -> None:
    with pytest.raises(BadRecipe, match=told):
        labels_of(tmp_path, ROWS[0], row)


@pytest.mark.parametrize(
    ("rows", "more", "told"),
    [
        (ROWS[:1], "", "one label"),
        (ROWS, "labels: [urgent, routine]\n", "row 3: 'none' is not among the labels"),
        ([{"text": f"{n}", "label": f"{n}"} for n in range(1001)], "", "1001 labels; a head may"),
        ([ROWS[0], {"text": "b", "label": "x" * 201}], "", "is not one line of 1 to 200"),
        ([ROWS[0], {"text": "b", "label": "a\nb"}], "", "is not one line"),
    ],
)
def test_labels_that_no_head_may_have_are_refused(
    rows: Any, more: str, told: str, tmp_path: Path
) -> None:
    with pytest.raises(BadRecipe, match=told):
        labels_of(tmp_path, *rows, more=more)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("labels: [a]\n", "two or more"),
        ("labels: [a, a]\n", "two or more"),
        ("forgetting: true\n", "writes no answers"),
        ("method: dora\n", "trains lora, rslora, not dora"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(more: str, told: str) -> None:
    with pytest.raises(BadRecipe, match=told):
        parse_recipe(f"{HEADER}data: rows.jsonl\n{more}")


@pytest.mark.parametrize("domain", PACKS)
def test_a_packs_texts_are_learnt_without_its_question_and_held_out_ones_never(domain: str) -> None:
    recipe = recipes.load(f"{domain}-classify")
    assert isinstance(recipe, Classify)
    corpus = corpus_of(recipe)
    data = PACKS[domain].load()
    assert stage_rows.labels_of(recipe, corpus) == PACKS[domain].labels
    assert [(row.question, row.answer) for row in corpus.train] == [
        (item.text, item.label) for item in data.train
    ]
    assert not {row.question for row in corpus.train} & {item.text for item in data.held_out}


def test_texts_that_are_too_long_are_refused_or_counted(tmp_path: Path) -> None:
    def tokenizer(text: str) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode())}

    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    recipe = parse_recipe(f"{HEADER}data: {file}\nmax_tokens: 9\n")
    assert isinstance(recipe, Classify)
    corpus = corpus_of(recipe)
    with pytest.raises(BadRecipe, match=r"2 texts are longer than max_tokens=9.*row 2 \(10\)"):
        fitting(recipe, corpus, tokenizer)
    dropping = recipe.changed(["too_long=drop"])
    assert isinstance(dropping, Classify)
    fitted = fitting(dropping, corpus, tokenizer)
    assert (len(fitted.train), fitted.dropped) == (1, 2)
