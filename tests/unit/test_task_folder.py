"""A task's folder: strict, bounded, every problem at once with its file and line."""

import itertools
import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from adapters.packs.pack import lot
from adapters.tasks import InvalidTask, TaskFolder, parse, read
from adapters.tasks.checking import check, usable
from adapters.tasks.folder import CARD, ITEMS, MAX_BYTES, MAX_LINE, RECIPE, SPEC
from adapters.tasks.format import Item, Lengths, fill
from registry.model.catalog import File
from registry.store.blobs import content_digest

BASIC: dict[str, Any] = {
    "name": "modality",
    "about": "Which modality a report describes.",
    "licence": "CC0-1.0",
    "source": "Made for this test.",
    "score": {"kind": "label"},
    "labels": ["CT", "MRI"],
    "prompts": ["Which modality?\n\nReport: {text}"],
}


def rows(n: int = 40) -> list[dict[str, Any]]:
    return [
        {"text": f"report {i}", "target": ("CT", "MRI")[i % 2], "unit": f"patient {i // 2}"}
        for i in range(n)
    ]


def content(
    changes: dict[str, Any] | None = None, items: Sequence[Any] | None = None, **files: str
) -> dict[str, bytes]:
    spec = {key: value for key, value in {**BASIC, **(changes or {})}.items() if value is not None}
    lines = "".join(json.dumps(row) + "\n" for row in (rows() if items is None else items))
    texts = {SPEC: yaml.safe_dump(spec, sort_keys=False), ITEMS: lines, CARD: "# Card\n", **files}
    return {name: text.encode() for name, text in texts.items()}


def problems(given: dict[str, bytes]) -> list[str]:
    with pytest.raises(InvalidTask) as error:
        parse(given)
    return [str(problem) for problem in error.value.problems]


def test_a_sound_folder_is_read_and_named_as_a_version_is_by_its_files(tmp_path: Path) -> None:
    for name, data in content().items():
        (tmp_path / name).write_bytes(data)
    task = read(tmp_path)
    files = [File(file.path, file.size, file.sha256) for file in task.files]
    assert task.digest == content_digest(files)
    assert [file.path for file in task.files] == [CARD, ITEMS, SPEC]
    assert task.prompt(task.items[0]) == "Which modality?\n\nReport: report 0"
    assert parse(content()).digest == task.digest
    edited = content(items=[*rows()[:-1], {**rows()[-1], "text": "another"}])
    assert parse(edited).digest != task.digest


def test_the_template_passes_its_own_check_and_its_recipe_is_one(tmp_path: Path) -> None:
    template = Path(__file__).parents[2] / "adapters" / "tasks" / "template"
    found = usable(read(template))
    assert found.items["train"] > found.items["held_out"] > 0


def test_every_problem_is_reported_at_once_with_file_and_line() -> None:
    given = content({"labels": ["CT", "MRI", "CT"], "licence": 7, "promptes": ["x"]})
    lines = given[ITEMS].split(b"\n")
    lines[2] = b'{"text": "a", "target": "XR"}'
    lines[4] = b"not json"
    lines[6] = b'{"text": "b", "target": "CT", "colour": "red"}'
    given[ITEMS] = b"\n".join(lines)
    del given[CARD]
    found = problems(given)
    assert "card.md: It is missing." in found
    assert "task.yaml:3: licence: Expected `str`, got `int`." in found
    assert any(p.startswith("task.yaml:") and "'promptes'. Perhaps prompts" in p for p in found)
    assert any(p.startswith("items.jsonl:5: It is not JSON") for p in found)
    assert "items.jsonl:7: Object contains unknown field `colour`." in found


