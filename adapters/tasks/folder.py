"""A task's folder: `task.yaml`, `items.jsonl`, `card.md`, and what belongs to them.

    task.yaml      what is asked and how it is scored (adapters.tasks.format)
    items.jsonl    one item a line; not with a builder
    card.md        what the task is for, where its data come from, what is wrong with them
    recipe.yaml    how to train for it; optional
    harness.yaml   a task of lm-evaluation-harness; only with `score: {kind: harness}`

`parse` takes bytes and is pure; `read` takes a folder and bounds what it reads before it does.
"""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from adapters import json_lines
from adapters.errors import LoraryError
from adapters.packs.pack import lot
from adapters.recipe import BadRecipe, parse_recipe
from adapters.tasks.format import (
    LISTED,
    MAX_ITEMS,
    MAX_PROMPT,
    Item,
    Lengths,
    Side,
    TaskSpec,
    fill,
    names_in,
)
from adapters.tasks.scoring import Choice, Harness, Label, Rubric
from adapters.tasks.strict_yaml import Lines, Problem, fault_of, read_yaml

SPEC, ITEMS, CARD, RECIPE, HARNESS = (
    "task.yaml", "items.jsonl", "card.md", "recipe.yaml", "harness.yaml",
)  # fmt: skip
MAX_BYTES: Mapping[str, int] = {
    SPEC: 256 << 10,
    ITEMS: 32 << 20,
    CARD: 1 << 20,
    RECIPE: 64 << 10,
    HARNESS: 256 << 10,
}
"""Every file that a folder may hold, and how large it may be."""
MAX_LINE = 256 << 10
"""Bytes of one row."""
MAX_SHOWN = 100
"""Problems that are reported of one file."""
MAX_CHECKING = 50_000_000
"""Steps of patterns that are tried on the targets: seconds, since whoever pushes a task makes the
registry try them."""
IGNORED = (".DS_Store",)


class InvalidTask(LoraryError):
    """A folder that is no task; `problems` says all that is wrong, each with file and line."""

    status = 422
    code = "invalid_task"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        listed = "\n".join(str(problem) for problem in self.problems[:MAX_SHOWN])
        more = len(self.problems) - MAX_SHOWN
        super().__init__(listed + (f"\nand {more} more" if more > 0 else ""))


@dataclass(frozen=True, slots=True)
class TaskFile:
    """One of its files."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class TaskFolder:
    """A task that is sound in itself."""

    spec: TaskSpec
    files: tuple[TaskFile, ...]
    """In the order of their names."""
    card: str
    recipe: str | None
    harness: str | None
    """The text of `harness.yaml`."""
    rows: tuple[Any, ...]
    """The rows of `items.jsonl` as they are; of a harness task in any form."""
    listed: tuple[Item, ...]
    """The items of `items.jsonl`."""
    lines: tuple[int, ...]
    """The line of each."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 over path, size and digest of its files, as a version's."""
        listed = [(file.path, file.size, file.sha256) for file in self.files]
        return hashlib.sha256(msgspec.json.encode(listed)).hexdigest()

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """Every item; those of a builder are made now, which may download its sources.

        Raises `SourceUnavailable` if they cannot be had.
        """
        if not self.spec.builder:
            return self.listed
        from adapters.tasks.builders import BUILDERS

        return tuple(BUILDERS[self.spec.builder]())

    def placed(self) -> Iterator[tuple[int, Item]]:
        """Every item with its line in `items.jsonl`; those of a builder are numbered."""
        return zip(self.lines if self.listed else itertools.count(1), self.items, strict=False)

    def side(self, wanted: Side) -> tuple[Item, ...]:
        """The items on one side of the split, in the order of the file."""
        return tuple(item for item in self.items if side_of(item, self.spec) == wanted)

    def prompt(self, item: Item, phrasing: int = 0) -> str:
        """The user message that asks an item."""
        return fill(self.spec.prompts[phrasing], item, self.spec.labels)


def side_of(item: Item, spec: TaskSpec) -> Side:
    """As the item says, else by its unit."""
    if item.split is not None:
        return item.split
    if lot(item.group) >= spec.split.held_out:
        return "train"
    fits = lot(f"calibration {item.group}") < spec.split.calibration
    return "calibration" if fits else "held_out"


