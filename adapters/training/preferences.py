"""The stages that learn from judged answers: reward model, DPO and KTO, all by TRL.

DPO and KTO compare with the model they start from: the adapter under `start`, of which TRL keeps a
frozen copy, or the bare base. The result is one LoRA adapter on the base either way.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer

from adapters.recipe import Dpo, Kto
from adapters.training.data import Corpus
from adapters.training.fit import arguments, drawn, fit
from adapters.training.job import Job, Outcome
from adapters.training.models import plain_prompt, policy, prompt_text, scorer, tokenizer_of
from adapters.training.rows import Judged, Pair


def reward(job: Job, corpus: Corpus[Pair], out: Path) -> Outcome:
    """A model that scores the preferred answer of a pair above the other (Bradley-Terry)."""
    transformers.set_seed(job.recipe.seed)
    tokenizer = tokenizer_of(job.base)
    model, peft_config = scorer(job)
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(**arguments(job), max_length=job.recipe.max_tokens),
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
    model, peft_config = policy(job)
    corpus = with_own_mistakes(model, tokenizer, corpus, recipe)
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(
            **arguments(job),
            max_length=recipe.max_tokens,
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
            max_length=recipe.max_tokens,
            beta=recipe.beta,
            desirable_weight=recipe.desirable_weight,
            undesirable_weight=recipe.undesirable_weight,
        ),
        processing_class=tokenizer,
        peft_config=peft_config,
        **_sets(job, corpus, tokenizer, _thumbed),
    )
    return fit(trainer, job, out)


def with_own_mistakes(
    model: Any, tokenizer: Any, corpus: Corpus[Pair], recipe: Dpo
) -> Corpus[Pair]:
    """The corpus, where pairs that nobody judged reject what the model itself answers wrongly.

    As in Chen et al., arXiv 2401.01335. Only pairs that training will see are asked.
    """
    seen = drawn(corpus.train, recipe.steps * recipe.batch, recipe.seed)
    prompts = list(dict.fromkeys(pair.prompt for pair in seen if not pair.judged))
    said = dict(zip(prompts, _answers(model, tokenizer, prompts), strict=True))

    def corrected(pair: Pair) -> Pair:
        answer = pair.chosen if pair.judged else said.get(pair.prompt, pair.chosen)
        return pair if answer == pair.chosen else replace(pair, rejected=answer)

    return replace(corpus, train=tuple(corrected(pair) for pair in corpus.train))


@torch.no_grad()
def _answers(
    model: Any, tokenizer: Any, prompts: Sequence[str], most: int = 48, batch: int = 16
) -> list[str]:
    """One answer to each prompt, drawn at temperature 1; from the seed, so a resumed training
    draws the same."""
    found: list[str] = []
    was_training = model.training
    model.eval()
    for begin in range(0, len(prompts), batch):
        texts = [prompt_text(tokenizer, prompt) for prompt in prompts[begin : begin + batch]]
        asked = tokenizer(
            texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        ).to(model.device)
        drawn_tokens = model.generate(
            **asked, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=most,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        )[:, asked["input_ids"].shape[1] :]  # fmt: skip
        found += tokenizer.batch_decode(drawn_tokens, skip_special_tokens=True)
    model.train(was_training)
    return [text.strip() for text in found]


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
