"""Statistics of evaluation results; each function names its source.

intervals    shares and means with confidence intervals, also for items that come in clusters
paired       two models on the same items: tests, differences, what a set of items can show
calibration  how far confidence is from the truth, and fitting it
selective answering: risk, coverage, certified thresholds
agreement    how far experts agree (in `adapters`, since the registry's pages show it, too)
"""

from adapters.agreement import Estimate, cohens_kappa, krippendorffs_alpha
from eval.statistics.calibration import (
    Reliability,
    brier_score,
    expected_calibration_error,
    fit_calibration,
    fit_isotonic,
    fit_temperature,
    reliability,
)
from eval.statistics.intervals import (
    Proportion,
    clopper_pearson,
    clustered_mean,
    design_effect,
    rule_of_three,
    wilson,
)
from eval.statistics.paired import (
    Discordance,
    discordance,
    holm,
    mcnemar,
    minimum_detectable_gain,
    non_inferiority,
    paired_bootstrap,
    paired_difference,
)
from eval.statistics.selective import (
    area_under_risk_coverage,
    certified_threshold,
    confident_errors,
    risk_coverage,
)

__all__ = [
    "Discordance",
    "Estimate",
    "Proportion",
    "Reliability",
    "area_under_risk_coverage",
    "brier_score",
    "certified_threshold",
    "clopper_pearson",
    "clustered_mean",
    "cohens_kappa",
    "confident_errors",
    "design_effect",
    "discordance",
    "expected_calibration_error",
    "fit_calibration",
    "fit_isotonic",
    "fit_temperature",
    "holm",
    "krippendorffs_alpha",
    "mcnemar",
    "minimum_detectable_gain",
    "non_inferiority",
    "paired_bootstrap",
    "paired_difference",
    "reliability",
    "risk_coverage",
    "rule_of_three",
    "wilson",
]
