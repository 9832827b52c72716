"""TensorBoard, MLflow, trackio and the others that the transformers library can report to."""

from collections.abc import Sequence
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.integrations.integration_utils import get_available_reporting_integrations

from adapters.recipe import BadRecipe
from adapters.training.job import Job, Record


def check_installed(names: Sequence[str]) -> None:
    """Raises `BadRecipe` for a tracker that is not installed here."""
    available = get_available_reporting_integrations()
    for name in names:
        if name not in available:
            there = ", ".join(available) or "none"
            raise BadRecipe(f"{name!r} is not installed here ({there}). Run `pip install {name}`.")


class Trackers:
    """The trackers of a loop of our own, driven as a `Trainer` would drive them."""

    def __init__(self, job: Job, model: Any) -> None:
        self._arguments = TrainingArguments(output_dir=str(job.workspace), report_to=[])
        self._state, self._control = TrainerState(), TrainerControl()
        self._callbacks = [
            kind() for kind in get_reporting_integration_callbacks(list(job.report_to))
        ]
        for callback in self._callbacks:
            callback.on_train_begin(self._arguments, self._state, self._control, model=model)

    def log(self, record: Record) -> None:
        """Hand on one step's values."""
        self._state.global_step = int(record["step"])
        for callback in self._callbacks:
            logs = dict(record)
            callback.on_log(self._arguments, self._state, self._control, logs=logs)

    def close(self) -> None:
        """Training has ended."""
        for callback in self._callbacks:
            callback.on_train_end(self._arguments, self._state, self._control)
