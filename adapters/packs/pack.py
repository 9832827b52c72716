"""What a domain pack is: a task with verifiable answers, its data, and how to ask."""

import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from adapters.packs.sources import Source

HELD_OUT_SHARE = 0.25
"""Share of the split units whose items are never trained on."""


class Item(msgspec.Struct, frozen=True):
    """One question with its reference answer."""

    text: str
    label: str
    unit: str
    """What the split keeps together: items of one unit are never on both sides."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """Items to train on and items to judge by, disjoint in their units and their texts."""

    train: tuple[Item, ...]
    held_out: tuple[Item, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over every item, in order: the data set's identity in provenance."""
        both = {"train": self.train, "held_out": self.held_out}
        return hashlib.sha256(msgspec.json.encode(both)).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainPack:
    """A domain's task: where its data comes from, how it is asked, what may be answered."""

    domain: str
    adapter: str
    title: str
    instruction: str
    """The question put before every item, one sentence."""
    noun: str
    """What an item is called in the prompt, such as `Diagnosis`."""
    labels: tuple[str, ...]
    """What may be answered; empty where there are too many to list."""
    sources: tuple[Source, ...]
    read: Callable[[], Iterable[Item]]
    """Every usable item of the sources, duplicates included, in a fixed order."""
    demo_text: str
    """The text of a held-out item whose answer any reader can check."""
    limits: str
    """What the adapter must not be used for; goes into its card."""
    per_label: tuple[int, int] = (400, 16)
    """At most so many items of one label in training and in the held-out set."""
    judged: int = 0
    """Held-out items of one label for judging, more than the pack keeps: some 600 in all where the
    source has as many. 0: those it keeps."""
    phrasings: tuple[str, ...] = ()
    """Other ways to put the instruction; each item is asked in one of them, always the same."""
    exam: bool = False
    """Whether every item is held out: for judging only."""

    def question(self, item: Item) -> str:
        """The user message that the adapter is trained and asked with."""
        return f"{self.asked(item)}\n\n{self.noun}: {item.text}"

    def asked(self, item: Item) -> str:
        """The phrasing that the item is asked in."""
        ways = (self.instruction, *self.phrasings)
        return ways[int(lot(f"phrasing {item.text}") * len(ways))]

    def question_with_labels(self, item: Item) -> str:
        """The same with the permitted answers listed, for a model that was not trained on them."""
        listed = "\n".join(f"- {label}" for label in self.labels)
        return (
            f"{self.asked(item)} Answer with exactly one of:\n{listed}\n\n{self.noun}: {item.text}"
        )

    def load(self) -> DataSet:
        """The data set, built from the sources; the same on every machine."""
        return _load(self)

    @property
    def demo_question(self) -> Item:
        """The held-out item that the demo asks."""
        return next(item for item in self.load().held_out if item.text == self.demo_text)


@functools.cache
def _load(pack: DomainPack) -> DataSet:
    if pack.exam:
        items = {item.text: item for item in pack.read()}
        return DataSet((), tuple(sorted(items.values(), key=lambda item: lot(item.text))))
    return split(pack.read(), pack.labels, pack.per_label)


def split(items: Iterable[Item], labels: Sequence[str], per_label: tuple[int, int]) -> DataSet:
    """Items split by unit, deduplicated by text, balanced by label, in a fixed random order.

    A text with two different labels is dropped: nobody could answer it. Raises `ValueError` for
    a label that is not among `labels`, if there are any.
    """
    by_text: dict[str, Item | None] = {}
    for item in items:
        if labels and item.label not in labels:
            raise ValueError(f"{item.label!r} is not a label of this task")
        known = by_text.setdefault(item.text.casefold(), item)
        if known is not None and known.label != item.label:
            by_text[item.text.casefold()] = None
    usable = sorted(filter(None, by_text.values()), key=lambda item: lot(item.text))
    sides: tuple[list[Item], list[Item]] = ([], [])
    counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for item in usable:
        side = int(lot(item.unit) < HELD_OUT_SHARE)
        if counts[side][item.label] < per_label[side]:
            counts[side][item.label] += 1
            sides[side].append(item)
    return DataSet(tuple(sides[0]), tuple(sides[1]))


def lot(text: str) -> float:
    """A number in 0..1 that looks random and is the same everywhere."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
