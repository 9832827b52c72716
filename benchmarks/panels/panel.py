"""One model's answers to one domain's held-out questions."""

from dataclasses import dataclass

from adapters.training.job import Forgetting
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
        errors = confident_errors(self.confidences, self.right, SURE)
        wrong = "none so sure" if errors is None else f"{errors.successes} of {errors.n}"
        said = f"{self.score}; wrong though above {SURE}: {wrong}"
        if (asked := self.forgetting) is not None:
            said += f"; general knowledge {asked.before} -> {asked.after} of {asked.of}"
        return said
