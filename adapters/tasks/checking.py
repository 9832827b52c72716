"""A sound task's items: counts, what training shows of them, what is odd. Pure.

What `lorary task check` prints, and what an evaluation refuses to begin with.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adapters.packs.contamination import contamination
from adapters.packs.pack import DataSet
from adapters.packs.pack import Item as Plain
from adapters.tasks.folder import ITEMS, SPEC, InvalidTask, TaskFolder, side_of
from adapters.tasks.format import Item, Side
from adapters.tasks.scoring import Harness
from adapters.tasks.strict_yaml import Problem

FEW = 100
"""Held-out items below which an interval is wider than most policies can use."""
SIDES: tuple[Side, ...] = ("train", "held_out", "calibration")


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found."""

    items: dict[str, int]
    """By side of the split."""
    units: dict[str, int]
    labels: dict[str, dict[str, int]]
    """By label: how many items on each side."""
    exact: int
    """Held-out items whose text is in training."""
    passages: int
    """Further ones that share a passage with training."""
    problems: tuple[Problem, ...]
    """Why the task cannot be used."""
    remarks: tuple[Problem, ...]
    """What its author should look at."""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "items": self.items,
            "units": self.units,
            "labels": self.labels,
            "contamination": {"exact": self.exact, "passages": self.passages},
            "problems": [str(problem) for problem in self.problems],
            "remarks": [str(remark) for remark in self.remarks],
        }


def check(task: TaskFolder) -> Checked:
    """Count, and look for held-out items that training shows.

    Raises `SourceUnavailable` if the task has a builder whose sources cannot be had.
    """
    spec = task.spec
    if isinstance(spec.score, Harness):
        rows = {"train": 0, "held_out": len(task.rows), "calibration": 0}
        return Checked(rows, rows, {}, 0, 0, _none_held_out(rows), ())
    sides: dict[str, Sequence[Item]] = {side: task.side(side) for side in SIDES}
    counts = {side: len(items) for side, items in sides.items()}
    labels: dict[str, dict[str, int]] = {
        label: dict.fromkeys(sides, 0) for label in spec.labels or ()
    }
    for side, items in sides.items():
        for target, n in Counter(item.target for item in items).items():
            if target in labels:
                labels[target][side] = n
    train, judged = (
        tuple(Plain(item.text, item.target, item.group) for item in items)
        for items in (sides["train"], (*sides["held_out"], *sides["calibration"]))
    )
    seen = contamination(DataSet(train, judged))
    problems = list(_none_held_out(counts))
    remarks: list[Problem] = []
    for found, rule, what in (
        (seen.exact, spec.contamination.exact, "has its text in training"),
        (seen.passages, spec.contamination.passages, "shares a passage of 13 words with training"),
    ):
        bad = {(item.text, item.unit) for item in found}
        (problems if rule == "refuse" else remarks).extend(
            Problem(ITEMS, number, f"This held-out item {what}. Put both into one unit.")
            for number, item in task.placed()
            if (item.text, item.group) in bad and side_of(item, spec) in ("held_out", "calibration")
        )
    problems += _contradictions(task)
    remarks += _remarks(task, counts, labels)
    return Checked(
        items=counts,
        units={side: len({item.group for item in items}) for side, items in sides.items()},
        labels=labels,
        exact=len(seen.exact),
        passages=len(seen.passages),
        problems=tuple(sorted(problems)),
        remarks=tuple(sorted(remarks)),
    )


def usable(task: TaskFolder) -> Checked:
    """The same; raises `InvalidTask` if there is a problem."""
    found = check(task)
    if found.problems:
        raise InvalidTask(found.problems)
    return found


def _none_held_out(counts: dict[str, int]) -> tuple[Problem, ...]:
    if counts["held_out"]:
        return ()
    said = "No item is held out, so there is nothing to judge by. Add units, or raise split."
    return (Problem(ITEMS, 0, said),)


def _contradictions(task: TaskFolder) -> list[Problem]:
    """Items with the same text and different targets, which no answer can satisfy."""
    first: dict[str, tuple[int, str]] = {}
    found = []
    for number, item in task.placed():
        if item.split == "unanswerable":
            continue
        asked = "\n".join((item.text, *item.choices, *item.fields.values())).casefold()
        line, target = first.setdefault(asked, (number, item.target))
        if target != item.target:
            said = f"It asks what line {line} asks, with another target."
            found.append(Problem(ITEMS, number, said))
    return found


def _remarks(
    task: TaskFolder, counts: dict[str, int], labels: dict[str, dict[str, int]]
) -> list[Problem]:
    spec, found = task.spec, []
    if 0 < counts["held_out"] < FEW:
        said = (
            f"Only {counts['held_out']} items are held out: a share of 80 % has an interval of "
            f"about {_width(counts['held_out']):.0f} points to each side."
        )
        found.append(Problem(ITEMS, 0, said))
    if counts["train"] and not all(item.unit for item in task.items):
        said = "Items have no unit: near duplicates may be on both sides of the split."
        found.append(Problem(ITEMS, 0, said))
    for label, sides in labels.items():
        if not sides["held_out"]:
            found.append(Problem(SPEC, 0, f"No held-out item has the label {label!r}."))
        elif counts["train"] and not sides["train"]:
            found.append(Problem(SPEC, 0, f"No item to train on has the label {label!r}."))
    if len(spec.prompts) == 1:
        said = "It has one prompt: whether other words change the answer is not measured."
        found.append(Problem(SPEC, 0, said))
    if counts["calibration"] < 2 and counts["held_out"]:
        said = "Too few items fit the calibration, so that confidence is not measured."
        found.append(Problem(SPEC, 0, said))
    return found


def _width(n: int) -> float:
    """Half the width, in points, of a 95 % interval at 80 %."""
    return float(100 * 1.96 * (0.16 / n) ** 0.5)
