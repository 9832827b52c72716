"""Whether held-out items were seen in training: the same text, or a long passage in common.

Exact means equal but for case, punctuation and spacing. A passage is a run of 13 words, as in
Brown et al. (arXiv 2005.14165, appendix C); a shorter text counts where all of it is within a
training text. Only what crosses the split is looked for: items of one unit are on one side.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from adapters.packs.pack import HELD_OUT_SHARE, DataSet, DomainPack, Item, lot

PASSAGE = 13
"""Words."""
MIN_WHOLE = 8
"""A text of fewer words says too little to be called a passage of another."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Contamination:
    """Held-out items that training shows, and the split units they belong to."""

    exact: tuple[Item, ...]
    passages: tuple[Item, ...]
    checked: int

    @property
    def units(self) -> frozenset[str]:
        """The units to leave out of a judgement."""
        return frozenset(item.unit for item in (*self.exact, *self.passages))

    @property
    def said(self) -> str:
        """For the data card."""
        return (
            f"{len(self.exact)} of {self.checked} held-out items have their text in training, "
            f"{len(self.passages)} more share a passage of {PASSAGE} words; "
            f"{len(self.units)} split units are concerned."
        )


def contamination(data: DataSet, trained_on: Sequence[str] = ()) -> Contamination:
    """Look for the held-out items in the training items and in any other texts trained on."""
    texts = [_words(text) for text in (*(item.text for item in data.train), *trained_on)]
    whole = {tuple(words) for words in texts}
    lengths = {
        min(PASSAGE, len(words)) for item in data.held_out if (words := _words(item.text))
    } - set(range(MIN_WHOLE))
    seen = {n: {run for words in texts for run in _runs(words, n)} for n in lengths}
    exact, passages = [], []
    for item in data.held_out:
        words = _words(item.text)
        if tuple(words) in whole:
            exact.append(item)
        elif any(run in seen.get(min(PASSAGE, len(words)), ()) for run in _runs(words, PASSAGE)):
            passages.append(item)
    return Contamination(tuple(exact), tuple(passages), len(data.held_out))


def held_out_texts(pack: DomainPack) -> frozenset[tuple[str, ...]]:
    """The words of every text on the held-out side of a task's split.

    Also of items that the task leaves out as too many of one label: their units are held out.
    """
    held = (item for item in pack.read() if pack.exam or lot(item.unit) < HELD_OUT_SHARE)
    return frozenset(words(item.text) for item in held)


def among(text: str, held: Collection[tuple[str, ...]]) -> bool:
    """Whether `held` has the text: equal but for case, punctuation and spacing."""
    return words(text) in held


def words(text: str) -> tuple[str, ...]:
    """A text's words, without case, punctuation and spacing."""
    return tuple(_words(text))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _runs(words: list[str], length: int) -> Iterator[tuple[str, ...]]:
    """Every run of `length` words; the whole text if it is shorter."""
    n = min(length, len(words))
    for begin in range(len(words) - n + 1):
        yield tuple(words[begin : begin + n])
