"""Supervised fine-tuning: from a domain pack to the weights of a LoRA adapter."""

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from adapters.packs import DomainPack, Item
from adapters.recipe import Recipe
from adapters.training.packing import IGNORED, Example, pack

Progress = Callable[[int, int, float], None]
"""Called after each step with the step, the number of steps, and the loss."""


def fine_tune(
    pack_: DomainPack,
    train: Sequence[Item],
    recipe: Recipe,
    base: Path,
    out: Path,
    progress: Progress,
) -> float:
    """Train on `train` and save the adapter's tensors and configuration to `out`.

    Returns the mean loss of the last steps. The same recipe, data, base and versions give the
    same weights on the same kind of machine.
    """
    _be_quiet()
    transformers.set_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    examples = [encode(tokenizer, pack_, item, recipe.max_tokens) for item in train]
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        trainer = _AnswersOnly(
            model=model,
            args=_arguments(recipe, scratch),
            train_dataset=_batches(examples, recipe),
            processing_class=tokenizer,
            data_collator=_collate,
            peft_config=LoraConfig(
                r=recipe.rank,
                lora_alpha=recipe.alpha,
                lora_dropout=recipe.dropout,
                target_modules=list(recipe.target_modules),
                task_type="CAUSAL_LM",
            ),
            callbacks=[_Reporter(recipe.steps, losses, progress)],
        )
        trainer.remove_callback(PrinterCallback)  # our own reporter shows the loss
        trainer.train()
        trainer.model.save_pretrained(out, safe_serialization=True)
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)


def encode(tokenizer: Any, pack_: DomainPack, item: Item, max_tokens: int) -> Example:
    """Tokens as the server's chat template makes them; a prompt that is too long is cut."""
    messages = [{"role": "user", "content": pack_.question(item)}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    answer = tokenizer(item.label, add_special_tokens=False)["input_ids"]
    answer.append(tokenizer.eos_token_id)
    return Example(tuple(prompt[: max_tokens - len(answer)]), tuple(answer))


def _batches(examples: Sequence[Example], recipe: Recipe) -> datasets.Dataset:
    """One row per step: the examples of that step, drawn without repetition within an epoch."""
    generator = torch.Generator().manual_seed(recipe.seed)
    order: list[int] = []
    while len(order) < recipe.steps * recipe.batch:
        order += torch.randperm(len(examples), generator=generator).tolist()
    steps = [order[i * recipe.batch : (i + 1) * recipe.batch] for i in range(recipe.steps)]
    return datasets.Dataset.from_dict(
        {
            "prompts": [[examples[i].prompt for i in step] for step in steps],
            "answers": [[examples[i].answer for i in step] for step in steps],
        }
    )


def _collate(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    (row,) = rows
    pairs = zip(row["prompts"], row["answers"], strict=True)
    return pack([Example(tuple(prompt), tuple(answer)) for prompt, answer in pairs])


def _arguments(recipe: Recipe, scratch: str) -> SFTConfig:
    return SFTConfig(
        output_dir=scratch,
        max_steps=recipe.steps,
        per_device_train_batch_size=1,  # one row is one packed batch
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup_steps,
        seed=recipe.seed,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        gradient_checkpointing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


class _AnswersOnly(SFTTrainer):  # type: ignore[misc] # trl ships no types for it
    """Projects onto the vocabulary only where an answer's token is predicted."""

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], *_: Any, **__: Any
    ) -> torch.Tensor:
        """Mean cross entropy over the answers' tokens."""
        labels = inputs.pop("labels")[0]
        predicting = (labels[1:] != IGNORED).nonzero().squeeze(1)
        logits = model(**inputs, logits_to_keep=predicting).logits[0]
        return torch.nn.functional.cross_entropy(logits.float(), labels[predicting + 1])


class _Reporter(TrainerCallback):  # type: ignore[misc] # transformers ships no types for it
    """Hands every step's loss on, instead of printing it."""

    def __init__(self, steps: int, losses: list[float], progress: Progress) -> None:
        self._steps = steps
        self._losses = losses
        self._progress = progress

    def on_log(self, *arguments: Any, **event: Any) -> None:
        """Called by the trainer after each step, as (args, state, control, logs=...)."""
        state, logs = arguments[1], event.get("logs")
        if logs and "loss" in logs:
            self._losses.append(float(logs["loss"]))
            self._progress(state.global_step, self._steps, self._losses[-1])


def _be_quiet() -> None:
    """Only our own progress is shown; the libraries' chatter is not for the person training."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.getLogger("trl").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(trl|peft|transformers|torch)\b.*")
