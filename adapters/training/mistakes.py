"""Preference pairs from a model's own mistakes, where nobody judged.

A wrong answer that the model would never give teaches it nothing. So the model that training starts
from answers each prompt: the pair rejects what of it is wrong, and a prompt that was answered right
has nothing to prefer. As in Pang et al., arXiv 2404.19733, but that the preferred answer is always
the reference answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from adapters.recipe import BadRecipe
from adapters.training.answering import load
from adapters.training.data import Corpus
from adapters.training.device import base_dtype, device
from adapters.training.fit import drawn
from adapters.training.job import Job
from adapters.training.models import encode
from adapters.training.rollouts import draw
from adapters.training.rows import Pair

MOST = 24
"""Tokens of an answer."""
ASKED = 32
"""Prompts asked at once."""


def with_own_mistakes(job: Job, corpus: Corpus[Pair], tokenizer: Any) -> Corpus[Pair]:
    """The corpus, where pairs that nobody judged reject a mistake of the model started from.

    No more prompts are asked than training needs. Pairs that somebody judged stay as they are, and
    all pairs where training starts from the bare base, which does not know the task yet. Raises
    `BadRecipe` if the model makes no mistakes.
    """
    recipe = job.recipe
    if job.start is None or all(pair.judged for pair in corpus.train):
        return corpus
    model = load(job.base, job.start, base_dtype(recipe)).to(device())

    def said(asked: Sequence[Pair]) -> dict[Pair, str]:
        if not asked:
            return {}
        prompts = [encode(tokenizer, p.prompt, "").prompt for p in asked]
        answers = draw(model, prompts, MOST, tokenizer.pad_token_id, tokenizer.eos_token_id).answers
        texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
        return dict(zip(asked, map(str.strip, texts), strict=True))

    def pairs(among: Sequence[Pair]) -> Iterator[Pair]:
        for begin in range(0, len(among), ASKED):
            part = among[begin : begin + ASKED]
            answered = said([pair for pair in part if not pair.judged])
            for pair in part:
                if pair.judged:
                    yield pair
                elif answered[pair].casefold() != pair.chosen.casefold():
                    yield replace(pair, rejected=answered[pair])

    in_turn = drawn(corpus.train, len(corpus.train), recipe.seed)
    train = tuple(islice(pairs(in_turn), recipe.steps * recipe.batch))
    validation = tuple(pairs(corpus.validation)) if recipe.evaluate_every else ()
    if not train or (recipe.evaluate_every and not validation):
        raise BadRecipe(
            f"{recipe.start} answers every prompt right: there is nothing to prefer. "
            "Name other data, or judged pairs: data=judged.jsonl."
        )
    return replace(corpus, train=train, validation=validation)
