"""The suites of a domain, made from its pack: the task itself, invented codes, what must not be
said, and general knowledge that training must not cost.
"""

import functools
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

import yaml

from adapters.packs import PACKS, TASKS, DomainPack, Item
from adapters.packs.general import general_questions
from adapters.packs.pack import lot, split
from adapters.tasks.scoring import Choice, Pattern
from eval.errors import UnknownSuite
from eval.suites.suite import Question, Suite, Task

PER_LABEL = {"medical": 30, "legal": 75, "financial": 60}
"""Held-out items of one label, about 600 in all where the source has as many: some three times as
many as the packs keep, from the same side of their split by unit."""
CALIBRATION_SHARE = 1 / 3
"""Share of the held-out units that fit the calibration and count nowhere else."""
SMALL = 60
"""Items of the tasks that ask the same again, or something beside the point."""

EXAM = 120
"""Exam questions of a domain."""

REPHRASED = {
    "medical": "Name the chapter of ICD-10-CM under which the following diagnosis is coded.",
    "legal": "Here is a legal citation. Say what kind of source it refers to.",
    "financial": "Name the section of a company's financial statements that reports this US-GAAP"
    " tag.",
}
CODES = {
    "medical": "Which ICD-10-CM code fits this diagnosis? Answer with the code.",
    "legal": "Cite one published United States case by volume, reporter and page that uses this"
    " source:",
    "financial": "Which US-GAAP taxonomy tag, in CamelCase, reports this?",
}


@functools.cache
def suites_of(domain: str) -> tuple[Suite, ...]:
    """Every suite of a domain that has a pack. Raises `UnknownSuite` for another domain."""
    if domain not in PACKS:
        raise UnknownSuite(
            f"Lorary ships no suites for domain {domain!r}, only for {', '.join(PACKS)}. Write a "
            "task of your own (lorary task new), and name its folder: --task FOLDER"
        )
    pack = PACKS[domain]
    counted, fitted = divided(pack)
    return (
        _task(pack, counted, fitted),
        _codes(pack, counted),
        _safety(domain),
        _general(domain),
        _exam(domain),
    )


def divided(pack: DomainPack) -> tuple[list[Item], list[Item]]:
    """The held-out items that count, and those that fit the calibration, apart by unit."""
    per_label = (pack.per_label[0], PER_LABEL[pack.domain])
    items = split(pack.read(), pack.labels, per_label).held_out
    fits = [lot(f"calibration {item.unit}") < CALIBRATION_SHARE for item in items]
    counted = [item for item, fit in zip(items, fits, strict=True) if not fit]
    return counted, [item for item, fit in zip(items, fits, strict=True) if fit]


def _task(pack: DomainPack, counted: Sequence[Item], fitted: Sequence[Item]) -> Suite:
    small = counted[:SMALL]
    listed = [_question(item, pack.question_with_labels(item)) for item in small]
    backwards = "\n".join(f"- {label}" for label in reversed(pack.labels))
    forwards = "\n".join(f"- {label}" for label in pack.labels)
    name = f"{pack.domain}-task"
    tasks = (
        Task(name=name, role="accuracy", questions=_asked(pack, counted)),
        Task(name=f"{name}-calibration", role="calibration", questions=_asked(pack, fitted)),
        Task(
            name=f"{name}-rephrased",
            role="rephrased",
            questions=tuple(
                _question(item, f"{REPHRASED[pack.domain]}\n\n{pack.noun}: {item.text}")
                for item in small
            ),
        ),
        Task(name=f"{name}-ordered", role="ordered", questions=tuple(listed)),
        Task(
            name=f"{name}-reordered",
            role="reordered",
            questions=tuple(
                Question(
                    id=question.id,
                    unit=question.unit,
                    prompt=question.prompt.replace(forwards, backwards),
                    target=question.target,
                )
                for question in listed
            ),
        ),
        Task(
            name=f"{name}-unanswerable", role="unanswerable", questions=tuple(_strangers(pack))
        ),
    )  # fmt: skip
    return Suite(
        name=name,
        domain=pack.domain,
        tasks=tasks,
        labels=pack.labels,
        about="accuracy, confident errors, abstention, other words, other order",
    )


def _asked(pack: DomainPack, items: Iterable[Item]) -> tuple[Question, ...]:
    return tuple(
        _question(item, pack.question(item), pack.question_with_labels(item)) for item in items
    )


def _question(item: Item, prompt: str, hinted: str = "") -> Question:
    return Question(id=item.text, unit=item.unit, prompt=prompt, target=item.label, hinted=hinted)


def _strangers(pack: DomainPack) -> Iterable[Question]:
    """Items of the other domains, put as if they were this one's: no answer is right."""
    others = [other for domain, other in PACKS.items() if domain != pack.domain]
    for other in others:
        for item in other.load().held_out[: SMALL // len(others)]:
            yield Question(id=item.text, unit=item.unit, prompt=pack.question(item))


def _codes(pack: DomainPack, counted: Sequence[Item]) -> Suite:
    questions = tuple(
        Question(
            id=item.text, unit=item.unit, prompt=f"{CODES[pack.domain]}\n\n{pack.noun}: {item.text}"
        )
        for item in counted[:SMALL]
    )
    name = f"{pack.domain}-codes"
    task = Task(name=name, role="validity", questions=questions, max_tokens=48, stop=("\n\n",))
    return Suite(
        name=name,
        domain=pack.domain,
        tasks=(task,),
        about="codes, citations and tags that do not exist",
    )


def _safety(domain: str) -> Suite:
    questions = tuple(
        Question(id=probe["prompt"], unit=probe["prompt"], prompt=probe["prompt"],
                 never=tuple(probe["unsafe"]))
        for probe in _data("safety.yaml")[domain]
    )  # fmt: skip
    name = f"{domain}-safety"
    task = Task(
        name=name,
        role="safety",
        questions=questions,
        max_tokens=96,
        stop=("\n\n\n",),
        scoring=Pattern(),
    )
    about = "what must not be said: a screen by patterns, no proof of safety"
    return Suite(name=name, domain=domain, tasks=(task,), about=about)


def _general(domain: str) -> Suite:
    questions = tuple(
        Question(
            id=row.question,
            unit=row.question,
            prompt=row.question,
            target=row.answer,
            choices=row.choices,
        )
        for row in general_questions()
    )
    name = f"{domain}-general"
    task = Task(name=name, role="accuracy", questions=questions, scoring=Choice(answer="mention"))
    about = "general knowledge that training must not cost"
    return Suite(name=name, domain=domain, tasks=(task,), about=about)


def _exam(domain: str) -> Suite:
    exam = TASKS[f"{domain}-exam"]
    questions = tuple(
        Question(id=item.text, unit=item.text, prompt=exam.question(item), target=item.label)
        for item in exam.load().held_out[:EXAM]
    )
    name = f"{domain}-exam"
    task = Task(name=name, role="accuracy", questions=questions, max_tokens=4)
    return Suite(
        name=name, domain=domain, tasks=(task,), labels=exam.labels, about=exam.title.lower()
    )


def _data(name: str) -> Any:
    return yaml.safe_load(files("eval.suites").joinpath("data", name).read_text())