def test_what_contradicts_itself_is_found_where_it_stands() -> None:
    items = rows()
    items[1] = {**items[1], "target": "XR"}
    items[3] = {**items[3], "choices": ["a", "b"]}
    items[5] = {**items[5], "split": "train"}
    items[4] = {**items[4], "split": "held_out"}
    items[7] = {**items[7], "text": "report 6"}
    changes = {
        "labels": ["CT", "MRI", "CT"],
        "unknown": "No idea",
        "prompts": ["Which?", "What {x!r} {text}", "{text} {site}"],
    }
    found = problems(content(changes, items))
    expected = [
        "items.jsonl:2: Its target 'XR' is not among the labels",
        "items.jsonl:4: Kind label reads no choices",
        "items.jsonl:6: Its unit is in held_out on line 5",
        "items.jsonl:8: It has the id or text of line 7",
        "task.yaml:7: A label occurs twice",
        "unknown is not among the labels",
        "The prompt does not name {text}",
        "is no name",
    ]
    for wanted in expected:
        assert any(wanted in problem for problem in found), wanted
    assert any("names {site}" in problem for problem in found)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": None}, "two or more labels"),
        ({"name": "../../etc"}, "task.yaml:1: name"),
        ({"score": {"kind": "magic"}}, "Invalid value 'magic'"),
        ({"score": {"kind": "numeric", "tolerance": 1}}, "unknown field `tolerance`"),
        ({"score": {"kind": "rubric", "judge": "model"}}, "name the judging model"),
        ({"score": {"kind": "harness"}}, "harness.yaml belong together"),
        ({"score": {"kind": "choice"}}, "does not name {choices}"),
        ({"prompts": None}, "lacks the key 'prompts'"),
        ({"builder": "os.system"}, "There is no builder"),
        ({"answer": {"max_tokens": 10**9}}, "max_tokens"),
        ({"split": {"held_out": 2}}, "held_out"),
        ({"prompts": ["{text.__class__}"]}, "is no name"),
        ({"prompts": ["{text[0]}"]}, "is no name"),
        ({"prompts": ["{text:>9999999}"]}, "is no name"),
        ({"prompts": ["{text"]}, "expected '}'"),
    ],
)
def test_a_bad_spec_is_refused_in_words(changes: dict[str, Any], said: str) -> None:
    assert any(said in problem for problem in problems(content(changes)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x 1\nb: *x", "anchors"),
        ("a: !!python/object/apply:os.system [ls]", "tags"),
        ("[" * 500, "nested deeper"),
        ("name: x\nname: y", "twice"),
        ("- 1", "no map"),
        ("", "no map"),
        ("".join(f"k{i}: 1\n" for i in range(20_000)), "more than 100 keys"),
    ],
)
def test_hostile_yaml_is_refused(text: str, said: str) -> None:
    assert any(said in p for p in problems({**content(), SPEC: text.encode()}))


def test_a_prompt_of_gigabytes_is_refused_without_being_written() -> None:
    labels = [f"{i:03}{'x' * 190}" for i in range(900)]
    prompts = ["{text}" + "{labels}" * 990]
    items = [{**row, "target": labels[0]} for row in rows(400)]
    hostile = content({"labels": labels, "prompts": prompts}, items)
    tracemalloc.start()
    found = problems(hostile)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum("more than 100000 characters" in problem for problem in found) == 400
    assert peak < 50 << 20


@given(
    st.lists(st.sampled_from(["{text}", "{labels}", "{choices}", "{hint}", "{{x}} ", "two"])),
    st.lists(st.text(min_size=1, max_size=5), max_size=4),
)
def test_the_length_of_a_prompt_is_that_of_the_prompt(parts: list[str], words: list[str]) -> None:
    template = "".join(parts)
    item = Item(text="a report", choices=tuple(words), fields={"hint": "look"})
    assert Lengths(template, words).of(item) == len(fill(template, item, words))


def test_patterns_that_take_long_to_try_are_refused_before_most_are_tried() -> None:
    pattern = "(a|b)*a(a|b){600}c"
    many = content(
        {"score": {"kind": "pattern"}, "labels": None},
        [
            {"text": f"{i}", "target": "ab" * 1000, "never": [f"{pattern}{i}"], "split": "held_out"}
            for i in range(2000)
        ],
    )
    *_, last = problems(many)
    assert "takes too long" in last
    tried = int(last.split(":")[1])
    assert tried < 100
    row = {"text": "x", "target": "y", "never": [f"{pattern}{i}" for i in range(4)]}
    wide = content({"score": {"kind": "pattern"}, "labels": None}, [row])
    assert any("2000 states together" in problem for problem in problems(wide))


