"""Labelled texts: from domain packs, JSON Lines files and the hub, with the labels of the head.

A row is `{"text": ..., "label": ...}`; `{"prompt": ..., "completion": ...}` is the same. The text
is what a caller later sends to `/classify`, without instruction or chat template.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from adapters.admission import DEFAULT_LIMITS
from adapters.heads import wrong_label
from adapters.packs import DomainPack, Item
from adapters.recipe import BadRecipe, Classify
from adapters.training.conversations import asking, refuse_unread
from adapters.training.data import Corpus, read_corpus, unit_of
from adapters.training.rows import Turn

KEYS = (("text", "label"), ("prompt", "completion"))
SHOWN = 5
"""Rows that a refusal names."""


def corpus_of(recipe: Classify) -> Corpus[Turn]:
    """The rows, whose answers are labels.

    Raises `BadRecipe` for a row without text or label, and for labels that no head may have.
    """
    corpus = read_corpus(recipe, _of_pack, _of_row)
    labels_of(recipe, corpus)
    return corpus


def fitting(recipe: Classify, corpus: Corpus[Turn], tokenizer: Any) -> Corpus[Turn]:
    """The corpus without texts above `max_tokens`; raises `BadRecipe` if they are to be refused."""
    long: dict[str, int] = {}

    def fits(row: Turn) -> bool:
        needed = len(tokenizer(row.question)["input_ids"])
        if needed > recipe.max_tokens:
            long[row.where] = needed
        return needed <= recipe.max_tokens

    train = tuple(row for row in corpus.train if fits(row))
    validation = tuple(row for row in corpus.validation if fits(row))
    if long and recipe.too_long == "refuse":
        named = ", ".join(f"{where} ({n})" for where, n in list(long.items())[:SHOWN])
        raise BadRecipe(
            f"{len(long)} texts are longer than max_tokens={recipe.max_tokens}: {named}. Set "
            f"max_tokens={max(long.values())}, shorten them, or leave them out: too_long=drop."
        )
    if not train or (corpus.validation and not validation):
        raise BadRecipe(f"Too few texts fit max_tokens={recipe.max_tokens}. Raise it.")
    return replace(corpus, train=train, validation=validation, dropped=len(long))


def labels_of(recipe: Classify, corpus: Corpus[Turn]) -> tuple[str, ...]:
    """The labels in the order of the head's rows; raises as `corpus_of`."""
    rows = (*corpus.train, *corpus.validation)
    used = {row.answer for row in rows}
    known = recipe.labels
    if not known and len(corpus.packs) == len(recipe.data) == 1:
        known = corpus.packs[0].labels
    labels = known or tuple(sorted(used))
    if unknown := next((row for row in rows if row.answer not in labels), None):
        raise BadRecipe(
            f"{unknown.where}: {unknown.answer[:80]!r} is not among the labels. Correct the "
            "row, or name the label under `labels`."
        )
    if len(labels) < 2:
        raise BadRecipe(
            "All rows have one label, so there is nothing to tell apart. Name more data."
        )
    if len(labels) > DEFAULT_LIMITS.max_labels:
        raise BadRecipe(
            f"There are {len(labels)} labels; a head may have {DEFAULT_LIMITS.max_labels}. "
            "If the labels are free text, train with stage sft."
        )
    if wrong := next(filter(None, map(wrong_label, labels)), None):
        raise BadRecipe(f"{wrong} Change the label.")
    return labels


def _of_pack(_: DomainPack, items: Sequence[Item]) -> Iterator[Turn]:
    for item in items:
        yield Turn(asking(item.text), item.unit, item.label)


def _of_row(row: dict[str, Any]) -> Iterable[Turn]:
    text_key, label_key = next((keys for keys in KEYS if keys[0] in row), KEYS[0])
    text, label = row[text_key], row[label_key]
    for key, value in ((text_key, text), (label_key, label)):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"its {key} is no text, or empty")
    prompt = asking(text)
    refuse_unread(row, (text_key, label_key), (text, label))
    return [Turn(prompt, unit_of(row, prompt), label)]
