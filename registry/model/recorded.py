"""What evaluations leave with a version."""

import msgspec

from adapters.confidence import Calibration
from registry.model.evidence import Engine, SuiteResult


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of a version, by whom and when."""

    evaluator: str
    time: str
    report: str
    """Digest of the blob that holds the whole report."""
    results: tuple[SuiteResult, ...]
    looks: tuple[int, ...]
    """For each result: the number of this look at its held-out set, counted from 1."""
    engine: Engine | None = None
    """What answered, as the server reported it."""
    answered: str | None = None
    """When the oldest of the answers was given."""

    @property
    def since(self) -> str:
        """The moment from which its age counts: when it was recorded, or before, when the oldest
        answer was given."""
        return self.time if self.answered is None else min(self.answered, self.time)


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """An evaluation that was begun and not recorded: its looks are counted already."""

    run: str
    evaluator: str
    time: str
    looks: dict[str, int]
    """By digest of a held-out set: the number of this look at it, counted from 1."""


class Calibrated(msgspec.Struct, frozen=True, kw_only=True):
    """A calibration, who evaluated it, and on which engine."""

    evaluator: str
    calibration: Calibration
    engine: Engine | None = None
    """None in evaluations recorded before the engine was."""
    by_author: bool = False
    """Whether its evaluator had published the weights, so that it counts for nothing."""
