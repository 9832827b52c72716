"""Panels and dashboards in our few terms, as Grafana's own model.

Source: Grafana Foundation SDK, 11.6. A panel is a question; its expressions are PromQL over the
metrics of registry, servers, vLLM and the front.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    prometheus,
    stat,
    text,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as models

Unit: TypeAlias = Literal["reqps", "s", "percentunit", "short", "bytes", "ops", "none"]
WIDE, HALF, THIRD, SIXTH = 24, 12, 8, 4
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${source}")


@dataclass(frozen=True, slots=True)
class Query:
    """One expression, and what its series are called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One question and its answer over time; `now` shows only the last value, large."""

    title: str
    queries: tuple[Query, ...]
    unit: Unit = "short"
    why: str = ""
    """What to read from it."""
    now: bool = False
    alarm: float | None = None
    """From this value on it is shown in red."""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels that belong together."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One page."""

    uid: str
    title: str
    rows: tuple[Row, ...]
    variables: tuple[str, ...] = ()
    """Labels that the reader chooses values of, each a variable of its own name."""
    links: str = ""
    """Text at the top."""

    def panels(self) -> Iterator[Panel]:
        """All of them."""
        for row in self.rows:
            yield from row.panels


WHERE = {"pool": "lorary_requests_total", "domain": "lorary_catalog_adapters"}
"""By variable: the metric whose label values are offered."""


def panel(title: str, expr: str, legend: str = "", unit: Unit = "short", **more: Any) -> Panel:
    """A panel of one expression."""
    return Panel(title, (Query(expr, legend),), unit, **more)


def as_json(page: Dashboard) -> str:
    """What Grafana imports."""
    built = (
        dashboard.Dashboard(page.title)
        .uid(page.uid)
        .tags(["lorary"])
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("source").type("prometheus"))
    )
    for name in page.variables:
        built = built.with_variable(
            dashboard.QueryVariable(name)
            .query(f"label_values({WHERE[name]}, {name})")
            .datasource(SOURCE)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        )
    if page.links:
        note = text.Panel().title("").mode("markdown").content(page.links)  # type: ignore[arg-type]
        built = built.with_panel(note.span(WIDE).height(3))
    for row in page.rows:
        built = built.with_row(dashboard.Row(row.title))
        for shown in row.panels:
            built = built.with_panel(_stat(shown) if shown.now else _series(shown))
    return json.dumps(built.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def _targets(shown: Panel) -> list[prometheus.Dataquery]:
    return [
        prometheus.Dataquery()
        .expr(query.expr)
        .legend_format(query.legend or "__auto")
        .ref_id(chr(ord("A") + number))
        for number, query in enumerate(shown.queries)
    ]


def _thresholds(shown: Panel) -> dashboard.ThresholdsConfig:
    steps: Sequence[models.Threshold] = [models.Threshold(value=None, color="green")]
    if shown.alarm is not None:
        steps = [*steps, models.Threshold(value=shown.alarm, color="red")]
    mode = models.ThresholdsMode.ABSOLUTE
    return dashboard.ThresholdsConfig().mode(mode).steps(list(steps))


def _series(shown: Panel) -> timeseries.Panel:
    made = (
        timeseries.Panel()
        .title(shown.title)
        .description(shown.why)
        .datasource(SOURCE)
        .unit(shown.unit)
        .min(0)
        .span(THIRD)
        .height(8)
        .line_width(1)
        .fill_opacity(8)
        .show_points(kinds.VisibilityMode.NEVER)
        .legend(common.VizLegendOptions().show_legend(True).calcs(["lastNotNull", "max"]))
        .thresholds(_thresholds(shown))
    )
    if shown.alarm is not None:
        style = common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.LINE)
        made = made.thresholds_style(style)
    for target in _targets(shown):
        made = made.with_target(target)
    return made


def _stat(shown: Panel) -> stat.Panel:
    made = (
        stat.Panel()
        .title(shown.title)
        .description(shown.why)
        .datasource(SOURCE)
        .unit(shown.unit)
        .span(SIXTH)
        .height(5)
        .thresholds(_thresholds(shown))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    for target in _targets(shown):
        made = made.with_target(target)
    return made
