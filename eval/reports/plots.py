"""Reliability and risk-coverage as pictures in SVG."""

import io
from collections.abc import Sequence
from typing import Any

from eval.statistics import reliability, risk_coverage, wilson

INK, LINE, FILL = "#1f2937", "#0f5c94", "#9cc7e6"


def reliability_plot(confidence: Sequence[float], right: Sequence[bool]) -> str:
    """How often answers were right, by their confidence, with intervals and counts."""
    figure, axes = _figure()
    bins = reliability(confidence, right, bins=10)
    for part in bins:
        share = wilson(round(part.accuracy * part.n), part.n)
        axes.bar((part.low + part.high) / 2, part.accuracy, width=0.09, color=FILL, edgecolor=LINE)
        axes.errorbar(
            (part.low + part.high) / 2, part.accuracy,
            yerr=[[part.accuracy - share.low], [share.high - part.accuracy]],
            color=INK, capsize=3, linewidth=1,
        )  # fmt: skip
        axes.annotate(
            str(part.n), ((part.low + part.high) / 2, 0.015), ha="center", fontsize=8, color=INK
        )
    axes.plot([0, 1], [0, 1], linestyle="--", color=INK, linewidth=1, label="perfectly calibrated")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="share that was right")
    axes.legend(loc="upper left", frameon=False)
    return _svg(figure)


def risk_coverage_plot(
    confidence: Sequence[float], right: Sequence[bool], threshold: float | None
) -> str:
    """The share of wrong answers, if only the surest are given."""
    figure, axes = _figure()
    coverage, risk = risk_coverage(confidence, right)
    axes.step(coverage, risk, where="post", color=LINE, linewidth=1.8)
    if threshold is not None:
        given = sum(p >= threshold for p in confidence) / len(confidence)
        axes.axvline(given, color=INK, linestyle="--", linewidth=1)
        label = f"threshold {threshold:g}: {given:.0%} answered"
        side = "right" if given > 0.5 else "left"
        axes.annotate(
            label, (given, 0.97), xytext=(-6 if given > 0.5 else 6, 0),
            textcoords="offset points", ha=side, va="top", fontsize=9, color=INK,
        )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="share answered", ylabel="share wrong among them")
    return _svg(figure)


def _figure() -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.fonttype"] = "path"
    mpl.rcParams["svg.hashsalt"] = "lorary"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(4.6, 3.6), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _svg(figure: Any) -> str:
    from matplotlib import pyplot

    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    return file.getvalue()[file.getvalue().index("<svg") :]
