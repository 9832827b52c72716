"""Pictures of two sides."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

Bars = Sequence[tuple[str, Sequence[float], Sequence[float]]]


def bars(path: Path, rows: Bars, sides: tuple[str, str]) -> None:
    """Medians of both sides in milliseconds on a logarithmic axis, the range as whiskers."""
    figure = Figure(figsize=(9, 0.62 * len(rows) + 1.4), layout="constrained")
    axes = figure.subplots()
    for side, (name, colour) in enumerate(zip(sides, ("#1f5f8b", "#c0692b"), strict=True)):
        for row, (_, *both) in enumerate(rows):
            times = both[side]
            middle = median(times)
            axes.barh(
                row - 0.19 + 0.38 * side,
                middle,
                height=0.36,
                color=colour,
                label=name if row == 0 else None,
                xerr=[[middle - min(times)], [max(times) - middle]],
                error_kw={"ecolor": "#555555", "elinewidth": 1},
            )
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds (median, whiskers from least to most)")
    axes.legend(loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
