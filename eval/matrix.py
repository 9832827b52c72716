"""Every specialist, and the base model, on every domain's held-out items, through the served API.

A row that is best only in its own column proves that requests reached the adapter they named.
What is asked is what an app would ask: chat completions at temperature 0, the answer held to the
domain's labels by the server's structured output, for every model alike. A model that was not
trained on a domain gets the list of labels in its prompt.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import openai

from adapters.packs import DomainPack, Item
from eval.statistics import Proportion, wilson


@dataclass(frozen=True, slots=True)
class Cell:
    """One model on one domain."""

    model: str
    domain: str
    score: Proportion


async def measure(
    client: openai.AsyncOpenAI,
    models: Mapping[str, str],
    held_out: Mapping[str, tuple[DomainPack, Sequence[Item]]],
    *,
    concurrency: int = 16,
    asked: Callable[[], None] = lambda: None,
) -> list[Cell]:
    """Accuracy of each model on each domain.

    models: the name to request, and the domain it was trained for ("" for the base model).
    held_out: by domain, its pack and the items to ask. `asked` is called after every answer.
    Raises `openai.OpenAIError` if the server refuses or fails.
    """
    limit = asyncio.Semaphore(concurrency)

    async def correct(model: str, own: bool, pack: DomainPack, item: Item) -> bool:
        async with limit:
            label = await answer(client, model, pack, item, with_labels=not own)
        asked()
        return label == item.label

    cells = []
    for model, trained_for in models.items():
        for domain, (pack, items) in held_out.items():
            own = domain == trained_for
            right = await asyncio.gather(*(correct(model, own, pack, item) for item in items))
            cells.append(Cell(model, domain, wilson(sum(right), len(items))))
    return cells


async def answer(
    client: openai.AsyncOpenAI, model: str, pack: DomainPack, item: Item, *, with_labels: bool
) -> str:
    """The label that `model` gives to `item`."""
    question = pack.question_with_labels(item) if with_labels else pack.question(item)
    reply = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_completion_tokens=32,
        extra_body={"structured_outputs": {"choice": list(pack.labels)}},
    )
    return (reply.choices[0].message.content or "").strip()
