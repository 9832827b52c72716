"""RLOO and GRPO by TRL: the same problem as our PPO, for comparison."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import transformers
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from adapters.recipe import Grouped, Rloo
from adapters.training.data import Corpus
from adapters.training.fit import arguments, drawn, fit
from adapters.training.job import Job, Outcome
from adapters.training.models import plain_prompt, policy, tokenizer_of
from adapters.training.rewards import Reward, reward_of
from adapters.training.rows import Turn


def group_relative(job: Job, corpus: Corpus[Turn], out: Path) -> Outcome:
    """Sample several answers to each prompt, and prefer those above their fellows' mean."""
    recipe = job.recipe
    assert isinstance(recipe, Grouped)  # noqa: S101 - run.py chose by it
    transformers.set_seed(recipe.seed)
    tokenizer = tokenizer_of(job.base)
    tokenizer.padding_side = "left"
    model, peft_config = policy(job)
    prompts = recipe.steps * recipe.batch // recipe.generations
    rows = drawn(corpus.train, prompts, recipe.seed)
    trainer_class, config = (
        (RLOOTrainer, RLOOConfig) if isinstance(recipe, Rloo) else (GRPOTrainer, GRPOConfig)
    )
    trainer = trainer_class(
        model=model,
        reward_funcs=_judge(reward_of(job, tokenizer), rows),
        args=config(
            **arguments(job),
            num_generations=recipe.generations,
            max_completion_length=recipe.max_new_tokens,
            beta=recipe.beta,
            shuffle_dataset=False,
            remove_unused_columns=False,
        ),
        train_dataset=datasets.Dataset.from_list(
            [
                {"prompt": plain_prompt(tokenizer, row.prompt), "row": number}
                for number, row in enumerate(rows)
            ]
        ),
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    return fit(trainer, job, out)


def _judge(reward: Reward, rows: Sequence[Turn]) -> Callable[..., list[float]]:
    """The reward as TRL calls it: `row` says which of `rows` each completion answers."""

    def judged(completions: list[str], row: list[int], **_: Any) -> list[float]:
        return reward([rows[number] for number in row], completions).tolist()

    return judged