def test_files_are_bounded_and_strange_ones_refused_before_they_are_read(tmp_path: Path) -> None:
    for name, data in content().items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "setup.py").write_text("import os")
    (tmp_path / RECIPE).symlink_to("/etc/passwd")
    with (tmp_path / ITEMS).open("r+b") as file:
        file.truncate(MAX_BYTES[ITEMS] + 1)
    with pytest.raises(InvalidTask) as error:
        read(tmp_path)
    found = [str(problem) for problem in error.value.problems]
    assert any(p.startswith("setup.py: A task holds") for p in found)
    assert "recipe.yaml: It is no regular file." in found
    assert any(p.startswith("items.jsonl: It has more than") for p in found)
    with pytest.raises(InvalidTask, match=r"not a folder\. Make one: lorary task new FOLDER"):
        read(tmp_path / "nothing")


def test_lines_and_their_number_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.tasks.folder.MAX_ITEMS", 5)
    assert any("items.jsonl:6: There are more than 5" in p for p in problems(content()))
    long = [{"text": "x" * MAX_LINE, "target": "CT"}]
    assert any("items.jsonl:1: The line has more" in p for p in problems(content(items=long)))


def test_many_problems_are_counted_not_all_printed() -> None:
    with pytest.raises(InvalidTask, match="and 300 more") as error:
        parse(content(items=[{"text": f"{i}", "target": "XR"} for i in range(400)]))
    assert len(error.value.message.splitlines()) == 101


SIDES = ("train", "held_out", "calibration")


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 30)), min_size=1, max_size=60))
def test_no_unit_is_on_two_sides_and_every_item_is_on_one(pairs: list[tuple[int, int]]) -> None:
    items = [
        {"text": f"t{n} {i}", "target": "CT", "unit": f"u{u}"} for i, (n, u) in enumerate(pairs)
    ]
    task = parse(content(items=items))
    sides = {side: task.side(side) for side in SIDES}  # type: ignore[arg-type]
    assert sum(map(len, sides.values())) == len(items)
    units = [{item.unit for item in side} for side in sides.values()]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(units, 2))
    assert {item.unit for item in sides["train"]} == {
        f"u{u}" for _, u in pairs if lot(f"u{u}") >= 0.25
    }


def leaking(**rule: str) -> TaskFolder:
    words = " ".join(f"word{i}" for i in range(20))
    items = [
        {"text": f"First: {words}.", "target": "CT", "split": "train"},
        {"text": f"first {words.upper()}", "target": "CT", "split": "held_out"},
        {"text": f"Another text with {words} inside", "target": "MRI", "split": "held_out"},
        {"text": "Nothing alike", "target": "MRI", "split": "held_out"},
    ]
    return parse(content({"contamination": rule}, items))


def test_held_out_items_that_training_shows_are_found_by_line() -> None:
    found = check(leaking())
    assert (found.exact, found.passages) == (1, 1)
    assert [(p.file, p.line) for p in found.problems] == [(ITEMS, 2)]
    assert (ITEMS, 3) in [(p.file, p.line) for p in found.remarks]
    strict = check(leaking(passages="refuse", exact="report"))
    assert [(p.file, p.line) for p in strict.problems] == [(ITEMS, 3)]
    with pytest.raises(InvalidTask, match=r"items\.jsonl:2"):
        usable(leaking())


def test_the_same_question_with_two_answers_and_an_empty_judgement_are_problems() -> None:
    items = [
        {"id": "a", "text": "same", "target": "CT", "unit": "u", "split": "train"},
        {"id": "b", "text": "Same", "target": "MRI", "unit": "u", "split": "train"},
    ]
    found = [str(problem) for problem in check(parse(content(items=items))).problems]
    assert any("items.jsonl:2: It asks what line 1 asks" in problem for problem in found)
    assert any("No item is held out" in problem for problem in found)


def test_counts_are_by_side_and_label() -> None:
    found = check(parse(content()))
    assert sum(found.items.values()) == 40
    assert sum(found.labels["CT"].values()) == 20
    assert found.units["train"] * 2 == found.items["train"]
