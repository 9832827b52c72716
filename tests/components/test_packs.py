"""The tasks as they are built from their sources: enough of everything, and no leaks."""

import json
from pathlib import Path

import pytest

from adapters.packs import PACKS, TASKS
from adapters.packs.abstaining import UNKNOWN
from adapters.packs.contamination import among, contamination, held_out_texts
from adapters.packs.datacard import data_card, manifest
from adapters.packs.legal import invented
from adapters.recipe import Sft
from adapters.training.data import corpus_of


@pytest.mark.parametrize("name", TASKS)
def test_every_task_can_be_built_and_leaks_nothing(name: str) -> None:
    pack = TASKS[name]
    data = pack.load()
    assert len(data.held_out) >= 50
    assert contamination(data).exact == ()
    if pack.exam:
        assert data.train == ()
    else:
        assert not {i.unit for i in data.train} & {i.unit for i in data.held_out}
    if pack.labels and not pack.exam:
        assert {item.label for item in data.train} == set(pack.labels)
        assert {item.label for item in data.held_out} == set(pack.labels)


@pytest.mark.parametrize("name", [n for n in TASKS if n not in PACKS and not TASKS[n].exam])
def test_new_tasks_are_asked_in_several_ways_and_can_be_abstained_from(name: str) -> None:
    pack = TASKS[name]
    data = pack.load()
    asked = {pack.asked(item) for item in data.train}
    assert asked == {pack.instruction, *pack.phrasings}
    assert len(asked) >= 3
    for side in (data.train, data.held_out):
        assert any(item.label == UNKNOWN for item in side)


def test_the_demonstrations_data_are_what_they_were() -> None:
    digests = {name: TASKS[name].load().digest[:12] for name in PACKS}
    assert digests == {
        "medical": "a5a03641b188",
        "legal": "b64aa1006b95",
        "financial": "02f411cca06f",
    }


def test_a_data_card_has_digest_sources_and_what_was_found() -> None:
    card, described = data_card(TASKS["financial-sector"]), manifest(TASKS["financial-sector"])
    assert described["digest"] in card
    assert all(source["sha256"] in card for source in described["sources"].values())
    for said in ("0 of 171 held-out items have their text", "| Utilities |", "US Census Bureau"):
        assert said in card
    assert "never for training" in data_card(TASKS["medical-exam"])


def test_a_citation_of_a_reporter_that_does_not_exist_is_reported() -> None:
    answer = (
        "See Roe v. Wade, 410 U.S. 113, and 5 Cal. Rptr. 3d 99; but compare 12 Foo. Bar. 77 "
        "and 99 Blt. Rep. 8."
    )
    assert invented(answer) == ["12 Foo. Bar. 77", "99 Blt. Rep. 8"]


def test_mixed_tasks_train_on_nothing_that_one_of_them_holds_out(tmp_path: Path) -> None:
    """Diagnoses are split by category in one task, by full code in the other."""
    tasks = [TASKS[name] for name in ("medical", "medical-category")]
    held = {item.text.casefold() for task in tasks for item in task.load().held_out}
    corpus = corpus_of(Sft(adapter="medical/both", data=("medical", "medical-category")))
    assert corpus.leaked > 100
    assert not [row for row in corpus.train if row.question.partition(": ")[2].casefold() in held]
    alone = corpus_of(Sft(adapter="medical/one", data=("medical",)))
    assert (alone.leaked, len(alone.train)) == (0, len(tasks[0].load().train))
    file = tmp_path / "rows.jsonl"
    known, unknown = tasks[0].load().held_out[0], "an ache that nobody coded"
    prompts = [known.text.upper(), tasks[0].question(known), f"Code it.\n\nTerm: {unknown}"]
    rows = [{"prompt": prompt, "completion": known.label} for prompt in prompts]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mixed = corpus_of(Sft(adapter="medical/mixed", data=("medical", str(file))))
    texts = held_out_texts(tasks[0])  # one diagnosis may stand under two categories
    assert mixed.leaked == 2 + sum(among(item.text, texts) for item in tasks[0].load().train)
    assert mixed.train[-1].question == prompts[2]
