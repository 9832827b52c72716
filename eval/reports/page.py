"""A report as one static page: the verdict first, then tables, plots and what to read."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from msgspec import convert

from eval.reports.plots import reliability_plot, risk_coverage_plot
from eval.review_items import SURE
from eval.statistics import (
    Discordance,
    Proportion,
    area_under_risk_coverage,
    brier_score,
    expected_calibration_error,
    mcnemar,
    minimum_detectable_gain,
    paired_difference,
)
from registry.model.evidence import Confident, Tally, interval
from registry.model.requirement import Requirement, verdict_of

WORST = 15
"""Confident errors that are listed for reading."""


def page(
    report: Mapping[str, Any],
    asked: Mapping[str, Any] | None,
    recorded: Mapping[str, Any] | None,
) -> str:
    """The page.

    asked: what the registry requires of the version now, if that is known: `ref`, `alias`,
    `guarded`, `requirements`. recorded: who recorded the evaluation (`evaluator`) and when
    (`time`); None if nobody did.
    """
    environment = Environment(
        loader=PackageLoader("eval.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = {
        model["digest"]: model["name"] for model in (report["base"], report["production"]) if model
    }
    return environment.get_template("report.html").render(
        report=report,
        requirements=convert(asked["requirements"], list[Requirement]) if asked else [],
        verdict=verdict_of(asked) if asked else None,
        recorded=recorded,
        suites=[_suite(suite, names) for suite in report["suites"]],
    )


def _suite(suite: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """One suite's tables and plots."""
    found = suite["result"]
    measures = [
        (name, tally["hits"], tally["n"], _share(tally["hits"], convert(tally, Tally)))
        for name, tally in found["tallies"].items()
        if tally["n"]
    ]
    levels = [
        (level["at"], level["wrong"], level["n"], _share(level["wrong"], convert(level, Confident)))
        for level in found["confident"]
        if level["n"]
    ]
    accuracy = next((task for task in suite["tasks"] if task["role"] == "accuracy"), None)
    return {
        "name": found["suite"],
        "about": suite["about"],
        # Reports of earlier releases do not name the pushed task.
        "task": suite.get("task", ""),
        "digest": found["digest"],
        "held_out": found["held_out"],
        "measures": measures,
        "levels": levels,
        "compared": _compared(found, accuracy, names),
        **_confidence(suite, accuracy),
    }


def _share(found: int, count: Tally | Confident) -> Proportion:
    return Proportion(found, count.n, *interval(count))


def _compared(
    found: Mapping[str, Any], accuracy: Mapping[str, Any] | None, names: Mapping[str, str]
) -> list[dict[str, Any]]:
    if accuracy is None:
        return []
    right = [item["right"] for item in accuracy["items"]]
    units = [item["unit"] for item in accuracy["items"]]
    rows = []
    for pair in found["paired"]:
        other = [answer["right"] for answer in accuracy["others"][pair["other"]]]
        discordant = Discordance(pair["gained"], pair["lost"], pair["n"])
        rows.append(
            {
                "name": names.get(pair["other"], pair["other"][:12]),
                "gained": pair["gained"],
                "lost": pair["lost"],
                "difference": paired_difference(right, other, units),
                "p": mcnemar(discordant),
                "detectable": minimum_detectable_gain(
                    pair["n"], discordance=max(0.01, (pair["gained"] + pair["lost"]) / pair["n"])
                ),
            }
        )
    return rows


def _confidence(suite: Mapping[str, Any], accuracy: Mapping[str, Any] | None) -> dict[str, Any]:
    """Plots and figures of confidence, where a calibration was fitted."""
    calibration = suite["calibration"]
    if calibration is None or accuracy is None:
        return {"calibration": None, "plots": [], "quality": [], "worst": []}
    items: Sequence[Mapping[str, Any]] = accuracy["items"]
    sure = [item["confidence"] for item in items]
    raw = [min(1.0, item["score"]) for item in items]
    right = [item["right"] for item in items]
    threshold = calibration["threshold"] if calibration["target_risk"] is not None else None
    wrong = sorted(
        (item for item in items if not item["right"] and item["confidence"] >= SURE),
        key=lambda item: -item["confidence"],
    )
    return {
        "calibration": calibration,
        "plots": [
            ("Reliability", Markup(reliability_plot(sure, right))),  # noqa: S704 - made here
            ("Risk and coverage", Markup(risk_coverage_plot(sure, right, threshold))),  # noqa: S704
        ],
        "quality": [
            (name, measure(raw, right), measure(sure, right))
            for name, measure in (
                ("Expected calibration error", expected_calibration_error),
                ("Brier score", brier_score),
                ("Area under risk-coverage", area_under_risk_coverage),
            )
        ],
        "worst": wrong[:WORST],
    }
