"""A soak as a picture."""

from collections import Counter
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.soak.report import REVOKED_WITHIN, Report
from benchmarks.soak.truth import GOOD

COLOURS = {
    "right": "#1f5f8b",
    "revoked": "#8c8c8c",
    "store away": "#d9a441",
    "no answer": "#c9c9c9",
    "shutting_down": "#9ac0a0",
    "held back": "#b79ad0",
    "starting": "#cfe0ea",
    "wrong": "#c00000",
}


def draw(report: Report, path: Path) -> None:
    """Answers, memory, and how soon revocations held."""
    figure = Figure(figsize=(11, 11), layout="constrained")
    answers, memory, counts, revoked = figure.subplots(4, 1, height_ratios=(3, 2, 2, 1.6))
    _answers(answers, report)
    _samples(memory, report, ("server RSS, MB", "engine RSS, MB"))
    memory.set_ylabel("MB resident")
    _samples(counts, report, ("open files", "threads", "disk, MB", "engine names"))
    counts.set_ylabel("count, or MB")
    for axes in (answers, memory, counts):
        axes.set_xlim(0, report.seconds / 60)
        _shade(axes, report)
    counts.set_xlabel("minutes")
    _revocations(revoked, report)
    for axes in (answers, memory, counts, revoked):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def _answers(axes: Axes, report: Report) -> None:
    width = max(2.0, report.seconds / 150)
    edges = np.arange(0, report.seconds + width, width)
    counted: dict[str, Counter[int]] = {name: Counter() for name in COLOURS}
    for moment, verdict in report.tally.timeline:
        name = verdict if verdict in GOOD else "wrong"
        counted[name][int((moment - report.began) / width)] += 1
    base = np.zeros(len(edges))
    for name, colour in COLOURS.items():
        heights = np.array([counted[name][i] for i in range(len(edges))]) / width
        if heights.any() or name == "wrong":
            label = f"{name}: {sum(counted[name].values()):,}"
            axes.bar(
                edges / 60,
                heights,
                width / 60,
                bottom=base,
                color=colour,
                align="edge",
                label=label,
            )
        base += heights
    axes.set_ylabel("requests a second")
    axes.set_title(
        "Shaded: the object store was away. Dashed: a replica got SIGTERM; dotted: SIGKILL",
        fontsize=9,
        loc="left",
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def _samples(axes: Axes, report: Report, names: tuple[str, ...]) -> None:
    samples = report.watch.samples[report.steady]
    minutes = (np.array(samples.times) - report.began) / 60
    for name in names:
        if name in samples.values:
            axes.plot(minutes, samples.values[name], label=f"{report.steady}: {name}", linewidth=1)
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def _shade(axes: Axes, report: Report) -> None:
    for outage in report.truth.outages:
        begin, end = ((moment - report.began) / 60 for moment in (outage.began, outage.ended))
        axes.axvspan(begin, end, color="#d9a441", alpha=0.25, linewidth=0)
    for replica in report.site.replicas:
        for spans, style in ((replica.life.told_to_end, "--"), (replica.life.killed, ":")):
            for span in spans:
                axes.axvline(
                    (span.began - report.began) / 60,
                    linestyle=style,
                    color="#555555",
                    linewidth=0.8,
                )


def _revocations(axes: Axes, report: Report) -> None:
    for row, (name, took) in enumerate(sorted(report.happened.revocation_seconds.items())):
        axes.plot(took, np.full(len(took), row), "|", markersize=14, label=name)
    axes.set_yticks(
        range(len(report.happened.revocation_seconds)), sorted(report.happened.revocation_seconds)
    )
    axes.axvline(REVOKED_WITHIN, color="#c00000", linewidth=1)
    axes.set_xlim(left=0)
    axes.set_ylim(-0.6, len(report.happened.revocation_seconds) - 0.4)
    axes.set_xlabel("seconds from a revocation's acknowledgement until the replica refuses it")