def read(folder: Path) -> TaskFolder:
    """The task in a folder.

    Raises `InvalidTask` with every problem: of a file that is missing, unknown, too large, no
    regular file or not readable, and all that `parse` finds.
    """
    if not folder.is_dir():
        hint = "This is not a folder. Make one: lorary task new FOLDER"
        raise InvalidTask([Problem(str(folder), 0, hint)])
    content: dict[str, bytes] = {}
    problems = []
    names = sorted(path.name for path in folder.iterdir() if path.name not in IGNORED)
    for name in names[:MAX_SHOWN]:
        path = folder / name
        if name not in MAX_BYTES:
            known = ", ".join(MAX_BYTES)
            problems.append(Problem(name, 0, f"A task holds {known} and nothing else."))
        elif path.is_symlink() or not path.is_file():
            problems.append(Problem(name, 0, "It is no regular file."))
        else:
            try:
                with path.open("rb") as file:
                    content[name] = file.read(MAX_BYTES[name] + 1)
            except OSError as error:
                problems.append(Problem(name, 0, f"It cannot be read: {error.strerror}."))
    return parse(content, problems)


def parse(content: Mapping[str, bytes], found: Sequence[Problem] = ()) -> TaskFolder:
    """The task that files of these names and bytes make.

    found: problems that are known already. Raises `InvalidTask` with all of them and every other.
    """
    problems = list(found)
    texts: dict[str, str] = {}
    for name, data in sorted(content.items()):
        if name not in MAX_BYTES:
            problems.append(Problem(name, 0, "A task holds no such file."))
        elif len(data) > MAX_BYTES[name]:
            problems.append(Problem(name, 0, f"It has more than {MAX_BYTES[name]} bytes."))
        else:
            try:
                texts[name] = data.decode("utf-8")
            except UnicodeDecodeError as error:
                line = data.count(b"\n", 0, error.start) + 1
                problems.append(Problem(name, line, "It is not UTF-8 text."))
    named = {problem.file for problem in problems}
    problems += [
        Problem(name, 0, "It is missing.")
        for name in (SPEC, CARD)
        if name not in texts and name not in named
    ]
    if CARD in texts and not texts[CARD].strip():
        problems.append(Problem(CARD, 0, "It is empty. Say what the task is for and its limits."))
    spec, lines = None, Lines({})
    if SPEC in texts:
        spec, wrong, lines = read_yaml(SPEC, texts[SPEC], TaskSpec)
        problems += wrong
    rows = _rows(content[ITEMS], problems) if ITEMS in texts else []
    free = spec is not None and isinstance(spec.score, Harness)
    items = [] if free else _items(rows, problems)
    problems += _recipe_faults(texts.get(RECIPE))
    if spec is not None:
        problems += _spec_faults(spec, lines, texts)
        problems += _item_faults(spec, items)
    if spec is None or problems:  # without a spec there is a problem
        raise InvalidTask(sorted(problems))
    return TaskFolder(
        spec=spec,
        files=tuple(
            TaskFile(name, len(data), hashlib.sha256(data).hexdigest())
            for name, data in sorted(content.items())
        ),
        card=texts[CARD],
        recipe=texts.get(RECIPE),
        harness=texts.get(HARNESS),
        rows=tuple(row for _, row in rows),
        listed=tuple(item for _, item in items),
        lines=tuple(number for number, _ in items),
    )


def _rows(data: bytes, problems: list[Problem]) -> list[tuple[int, Any]]:
    """Each line's number with what it holds."""
    rows: list[tuple[int, Any]] = []
    wrong: list[Problem] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        if len(rows) + len(wrong) >= MAX_ITEMS:
            wrong.append(Problem(ITEMS, number, f"There are more than {MAX_ITEMS} items."))
            break
        if len(line) > MAX_LINE:
            wrong.append(Problem(ITEMS, number, f"The line has more than {MAX_LINE} bytes."))
            continue
        try:
            row = json_lines.parse(line)
        except ValueError as error:
            wrong.append(Problem(ITEMS, number, f"It is not JSON: {error}."))
            continue
        if isinstance(row, dict):
            rows.append((number, row))
        else:
            wrong.append(Problem(ITEMS, number, "It is no JSON object."))
    problems += wrong
    return rows


def _items(rows: Sequence[tuple[int, Any]], problems: list[Problem]) -> list[tuple[int, Item]]:
    items = []
    for number, row in rows:
        wrong = fault_of(row, Item)
        if wrong is None:
            items.append((number, msgspec.convert(row, Item)))
        else:
            path, said = wrong
            where = f"{'.'.join(path)}: " if path else ""
            problems.append(Problem(ITEMS, number, f"{where}{said}"))
    return items


def _recipe_faults(text: str | None) -> list[Problem]:
    if text is None:
        return []
    try:
        parse_recipe(text)
    except BadRecipe as error:
        return [Problem(RECIPE, 0, error.message)]
    return []


