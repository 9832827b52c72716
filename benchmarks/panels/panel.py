"""One model's answers to one domain's held-out questions."""

from dataclasses import dataclass

import numpy as np

from adapters.training.job import Forgetting
from benchmarks.panels.moved import Moved
from eval.statistics import Proportion, confident_errors, fit_calibration, wilson
from eval.statistics.calibration import apply

SURE = 0.9


@dataclass(frozen=True, slots=True)
class Panel:
    """Greedy answers, how sure each was, and for a preference-trained model what it moved."""

    title: str
    texts: list[str]
    confidences: list[float]
    right: list[bool]
    units: list[str]
    """What the split keeps together, by question."""
    forgetting: Forgetting | None
    """What its training cost in general knowledge; None for the base."""
    moved: Moved | None

    @property
    def score(self) -> Proportion:
        """Share of right answers."""
        return wilson(sum(self.right), len(self.right))

    @property
    def said(self) -> str:
        """Accuracy and confident errors, for a heading."""
        said = f"{self.score}; wrong though above {SURE}: {self._wrong(self.confidences)}, "
        said += f"calibrated {self._wrong(self.calibrated)}"
        if (asked := self.forgetting) is not None:
            said += f"; general knowledge {asked.before} -> {asked.after} of {asked.of}"
        return said

    @property
    def calibrated(self) -> list[float]:
        """How sure each answer is by a calibration fitted on the half of the units it is not in."""
        units = sorted(set(self.units))
        first = [unit in set(units[::2]) for unit in self.units]
        scores, right = np.array(self.confidences), np.array(self.right)
        sure = np.empty(len(scores))
        for half in (np.array(first), ~np.array(first)):
            sure[half] = apply(fit_calibration(scores[~half], right[~half]), scores[half])
        return [float(value) for value in sure]

    def _wrong(self, confidences: list[float]) -> str:
        errors = confident_errors(confidences, self.right, SURE)
        return "none so sure" if errors is None else f"{errors.successes} of {errors.n}"
