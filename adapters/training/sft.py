"""Supervised fine-tuning: from prompts and answers to the weights of an adapter."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from trl import SFTConfig, SFTTrainer

from adapters.recipe import Sft
from adapters.training.data import Corpus
from adapters.training.fit import arguments, drawn, fit
from adapters.training.job import Job, Outcome
from adapters.training.models import encode, policy, tokenizer_of
from adapters.training.packing import IGNORED, Example, pack
from adapters.training.processes import count, share
from adapters.training.rows import Turn


def fine_tune(job: Job, corpus: Corpus[Turn], out: Path) -> Outcome:
    """Train on the corpus and save the adapter's tensors and configuration to `out`.

    The same recipe, data, base and versions give the same weights on the same kind of machine.
    """
    recipe = job.recipe
    assert isinstance(recipe, Sft)  # noqa: S101 - run.py chose by it
    transformers.set_seed(recipe.seed)
    tokenizer = tokenizer_of(job.base)
    model, peft_config = policy(job)

    def encoded(rows: Sequence[Turn]) -> list[Example]:
        return [encode(tokenizer, row.prompt, row.answer) for row in rows]

    # Virtual tokens stand before the sequence, where the packed mask has no place for them.
    packed = recipe.method not in ("prefix", "prompt")
    trainer = (_Packed if packed else _Padded)(
        model=model,
        args=SFTConfig(
            **{
                **arguments(job),
                "per_device_train_batch_size": 1,  # one row is one part of a batch
                "per_device_eval_batch_size": 1,
                "dataset_kwargs": {"skip_prepare_dataset": True},
                "remove_unused_columns": False,
            }
        ),
        train_dataset=_parts(map(encoded, batches(corpus.train, corpus.replay, recipe))),
        eval_dataset=_parts(map(encoded, _in_order(corpus.validation, recipe.batch)))
        if recipe.evaluate_every
        else None,
        processing_class=tokenizer,
        data_collator=_pack if packed else _pad,
        peft_config=peft_config,
    )
    return fit(trainer, job, out)


def batches(rows: Sequence[Turn], replayed: Sequence[Turn], recipe: Sft) -> list[list[Turn]]:
    """The parts of every step, drawn without repetition within an epoch."""
    general = round(recipe.batch * recipe.replay)
    each = recipe.batch - general
    own = drawn(rows, recipe.steps * each, recipe.seed)
    other = drawn(replayed, recipe.steps * general, recipe.seed)
    part = share(recipe)
    parts = []
    for step in range(recipe.steps):
        batch = own[step * each : (step + 1) * each]
        batch += other[step * general : (step + 1) * general]
        parts += _in_order(batch, part)
    return parts


def _in_order(rows: Sequence[Turn], batch: int) -> list[list[Turn]]:
    return [list(rows[i : i + batch]) for i in range(0, len(rows), batch)]


def _parts(examples: Iterable[Sequence[Example]]) -> datasets.Dataset:
    """One row per part."""
    parts = list(examples)
    return datasets.Dataset.from_dict(
        {
            "prompts": [[example.prompt for example in part] for part in parts],
            "answers": [[example.answer for example in part] for part in parts],
        }
    )


def _examples(rows: Sequence[dict[str, Any]]) -> list[Example]:
    (row,) = rows
    pairs = zip(row["prompts"], row["answers"], strict=True)
    return [Example(tuple(prompt), tuple(answer)) for prompt, answer in pairs]


def _pack(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return pack(_examples(rows))


def _pad(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """One example a row, padded on the right. All three: (N, T)."""
    examples = _examples(rows)
    width = max(len(example.prompt) + len(example.answer) for example in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, example in enumerate(examples):
        begin, end = len(example.prompt), len(example.prompt) + len(example.answer)
        ids[row, :end] = torch.tensor([*example.prompt, *example.answer])
        mask[row, :end] = 1
        labels[row, begin:end] = torch.tensor(example.answer)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _share_of_batch(loss: torch.Tensor, answered: Any, whole: Any) -> torch.Tensor:
    """A part's mean loss, weighed by its share of the batch's answer tokens.

    Gradients of several processes are averaged, so each counts as many times as there are.
    """
    return loss if whole is None else loss * (answered / whole * count())


class _Packed(SFTTrainer):  # type: ignore[misc] # trl ships no types for it
    """Projects onto the vocabulary only where an answer's token is predicted."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        *_: Any,
        num_items_in_batch: Any = None,
        **__: Any,
    ) -> torch.Tensor:
        """Mean cross entropy over the batch's answer tokens, this part's share of it."""
        labels = inputs.pop("labels")[0]
        predicting = (labels[1:] != IGNORED).nonzero().squeeze(1)
        logits = model(**inputs, logits_to_keep=predicting).logits[0]
        loss = torch.nn.functional.cross_entropy(logits.float(), labels[predicting + 1])
        return _share_of_batch(loss, len(predicting), num_items_in_batch)


class _Padded(SFTTrainer):  # type: ignore[misc] # trl ships no types for it
    """The ordinary loss, for methods that put virtual tokens before the sequence."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        *_: Any,
        num_items_in_batch: Any = None,
        **__: Any,
    ) -> torch.Tensor:
        """Mean cross entropy over the batch's answer tokens, this part's share of it."""
        answered = (inputs["labels"][:, 1:] != IGNORED).sum()
        loss: torch.Tensor = model(**inputs).loss
        return _share_of_batch(loss, answered, num_items_in_batch)
