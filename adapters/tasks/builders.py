"""Items that are made from pinned sources instead of read from `items.jsonl`, by name.

Only data sets that Lorary ships have a builder: a task from elsewhere cannot name code to be run.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping

from adapters.packs import PACKS, TASKS, DomainPack
from adapters.packs import Item as Known
from adapters.packs.general import general_questions
from adapters.packs.pack import lot, split
from adapters.tasks.format import Item

CALIBRATION_SHARE = 1 / 3
"""Share of the held-out units that fit the calibration and count nowhere else."""
SMALL = 60
"""Items of the tasks that ask about something beside the point."""
EXAM = 120
"""Exam questions of a domain."""


@functools.cache
def divided(pack: DomainPack) -> tuple[tuple[Known, ...], tuple[Known, ...]]:
    """The held-out items that count, and those that fit the calibration, apart by unit.

    More than the pack keeps, from the same side of its split, where it says how many to judge by.
    """
    items: Iterable[Known] = pack.load().held_out
    if pack.judged:
        items = split(pack.read(), pack.labels, (pack.per_label[0], pack.judged)).held_out
    counted: list[Known] = []
    fitted: list[Known] = []
    for item in items:
        fits = lot(f"calibration {item.unit}") < CALIBRATION_SHARE
        (fitted if fits else counted).append(item)
    return tuple(counted), tuple(fitted)


def _specialist(pack: DomainPack) -> Iterator[Item]:
    """The demonstration's task: to train on, to judge by, to fit confidence; and the items of the
    other packs, to which no answer is right."""
    counted, fitted = divided(pack)
    for item in pack.load().train:
        yield Item(text=item.text, target=item.label, unit=item.unit, split="train")
    for item in counted:
        yield Item(text=item.text, target=item.label, unit=item.unit, split="held_out")
    for item in fitted:
        yield Item(text=item.text, target=item.label, unit=item.unit, split="calibration")
    others = [other for other in PACKS.values() if other is not pack]
    for other in others:
        for item in other.load().held_out[: SMALL // len(others)]:
            yield Item(
                id=f"of {other.domain}: {item.text}",
                text=item.text,
                unit=f"{other.domain} {item.unit}",
                split="unanswerable",
            )


def _without_answer(pack: DomainPack) -> Iterator[Item]:
    """Some held-out items, to be asked about in a way that no reference answers."""
    for item in divided(pack)[0][:SMALL]:
        yield Item(text=item.text, unit=item.unit, split="held_out")


def _exam(exam: DomainPack) -> Iterator[Item]:
    for item in exam.load().held_out[:EXAM]:
        yield Item(text=item.text, target=item.label, split="held_out")


def _general() -> Iterator[Item]:
    for row in general_questions():
        yield Item(text=row.question, target=row.answer, choices=row.choices, split="held_out")


BUILDERS: Mapping[str, Callable[[], Iterable[Item]]] = {
    **{name: functools.partial(_specialist, pack) for name, pack in PACKS.items()},
    **{f"{name}-codes": functools.partial(_without_answer, pack) for name, pack in PACKS.items()},
    **{name: functools.partial(_exam, pack) for name, pack in TASKS.items() if pack.exam},
    "general": _general,
}
