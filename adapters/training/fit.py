"""What the stages that train with a `Trainer` share: arguments, progress, checkpoints, resuming.

A checkpoint counts once its marker is there, which is written last: a training that is killed
while it saves goes on from the checkpoint before. Everything that determines the next step is in
it (weights, optimiser, schedule, random state, position in the data), so a resumed training ends
in the same weights as one that was not disturbed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback

from adapters.recipe import Online
from adapters.training.device import computes_in_bfloat16, device
from adapters.training.forgetting import General
from adapters.training.job import Job, Outcome, Progress, Record
from adapters.training.models import REFERENCE
from adapters.training.processes import share

R = TypeVar("R")
MARKER = "complete"
KEPT = 3
"""Checkpoints: the best, the newest, and the one before it, should the newest be half written."""


def arguments(job: Job) -> dict[str, Any]:
    """The arguments that every stage's trainer gets."""
    recipe = job.recipe
    chosen: dict[str, Any] = {
        "output_dir": str(job.workspace),
        "max_steps": recipe.steps,
        "per_device_train_batch_size": share(recipe),
        "per_device_eval_batch_size": share(recipe),
        "gradient_accumulation_steps": recipe.accumulate,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.schedule,
        "warmup_steps": recipe.warmup_steps,
        "seed": recipe.seed,
        "use_cpu": device().type == "cpu",
        "bf16": computes_in_bfloat16(recipe),
        "gradient_checkpointing": recipe.gradient_checkpointing,
        "dataloader_pin_memory": False,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": recipe.save_every,
        "save_total_limit": KEPT,
        "restore_callback_states_from_checkpoint": True,
        "report_to": list(job.report_to),
        "disable_tqdm": True,
    }
    if not isinstance(recipe, Online):
        chosen["train_sampling_strategy"] = "sequential"  # the rows come in their order
    if recipe.evaluate_every:
        chosen |= {"eval_strategy": "steps", "eval_steps": recipe.evaluate_every}
    if recipe.patience:
        chosen |= {
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            "save_steps": recipe.evaluate_every,
        }
    return chosen


def fit(trainer: Any, job: Job, out: Path) -> Outcome:
    """Train, from the newest whole checkpoint if there is one, and save the result to `out`."""
    trainer.remove_callback(PrinterCallback)  # our own reporter shows the loss
    trainer.add_callback(_Reporter(job.recipe.steps, job.progress))
    trainer.add_callback(_Marker())
    if job.recipe.patience:
        trainer.add_callback(EarlyStoppingCallback(job.recipe.patience))
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:  # TRL makes what is trained on a 4-bit base bfloat16
            parameter.data = parameter.data.float()
    general = General(job, trainer.model, trainer.processing_class)
    checkpoint = newest_checkpoint(job.workspace)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    steps = [record for record in trainer.state.log_history if "train_runtime" not in record]
    return finished(job, trainer.model, steps, general, out)


def drawn(rows: Sequence[R], count: int, seed: int) -> list[R]:
    """`count` rows in random order, none again before all were drawn."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < count:
        order += torch.randperm(len(rows), generator=generator).tolist()
    return [rows[i] for i in order[:count]]


def finished(job: Job, model: Any, history: list[Record], general: General, out: Path) -> Outcome:
    """Save what was trained: the one adapter without its frozen reference, or the whole model.

    General questions are asked of the values that are saved.
    """
    named = getattr(model, "peft_config", None)
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    kept = getattr(torch, job.recipe.saved_as)
    for _, parameter in trained:
        parameter.data = parameter.data.to(kept).float()
    forgetting = general.again(model)
    for _, parameter in trained:
        parameter.data = parameter.data.to(kept)
    options = {} if named is None else {"selected_adapters": ["default"]}
    model.save_pretrained(out, safe_serialization=True, **options)
    return Outcome(
        history=history,
        trainable=sum(p.numel() for n, p in trained if f".{REFERENCE}." not in n),
        parameters=sum(p.numel() for p in model.parameters())
        if named is None
        else model.get_nb_trainable_parameters()[1],
        forgetting=forgetting,
    )


def newest_checkpoint(workspace: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    whole = [path.parent for path in workspace.glob(f"checkpoint-*/{MARKER}")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


class _Marker(TrainerCallback):  # type: ignore[misc] # transformers ships no types for it
    """Says of a checkpoint that nothing of it is missing."""

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Called by the trainer when everything else is written."""
        if state.is_world_process_zero:
            Path(args.output_dir, f"checkpoint-{state.global_step}", MARKER).touch()


class _Reporter(TrainerCallback):  # type: ignore[misc] # transformers ships no types for it
    """Hands every step's loss on, instead of printing it."""

    def __init__(self, steps: int, progress: Progress) -> None:
        self._steps = steps
        self._progress = progress

    def on_log(self, *arguments: Any, **event: Any) -> None:
        """Called by the trainer after each step, as (args, state, control, logs=...)."""
        state, logs = arguments[1], event.get("logs")
        if logs and "loss" in logs:
            self._progress(state.global_step, self._steps, float(logs["loss"]))
