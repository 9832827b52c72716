"""What every stage is given, and what it hands back."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from adapters.recipe import Recipe

Progress = Callable[[int, int, float], None]
"""Called after each step with the step, the number of steps, and the loss."""

Record = dict[str, float]
"""What one step logged: `step`, and values such as `loss`, `eval_loss`, `reward`, `kl`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training: the recipe, and where on this machine everything lies."""

    recipe: Recipe
    base: Path
    start: Path | None
    """The adapter that is continued."""
    reward: Path | None
    """The reward model; None where answers are verified."""
    workspace: Path
    """Checkpoints, kept until the training has ended."""
    progress: Progress
    report_to: tuple[str, ...] = ()
    """Trackers of the transformers library, such as `tensorboard`."""


class Forgetting(msgspec.Struct, frozen=True, kw_only=True):
    """How many general questions were right before and after a training."""

    before: int
    after: int
    lost: int
    """Right before and wrong after."""
    of: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a stage hands back, beside the files it saved."""

    history: list[Record]
    trainable: int
    """Parameters that were trained."""
    parameters: int
    """All of the model's, the trained ones included."""
    forgetting: Forgetting | None
    """None if it was not asked for, or the model writes no answers."""

    @property
    def final_loss(self) -> float:
        """Mean loss of the last tenth of the steps."""
        losses = [record["loss"] for record in self.history if "loss" in record]
        tail = losses[-max(1, len(losses) // 10) :]
        return sum(tail) / len(tail)
