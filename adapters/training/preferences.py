"""The stages that learn from judged answers: reward model, DPO and KTO, all by TRL.

DPO and KTO compare with the model they start from: the adapter under `start`, of which TRL keeps a
frozen copy, or the bare base. The result is one LoRA adapter on the base either way.

TRL would cut or leave out rows above its `max_length` without a word; lengths.py has seen to them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import transformers
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer

from adapters.recipe import Dpo, Kto
from adapters.training.data import Corpus
from adapters.training.fit import arguments, drawn, fit
from adapters.training.job import Job, Outcome
from adapters.training.mistakes import with_own_mistakes
from adapters.training.models import plain_prompt, policy, scorer, tokenizer_of
from adapters.training.rows import Judged, Pair


def reward(job: Job, corpus: Corpus[Pair], out: Path) -> Outcome:
    """A model that scores the preferred answer of a pair above the other (Bradley-Terry)."""
    transformers.set_seed(job.recipe.seed)
    tokenizer = tokenizer_of(job.base)
    corpus = with_own_mistakes(job, corpus, tokenizer)
    model, peft_config = scorer(job)
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(**arguments(job), max_length=None),
        processing_class=tokenizer,
        peft_config=peft_config,
        **_sets(job, corpus, tokenizer, _paired),
    )
    return fit(trainer, job, out)


def dpo(job: Job, corpus: Corpus[Pair], out: Path) -> Outcome:
    """Raise the preferred answer's likelihood over the other's, relative to the start."""
    recipe = job.recipe
    assert isinstance(recipe, Dpo)  # noqa: S101 - run.py chose by it
    transformers.set_seed(recipe.seed)
    tokenizer = tokenizer_of(job.base)
    corpus = with_own_mistakes(job, corpus, tokenizer)
    model, peft_config = policy(job)
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(
            **arguments(job),
            max_length=None,
            beta=recipe.beta,
            loss_type=["sigmoid", "sft"],
            loss_weights=[1.0, recipe.likelihood],
        ),
        processing_class=tokenizer,
        peft_config=peft_config,
        **_sets(job, corpus, tokenizer, _paired),
    )
    return fit(trainer, job, out)


def kto(job: Job, corpus: Corpus[Judged], out: Path) -> Outcome:
    """The same aim where an answer was only called good or bad."""
    recipe = job.recipe
    assert isinstance(recipe, Kto)  # noqa: S101 - run.py chose by it
    transformers.set_seed(recipe.seed)
    tokenizer = tokenizer_of(job.base)
    model, peft_config = policy(job)
    trainer = KTOTrainer(
        model=model,
        args=KTOConfig(
            **arguments(job),
            max_length=None,
            beta=recipe.beta,
            desirable_weight=recipe.desirable_weight,
            undesirable_weight=recipe.undesirable_weight,
        ),
        processing_class=tokenizer,
        peft_config=peft_config,
        **_sets(job, corpus, tokenizer, _thumbed),
    )
    return fit(trainer, job, out)


def _sets(job: Job, corpus: Corpus[Any], tokenizer: Any, columns: Any) -> dict[str, Any]:
    """The rows of every step in the order of the steps, and the validation rows if wanted."""
    recipe = job.recipe
    train = drawn(corpus.train, recipe.steps * recipe.batch, recipe.seed)
    held_out = corpus.validation if recipe.evaluate_every else ()
    return {
        "train_dataset": datasets.Dataset.from_list(columns(tokenizer, train)),
        "eval_dataset": datasets.Dataset.from_list(columns(tokenizer, held_out))
        if held_out
        else None,
    }


def _paired(tokenizer: Any, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    return [
        {
            "prompt": plain_prompt(tokenizer, pair.prompt),
            "chosen": pair.chosen,
            "rejected": pair.rejected,
        }
        for pair in pairs
    ]


def _thumbed(tokenizer: Any, rows: Sequence[Judged]) -> list[dict[str, Any]]:
    return [
        {
            "prompt": plain_prompt(tokenizer, row.prompt),
            "completion": row.answer,
            "label": row.good,
        }
        for row in rows
    ]
