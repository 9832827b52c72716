"""What the dashboards' panels hold, drawn from a Prometheus: our own drawing, not Grafana's."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helm.dashboards.build import PAGES
from helm.dashboards.panels import Dashboard, Panel
from tests.support.prometheus import Prometheus
from tests.support.showing import concrete

COLUMNS = 3
MOST = 8
"""Series that get a name in a panel's legend."""
UNITS = {"s": "seconds", "reqps": "per second", "ops": "per second", "percentunit": "share"}


def draw_all(watching: Prometheus, folder: Path, *, seconds: float) -> list[Path]:
    """A picture of each dashboard over the last `seconds`."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for page in PAGES:
        path = folder / f"{page.uid.removeprefix('lorary-')}.png"
        draw(page, watching, path, seconds=seconds)
        made.append(path)
    return made


def draw(page: Dashboard, watching: Prometheus, path: Path, *, seconds: float) -> None:
    """One dashboard."""
    panels = list(page.panels())
    rows = math.ceil(len(panels) / COLUMNS)
    figure = Figure(figsize=(16, 2.7 * rows + 0.8), layout="constrained")
    figure.suptitle(
        f"{page.title}. The panels' data from a real Prometheus over {seconds / 60:.0f} minutes, "
        "drawn by benchmarks.fleet (not a screenshot of Grafana)",
        fontsize=11,
    )
    axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for place, panel in zip(axes, panels, strict=False):
        series = [
            (found, query.legend)
            for query in panel.queries
            for found in watching.history(
                concrete(query.expr, window="30s"), seconds, max(2.0, seconds / 120)
            )
        ]
        _draw_panel(place, panel, series)
    for place in axes[len(panels) :]:
        place.axis("off")
    figure.savefig(path, dpi=80)


def _draw_panel(place: Axes, panel: Panel, series: Sequence[tuple[dict[str, Any], str]]) -> None:
    place.set_title(panel.title, fontsize=9, loc="left")
    if panel.unit in UNITS:
        place.set_ylabel(UNITS[panel.unit], fontsize=7)
    start = min((float(found["values"][0][0]) for found, _ in series), default=0.0)
    for number, (found, legend) in enumerate(series):
        times = [(float(at) - start) / 60 for at, _ in found["values"]]
        values = [float(value) for _, value in found["values"]]
        name = _named(legend, found["metric"]) if number < MOST else None
        place.plot(times, values, linewidth=1, label=name)
    if panel.alarm is not None:
        place.axhline(panel.alarm, color="#b22222", linewidth=0.7, linestyle="--")
    place.set_ylim(bottom=0)
    place.tick_params(labelsize=7)
    place.spines[["top", "right"]].set_visible(False)
    if series:
        place.legend(fontsize=6, loc="upper left", frameon=False)
    else:
        place.text(0.5, 0.5, "nothing", transform=place.transAxes, ha="center", color="#b22222")


def _named(legend: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        legend = legend.replace(f"{{{{{name}}}}}", value)
    return legend[:38]
