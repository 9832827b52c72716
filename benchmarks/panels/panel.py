"""One model's answers to one domain's held-out questions."""

from dataclasses import dataclass

from benchmarks.panels.moved import Moved
from eval.statistics import Proportion, confident_errors, wilson

SURE = 0.9


@dataclass(frozen=True, slots=True)
class Panel:
    """Greedy answers, how sure each was, and for a preference-trained model what it moved."""

    title: str
    texts: list[str]
    confidences: list[float]
    right: list[bool]
    general: list[bool]
    """Which questions of general knowledge were answered rightly: what training must not cost."""
    moved: Moved | None

    @property
    def score(self) -> Proportion:
        """Share of right answers."""
        return wilson(sum(self.right), len(self.right))

    @property
    def said(self) -> str:
        """Accuracy and confident errors, for a heading."""
        errors = confident_errors(self.confidences, self.right, SURE)
        wrong = "none so sure" if errors is None else f"{errors.successes} of {errors.n}"
        return (
            f"{self.score}; wrong though above {SURE}: {wrong}; "
            f"general knowledge {sum(self.general)} of {len(self.general)}"
        )
