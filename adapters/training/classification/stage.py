"""The training itself: transformers' Trainer on the base's sequence-classification class.

The label is read off the last token's hidden state, as vLLM does (pooling type LAST). Texts are
tokenised as `/classify` tokenises `input`: as they stand, with the tokenizer's own special tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import datasets
import torch
import transformers
from peft import (
    LoraConfig,
    PeftConfig,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file

from adapters.admission import WEIGHTS
from adapters.heads import HEAD
from adapters.recipe import Classify
from adapters.training.classification.rows import labels_of
from adapters.training.data import Corpus
from adapters.training.device import base_dtype
from adapters.training.fit import arguments, drawn, fit
from adapters.training.job import Job, Outcome
from adapters.training.models import tokenizer_of
from adapters.training.rows import Turn


def fine_tune(job: Job, corpus: Corpus[Turn], out: Path) -> Outcome:
    """Train LoRA and head on the corpus and save the adapter's tensors and configuration to `out`.

    The same recipe, data, base and versions give the same weights on the same kind of machine.
    """
    recipe = cast(Classify, job.recipe)
    labels = labels_of(recipe, corpus)
    transformers.set_seed(recipe.seed)
    tokenizer = tokenizer_of(job.base)
    model = classifier(job, labels, tokenizer)

    def encoded(rows: Sequence[Turn]) -> datasets.Dataset:
        ids = [tokenizer(row.question)["input_ids"] for row in rows]
        return datasets.Dataset.from_dict(
            {"input_ids": ids, "labels": [labels.index(row.answer) for row in rows]}
        )

    train = drawn(corpus.train, recipe.steps * recipe.batch, recipe.seed)
    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(**arguments(job)),
        train_dataset=encoded(train),
        eval_dataset=encoded(corpus.validation) if recipe.evaluate_every else None,
        data_collator=lambda rows: padded(rows, tokenizer.pad_token_id),
        processing_class=tokenizer,
    )
    return fit(trainer, job, out)


def classifier(job: Job, labels: Sequence[str], tokenizer: Any) -> Any:
    """The base with a new head and a new LoRA; or the LoRA of the adapter that is continued."""
    recipe = job.recipe
    base = transformers.AutoModelForSequenceClassification.from_pretrained(
        job.base,
        dtype=base_dtype(recipe),
        num_labels=len(labels),
        problem_type="single_label_classification",
    )
    base.config.pad_token_id = tokenizer.pad_token_id
    if not isinstance(getattr(base, HEAD, None), torch.nn.Linear):
        raise TypeError(f"{type(base).__name__} has no linear head called {HEAD!r}")
    if job.start is not None:
        config = PeftConfig.from_pretrained(job.start)
        config.task_type, config.inference_mode = "SEQ_CLS", False
        config.modules_to_save = [HEAD]
        continued = get_peft_model(base, config)
        # A head of other labels is of no use here; LoRA alone is continued.
        loras = {n: w for n, w in load_file(job.start / WEIGHTS).items() if ".lora_" in n}
        set_peft_model_state_dict(continued, get_peft_model_state_dict(continued) | loras)
        return continued
    config = LoraConfig(
        task_type="SEQ_CLS",
        modules_to_save=[HEAD],
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(recipe.target_modules),
        use_rslora=recipe.method == "rslora",
    )
    return get_peft_model(base, config)


def padded(rows: Sequence[dict[str, Any]], pad: int) -> dict[str, torch.Tensor]:
    """A batch, padded on the right. input_ids, attention_mask: (N, T); labels: (N,)."""
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[place, :length] = torch.tensor(row["input_ids"])
        mask[place, :length] = 1
    labels = torch.tensor([row["labels"] for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
