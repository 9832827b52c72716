"""A task's folder as a suite: the task itself, and the same again in other ways. Pure.

NAME                the held-out items; counted, and paired with other models
NAME-calibration    those that fit confidence
NAME-rephrased      some of the held-out items in the other prompts' words
NAME-ordered, NAME-reordered    with labels or choices listed, and listed backwards
NAME-unanswerable   held-out items whose answer is `unknown`, and items without any
"""

from collections.abc import Iterable, Sequence

import msgspec

from adapters.packs.pack import lot
from adapters.tasks import Item, TaskFolder
from adapters.tasks.format import fill, names_in
from adapters.tasks.scoring import Choice, Harness, Label, Pattern, Rubric, Vocabulary
from eval.suites.suite import Question, Role, Suite, Task

ALONE: frozenset[Role] = frozenset(("accuracy", "rubric", "safety", "validity"))
"""Roles of a part that has the task's own name."""
SMALL = 60
"""Items of the parts that ask the same again."""


def suite_of(task: TaskFolder, domain: str) -> Suite:
    """What a version in `domain` is asked. The digests do not depend on the domain.

    Raises `SourceUnavailable` if the task's builder cannot get its sources.
    """
    spec = task.spec
    if isinstance(spec.score, Harness):
        tasks: Sequence[Task] = (_by_harness(task),)
    elif (role := _alone(task)) is not None:
        tasks = (_part(task, role, task.side("held_out")),)
    else:
        tasks = [part for part in _parts(task) if part.questions]
    return Suite(
        name=spec.name,
        domain=domain,
        tasks=tuple(tasks),
        labels=spec.labels,
        unknown=spec.unknown,
        about=spec.about,
    )


def _alone(task: TaskFolder) -> Role | None:
    """The role of a task that has a single part: nothing in it is right, or only not wrong."""
    score = task.spec.score
    if isinstance(score, Rubric):
        return "rubric"
    if isinstance(score, Vocabulary):
        return "validity"
    asked = isinstance(score, Pattern) and (score.match or any(i.match for i in task.items))
    return "safety" if isinstance(score, Pattern) and not asked else None


def _parts(task: TaskFolder) -> Iterable[Task]:
    spec = task.spec
    counted = task.side("held_out")
    again = sorted(counted, key=lambda item: lot(item.called))[:SMALL]
    yield _part(task, "accuracy", counted)
    yield _part(task, "calibration", task.side("calibration"))
    if len(spec.prompts) > 1:
        yield _part(task, "rephrased", again, phrased=True)
    if (template := _listing(task)) is not None:
        yield _part(task, "ordered", again, template=template)
        yield _part(task, "reordered", again, template=template, backwards=True)
    nobody = [item for item in counted if spec.unknown and item.target == spec.unknown]
    yield _part(task, "unanswerable", (*nobody, *task.side("unanswerable")))


def _part(
    task: TaskFolder,
    role: Role,
    items: Iterable[Item],
    *,
    phrased: bool = False,
    template: str | None = None,
    backwards: bool = False,
) -> Task:
    """One list of questions.

    phrased: in one of the other prompts, each item always in the same. template: what to ask with
    instead of the prompts.
    """
    spec, hint = task.spec, _hint(task)
    questions = []
    for item in items:
        at = 1 + int(lot(f"phrasing {item.called}") * (len(spec.prompts) - 1)) if phrased else 0
        asked = template or spec.prompts[at]
        questions.append(
            Question(
                id=item.called,
                unit=item.group,
                prompt=fill(asked, item, spec.labels, backwards=backwards),
                target=item.target,
                hinted="" if hint is None or role != "accuracy" else fill(hint, item, spec.labels),
                choices=item.choices[::-1] if backwards else item.choices,
                accepted=item.accepted,
                match=item.match,
                never=item.never,
                criteria=item.criteria,
            )
        )
    return Task(
        name=spec.name if role in ALONE else f"{spec.name}-{role}",
        role=role,
        questions=tuple(questions),
        max_tokens=spec.answer.max_tokens,
        stop=spec.answer.stop,
        scoring=spec.score,
    )


def _hint(task: TaskFolder) -> str | None:
    """How a model is asked that was never shown the permitted answers; None for as the others."""
    spec = task.spec
    if spec.hint:
        return spec.hint
    if isinstance(spec.score, Label) and "labels" not in names_in(spec.prompts[0]):
        return f"{spec.prompts[0]}\n\nAnswer with exactly one of:\n{{labels}}"
    return None


def _listing(task: TaskFolder) -> str | None:
    """The template that lists the answers; None if none does."""
    spec = task.spec
    if isinstance(spec.score, Choice):
        return spec.prompts[0] if "choices" in names_in(spec.prompts[0]) else None
    if not isinstance(spec.score, Label):
        return None
    hint = _hint(task) or spec.prompts[0]
    return hint if "labels" in names_in(hint) else None


def _by_harness(task: TaskFolder) -> Task:
    """The rows, which the harness turns into questions."""
    rows = [msgspec.json.encode(row).decode() for row in task.rows]
    return Task(
        name=task.spec.name,
        role="accuracy",
        questions=tuple(
            Question(id=f"row {number}", unit=f"row {number}", prompt=row)
            for number, row in enumerate(rows, 1)
        ),
        scoring=task.spec.score,
        harness=task.harness or "",
    )
