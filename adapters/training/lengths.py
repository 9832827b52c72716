"""Which rows fit a recipe's `max_tokens`, found out before training begins.

No row is ever cut: a prompt without its end lacks the assistant's header, an answer without its end
never learns to stop.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from adapters.recipe import BadRecipe, Online, Recipe
from adapters.training.data import Corpus
from adapters.training.models import encode, prompt_text, tokenizer_of
from adapters.training.rows import Row

R = TypeVar("R", bound=Row)
SHOWN = 5
"""Rows that a refusal names."""


def fitting(recipe: Recipe, corpus: Corpus[Any], base: Path) -> Corpus[Any]:
    """The corpus, without rows that are too long where the recipe says to drop them.

    Raises `BadRecipe` for rows that are too long otherwise, and for conversations that the base's
    chat template refuses or does not show whole.
    """
    tokenizer = tokenizer_of(base)
    if tokenizer.chat_template is None:
        raise BadRecipe(
            f"{base} has no chat template, so nothing says how it is asked. Use a chat model, or "
            "add its chat_template.jinja to the directory."
        )
    long: dict[str, int] = {}
    sides = [
        tuple(_fitting(recipe, rows, tokenizer, long))
        for rows in (corpus.train, corpus.validation, corpus.replay)
    ]
    if long and recipe.too_long == "refuse":
        raise BadRecipe(_refusal(recipe, long))
    train, validation, replay = sides
    if not train or (corpus.validation and not validation) or (corpus.replay and not replay):
        raise BadRecipe(f"Too few rows fit max_tokens={recipe.max_tokens}. Raise it.")
    return replace(corpus, train=train, validation=validation, replay=replay, dropped=len(long))


def _fitting(
    recipe: Recipe, rows: Iterable[R], tokenizer: Any, long: dict[str, int]
) -> Iterable[R]:
    """The rows that fit; `long` gets what each other one needs, by where it stands."""
    for row in rows:
        needed = tokens_of(recipe, row, tokenizer)
        if needed <= recipe.max_tokens:
            yield row
        else:
            long[row.where] = max(needed, long.get(row.where, 0))


def tokens_of(recipe: Recipe, row: Row, tokenizer: Any) -> int:
    """Tokens of a row's prompt and its longest answer, its end included; or of what is sampled.

    Raises `BadRecipe` if the chat template does not show the whole prompt.
    """
    _refuse_unshown(row, tokenizer)
    if isinstance(recipe, Online):
        return len(encode(tokenizer, row.prompt, "").prompt) + recipe.max_new_tokens
    examples = [encode(tokenizer, row.prompt, answer) for answer in row.answers]
    return max(len(example.prompt) + len(example.answer) for example in examples)


def _refuse_unshown(row: Row, tokenizer: Any) -> None:
    try:
        shown = prompt_text(tokenizer, row.prompt)
    except Exception as error:  # a template is a program: it raises what it likes
        raise BadRecipe(
            f"{row.where}: the base's chat template refuses the conversation: {error}. Change "
            "the row, such as by moving the system message into the user's."
        ) from error
    place = 0
    for number, message in enumerate(row.prompt, 1):
        found = shown.find(message.content.strip(), place)
        if found < 0:
            raise BadRecipe(
                f"{row.where}: the base's chat template does not show message {number} (by the "
                f"{message.role}) as it is written. Change the row, or use another base."
            )
        place = found + len(message.content.strip())


def _refusal(recipe: Recipe, long: dict[str, int]) -> str:
    named = ", ".join(f"{where} ({needed})" for where, needed in list(long.items())[:SHOWN])
    more = f" and {len(long) - SHOWN} more" if len(long) > SHOWN else ""
    what = "prompt and max_new_tokens" if isinstance(recipe, Online) else "prompt and answer"
    return (
        f"Longer than max_tokens={recipe.max_tokens} ({what}, in tokens): {named}{more}. Set "
        f"max_tokens={max(long.values())}, shorten them, or leave them out: too_long=drop."
    )
