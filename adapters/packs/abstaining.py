"""An explicit class for what cannot be answered, so that abstaining can be learnt and measured.

Questions without an answer are made from the task's own items: of a text, the longest run of words
is kept that tell nothing, those which occur under many different labels ("other chronic
disorders"). They stay in their item's split unit. What is learnt is to abstain from such texts;
nonsense and other domains' questions are not among them.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Set

from adapters.packs.pack import Item, lot

UNKNOWN = "Not enough information"
MIN_WORDS = 2
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
_JOINING = frozenset(
    ("a", "all", "an", "and", "any", "as", "at", "by", "due", "except", "excluding", "for", "from",
     "in", "including", "into", "no", "not", "nos", "of", "on", "or", "other", "others",
     "specified", "than", "the", "to", "unspecified", "with", "without")
)  # fmt: skip
"""Words that say nothing by themselves in any domain."""
_DANGLING = _JOINING - {"all", "any", "other", "specified", "unspecified"}
"""Those with which no phrase begins or ends."""


def with_unanswerable(items: Iterable[Item], vague: Set[str], *, share: float) -> Iterator[Item]:
    """The items, and for at most `share` of them what is left when their telling words are gone."""
    known = list(items)
    texts = {item.text.casefold() for item in known}
    wanted = round(share * len(known))
    made = 0
    yield from known
    for item in sorted(known, key=lambda item: lot(f"unanswerable {item.text}")):
        text = untold(item.text, vague)
        if made < wanted and text and text.casefold() not in texts:
            texts.add(text.casefold())
            made += 1
            yield Item(text, UNKNOWN, item.unit)


def vague_words(items: Iterable[Item], *, spread: float) -> frozenset[str]:
    """Words that occur under at least that share of the labels, in lower case."""
    labels: dict[str, set[str]] = defaultdict(set)
    everywhere: set[str] = set()
    for item in items:
        everywhere.add(item.label)
        for word in _WORD.findall(item.text):
            labels[word.casefold()].add(item.label)
    least = spread * len(everywhere)
    return frozenset(word for word, found in labels.items() if len(found) >= least)


def untold(text: str, vague: Set[str]) -> str:
    """The longest run of vague words in a text, or "" if it is no phrase."""
    runs: list[list[str]] = [[]]
    for word in _WORD.findall(text):
        if word.casefold() in vague | _JOINING:
            runs[-1].append(word)
        else:
            runs.append([])
    run = max(runs, key=len)
    while run and run[-1].casefold() in _DANGLING:
        run.pop()
    while run and run[0].casefold() in _DANGLING:
        run.pop(0)
    if len(run) < MIN_WORDS or all(word.casefold() in _JOINING for word in run):
        return ""
    phrase = " ".join(run)
    return phrase[0].upper() + phrase[1:]