def _spec_faults(spec: TaskSpec, lines: Lines, texts: Mapping[str, str]) -> list[Problem]:
    """What the parts of `task.yaml` say against each other."""
    found: list[Problem] = []

    def wrong(path: tuple[str, ...], said: str) -> None:
        found.append(Problem(SPEC, lines.of(path), said))

    score, free = spec.score, isinstance(spec.score, Harness)
    if spec.builder:
        from adapters.tasks.builders import BUILDERS

        if spec.builder not in BUILDERS:
            wrong(("builder",), f"There is no builder {spec.builder!r}: {', '.join(BUILDERS)}.")
        if ITEMS in texts:
            wrong(("builder",), f"It has a builder and {ITEMS}. Remove one of them.")
    elif ITEMS not in texts:
        wrong((), f"There is no {ITEMS}. Write one item a line.")
    if free != (HARNESS in texts):
        wrong(("score",), f"Kind harness and {HARNESS} belong together: one of them is missing.")
    if free and HARNESS in texts:
        from adapters.tasks.harness_yaml import harness_faults  # brings in Jinja

        found.extend(harness_faults(HARNESS, texts[HARNESS]))
    if len(set(spec.labels)) < len(spec.labels):
        wrong(("labels",), "A label occurs twice.")
    if isinstance(score, Label) and len(spec.labels) < 2:
        wrong(("labels",), "Kind label needs two or more labels.")
    if spec.unknown and spec.labels and spec.unknown not in spec.labels:
        wrong(("unknown",), "unknown is not among the labels. Add it there.")
    if isinstance(score, Rubric) and (score.judge == "model") != bool(score.model):
        wrong(("score",), "judge: model and model belong together: name the judging model.")
    if not free and not spec.prompts:
        wrong((), "It lacks the key 'prompts'.")
    for number, template in enumerate((*spec.prompts, *([spec.hint] if spec.hint else ()))):
        path = ("prompts", str(number)) if number < len(spec.prompts) else ("hint",)
        try:
            names = names_in(template)
        except ValueError as error:
            wrong(path, f"{error}.")
            continue
        if "text" not in names:
            wrong(path, "The prompt does not name {text}, so that every item would be the same.")
        if isinstance(score, Choice) and score.answer == "letter" and "choices" not in names:
            wrong(path, "The prompt does not name {choices}, so that no letter has a meaning.")
    return found


def _item_faults(spec: TaskSpec, items: Sequence[tuple[int, Item]]) -> list[Problem]:
    """Items that do not suit the task, or contradict each other."""
    found: list[Problem] = []
    readable, names = _readable(spec)
    lengths = [Lengths(prompt, spec.labels) for prompt in readable]
    spent = 0
    by_name: dict[str, int] = {}
    sides: dict[str, tuple[Side, int]] = {}
    given = {"accepted", "choices", "match", "never", "criteria"}
    for number, item in items:
        faults: list[str] = []
        if item.split == "unanswerable":
            if item.target:
                faults.append("No answer is right where split is unanswerable. Leave target out.")
        else:
            if said := spec.score.fault(item, spec.labels):
                faults.append(said)
            spent += spec.score.cost(item)
        faults += [
            f"Kind {spec.score.kind} reads no {field}. Remove it."
            for field in sorted(given - spec.score.uses)
            if getattr(item, field)
        ]
        if lacking := names - set(LISTED) - item.fields.keys():
            faults.append(f"A prompt names {{{min(lacking)}}}, which its fields lack.")
        elif any(length.of(item) > MAX_PROMPT for length in lengths):
            faults.append(f"Its prompt has more than {MAX_PROMPT} characters.")
        first = by_name.setdefault(item.called, number)
        if first != number:
            faults.append(f"It has the id or text of line {first}. Give each item its own id.")
        side, line = sides.setdefault(item.group, (side_of(item, spec), number))
        if side != side_of(item, spec):
            faults.append(f"Its unit is in {side} on line {line}. A unit is on one side only.")
        found += [Problem(ITEMS, number, fault) for fault in faults]
        if spent > MAX_CHECKING:
            said = (
                "To try this task's patterns on its targets takes too long. Write fewer, shorter."
            )
            found.append(Problem(ITEMS, number, said))
            break
    return found


def _readable(spec: TaskSpec) -> tuple[list[str], set[str]]:
    """The prompts that can be read, and every name in them."""
    prompts, names = [], set[str]()
    for template in filter(None, (*spec.prompts, spec.hint)):
        try:
            names |= names_in(template)
        except ValueError:
            continue
        prompts.append(template)
    return prompts, names
