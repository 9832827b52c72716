"""Every specialist, and the base model, on every domain's held-out items, through the served API.

A row that is best only in its own column proves that requests reached the adapter they named.
What is asked is what an app would ask: chat completions at temperature 0, the answer held to the
task's labels by the server's structured output, for every model alike. A model that was not
trained on a domain gets the list of labels in its prompt.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import openai

from adapters.packs import Item
from adapters.tasks import TaskFolder
from adapters.tasks.scoring import Label
from eval.errors import UnknownSuite
from eval.statistics import Proportion, wilson
from eval.suites import suite_of
from eval.suites.suite import Question


@dataclass(frozen=True, slots=True)
class Cell:
    """One model on one domain."""

    model: str
    domain: str
    right: tuple[bool, ...]
    """By item, whether it was answered correctly: what paired tests need."""

    @property
    def score(self) -> Proportion:
        """The share of correct answers, with its interval."""
        return wilson(sum(self.right), len(self.right))


@dataclass(frozen=True, slots=True)
class Column:
    """One domain's task: what is asked, what may be answered, and what a plain text classifier
    learns from and answers."""

    domain: str
    labels: tuple[str, ...]
    questions: tuple[Question, ...]
    train: tuple[Item, ...]
    held_out: tuple[Item, ...]
    """The items of the questions, in their order."""


def column(task: TaskFolder, n: int) -> Column:
    """The task's column, with its first `n` held-out items.

    Raises `UnknownSuite` for a task without a domain, that has no labels to be answered with,
    or no items on one side, and `SourceUnavailable` as `suite_of`.
    """
    spec = task.spec
    if not spec.domain:
        raise UnknownSuite(f"The task {spec.name} has no domain. Write `domain` in task.yaml.")
    asked = suite_of(task, spec.domain).task("accuracy")
    train, held_out = (
        tuple(Item(item.text, item.target, item.group) for item in task.side(side))
        for side in ("train", "held_out")
    )
    if not isinstance(spec.score, Label) or asked is None or not train or not held_out:
        raise UnknownSuite(
            f"The task {spec.name} has no labels, or no items to train on and to judge by, which "
            "the matrix takes. Choose a task of kind label that is no exam."
        )
    return Column(spec.domain, spec.labels, asked.questions[:n], train, held_out[:n])


async def measure(
    client: openai.AsyncOpenAI,
    models: Mapping[str, str],
    columns: Sequence[Column],
    *,
    concurrency: int = 16,
    asked: Callable[[], None] = lambda: None,
) -> list[Cell]:
    """Accuracy of each model on each domain.

    models: the name to request, and the domain it was trained for ("" for the base model).
    `asked` is called after every answer. Raises `openai.OpenAIError` if the server refuses or
    fails.
    """
    limit = asyncio.Semaphore(concurrency)

    async def correct(model: str, own: bool, on: Column, question: Question) -> bool:
        async with limit:
            label = await answer(client, model, on.labels, question, with_labels=not own)
        asked()
        return label == question.target

    cells = []
    for model, trained_for in models.items():
        for one in columns:
            own = one.domain == trained_for
            right = await asyncio.gather(*(correct(model, own, one, q) for q in one.questions))
            cells.append(Cell(model, one.domain, tuple(right)))
    return cells


async def answer(
    client: openai.AsyncOpenAI,
    model: str,
    labels: Sequence[str],
    question: Question,
    *,
    with_labels: bool,
) -> str:
    """The label that `model` gives."""
    asked = question.hinted if with_labels and question.hinted else question.prompt
    reply = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": asked}],
        temperature=0,
        max_completion_tokens=32,
        extra_body={"structured_outputs": {"choice": list(labels)}},
    )
    return (reply.choices[0].message.content or "").strip()
