"""Dashboards as code: what the chart ships is what the code makes, and every expression is PromQL.
Whether each has an answer over real processes is told by `python -m benchmarks.fleet.faults`."""

import json
import os
from pathlib import Path

import jsonschema
import promql_parser
import pytest

from helm.dashboards import on_call
from helm.dashboards.build import FOLDER, PAGES, built
from tests.support import showing


def test_the_chart_ships_what_the_code_makes() -> None:
    assert {path.name for path in FOLDER.glob("*.json")} == {path.name for path in built()}
    for path, text in built().items():
        assert path.read_text() == text, "run: python -m helm.dashboards.build"


@pytest.mark.parametrize("where", [*showing.panels(), *showing.triggers(), *showing.rules()])
def test_every_expression_is_promql(where: tuple[str, str]) -> None:
    promql_parser.parse(showing.concrete(where[1]))


def test_the_walk_over_an_expression_finds_every_metric_in_it() -> None:
    parsed = promql_parser.parse(
        'sum(rate(a{x="1"}[5m])) / (max(b) or -c) > max_over_time(d[1h:1m])'
    )
    assert {selector.name for selector in showing.selectors(parsed)} == {"a", "b", "c", "d"}


def test_panels_have_titles_of_their_own_and_units() -> None:
    for page in PAGES:
        for row in page.rows:
            titles = [panel.title for panel in row.panels]
            assert len(set(titles)) == len(titles)
    assert len({page.uid for page in PAGES}) == 3


def test_the_on_call_page_leads_to_every_runbook() -> None:
    alerts = [name for name, _ in showing.rules() if name.startswith("Lorary")]
    for alert in alerts:
        assert f"RUNBOOKS/{alert}.md" in on_call.PAGE.links


@pytest.mark.skipif(
    "LORARY_CRDS" not in os.environ, reason="LORARY_CRDS names no folder with Grafana's schema"
)
def test_every_dashboard_is_what_grafana_expects() -> None:
    schema = json.loads(
        Path(os.environ["LORARY_CRDS"], "grafana-dashboard.schema.json").read_text()
    )
    for text in built().values():
        jsonschema.Draft7Validator(schema).validate(json.loads(text))
