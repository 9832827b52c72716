"""What `task.yaml` and a row of `items.jsonl` may hold: strict, every field bounded. Pure.

A task is data: what is asked, in which words, and how an answer is scored. Nothing in it is run.
"""

import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from adapters.tasks.criteria import Criterion
from adapters.tasks.scoring import LETTERS, AnyScoring, Patterns, Text

MAX_ITEMS = 100_000
MAX_LABELS = 1000
MAX_PROMPT = 100_000
"""Characters of a prompt with its item filled in."""

Line = Annotated[str, Meta(min_length=1, max_length=300, pattern=r"^[^\n\r\x00]*$")]
Label = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\n\r\x00]*$")]
Template = Annotated[str, Meta(min_length=1, max_length=8000)]
Stop = Annotated[str, Meta(min_length=1, max_length=32)]
Key = Annotated[str, Meta(max_length=60, pattern=r"^[a-z][a-z0-9_]*$")]
Side = Literal["train", "held_out", "calibration", "unanswerable"]
"""Where an item counts: in training, in the judgement, in fitting confidence, or only in whether an
answer is withheld where none is right."""
LISTED = ("text", "labels", "choices")
"""What a template may hold besides an item's own fields."""


class Answering(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much may be answered, at temperature 0."""

    max_tokens: Annotated[int, Meta(ge=1, le=4096)] = 24
    stop: Annotated[tuple[Stop, ...], Meta(max_length=4)] = ("\n",)
    """Texts at which an answer ends."""


class Split(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How items are divided where they do not say so themselves: by unit, always the same way."""

    held_out: Annotated[float, Meta(ge=0, le=1)] = 0.25
    """Share of the units that are never trained on. 1 for an exam, which is for judging only."""
    calibration: Annotated[float, Meta(ge=0, le=0.9)] = 1 / 3
    """Share of the held-out units that fit confidence and count nowhere else."""


class Contaminated(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is done about held-out items that training shows."""

    exact: Literal["refuse", "report"] = "refuse"
    """The same text, but for case, punctuation and spacing."""
    passages: Literal["refuse", "report"] = "report"
    """A run of 13 words in common."""


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `task.yaml`."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    """Of the task, and of the suite that it makes."""
    about: Line
    licence: Line
    source: Annotated[str, Meta(min_length=1, max_length=2000)]
    """Where the items come from."""
    score: AnyScoring
    prompts: Annotated[tuple[Template, ...], Meta(max_length=16)] = ()
    """The first is the task; the others ask the same in other words."""
    labels: Annotated[tuple[Label, ...], Meta(max_length=MAX_LABELS)] = ()
    """What may be answered, if that is a closed set."""
    hint: Annotated[str, Meta(max_length=8000)] = ""
    """The prompt for a model that was never shown the permitted answers. By default the first
    prompt with the labels listed, unless it lists them itself."""
    unknown: Annotated[str, Meta(max_length=200)] = ""
    """The answer that means "not enough information"."""
    answer: Answering = Answering()
    split: Split = Split()
    contamination: Contaminated = Contaminated()
    builder: Annotated[str, Meta(max_length=60)] = ""
    """Makes the items instead of `items.jsonl`: the name of a data set that Lorary ships."""
    domain: Annotated[str, Meta(pattern=r"^([a-z0-9][a-z0-9-]{0,62})?$")] = ""
    """The domain whose versions it is for, unless a command says another."""


class Item(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question with what is known of its answer: a row of `items.jsonl`."""

    text: Annotated[str, Meta(min_length=1, max_length=20_000)]
    target: Annotated[str, Meta(max_length=4000)] = ""
    """The reference answer; none where `split` is unanswerable."""
    id: Annotated[str, Meta(max_length=200)] = ""
    """Names the item; by default its text."""
    unit: Annotated[str, Meta(max_length=200)] = ""
    """Items of one unit are alike: they are never on both sides of the split, and intervals account
    for them. By default each item is its own."""
    split: Side | None = None
    accepted: Annotated[tuple[Text, ...], Meta(max_length=50)] = ()
    choices: Annotated[tuple[Text, ...], Meta(max_length=len(LETTERS))] = ()
    match: Patterns = ()
    never: Patterns = ()
    criteria: Annotated[tuple[Criterion, ...], Meta(max_length=50)] = ()
    fields: Annotated[dict[Key, Annotated[str, Meta(max_length=8000)]], Meta(max_length=20)] = {}
    """Further texts that the prompts name."""

    @property
    def called(self) -> str:
        """The item's name: its id, else its text."""
        return self.id or self.text

    @property
    def group(self) -> str:
        """What the split keeps together."""
        return self.unit or self.called


def names_in(template: str) -> set[str]:
    """The names in braces; raises `ValueError` for what is no plain name, and for a lone brace."""
    found = set()
    for _, name, form, conversion in string.Formatter().parse(template):
        if name is None:
            continue
        if form or conversion or not name.isidentifier():
            raise ValueError(f"{{{name[:40]}...}} is no name. Write {{text}}, or double the braces")
        found.add(name)
    return found


def fill(template: str, item: Item, labels: Sequence[str], *, backwards: bool = False) -> str:
    """The prompt that a template makes of an item.

    backwards: list labels and choices in reverse order, with the letters still from A on. The
    template was checked by `names_in`; texts that stand in its place are never read as templates.
    """
    values: Mapping[str, Any] = {
        **item.fields,
        "text": item.text,
        "labels": listed_labels(_ordered(labels, backwards)),
        "choices": listed_choices(_ordered(item.choices, backwards)),
    }
    parts = []
    for literal, name, _, _ in string.Formatter().parse(template):
        parts += [literal, str(values[name]) if name is not None else ""]
    return "".join(parts)


class Lengths:
    """How long a template's prompts are, worked out without writing them: a few thousand letters of
    a template can ask for gigabytes."""

    def __init__(self, template: str, labels: Sequence[str]) -> None:
        """The template was checked by `names_in`."""
        parts = list(string.Formatter().parse(template))
        self._literal = sum(len(literal) for literal, *_ in parts)
        self._names = Counter(name for _, name, _, _ in parts if name is not None)
        self._labels = len(listed_labels(labels))

    def of(self, item: Item) -> int:
        """Characters of the prompt that asks `item`, whose fields have every name."""
        lengths = {
            **{name: len(text) for name, text in item.fields.items()},
            "text": len(item.text),
            "labels": self._labels,
            "choices": len(listed_choices(item.choices)),
        }
        return self._literal + sum(lengths[name] * n for name, n in self._names.items())


def listed_labels(labels: Sequence[str]) -> str:
    """What stands for `{labels}`."""
    return "\n".join(f"- {label}" for label in labels)


def listed_choices(choices: Sequence[str]) -> str:
    """What stands for `{choices}`."""
    return "\n".join(
        f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)
    )


def _ordered(parts: Sequence[str], backwards: bool) -> Sequence[str]:
    return parts[::-1] if backwards else parts
