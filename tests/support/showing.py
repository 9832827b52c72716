"""Whether dashboards, alerts and autoscalers have something to show: every expression, asked of a
real Prometheus."""

from collections.abc import Iterator
from typing import Any

import promql_parser
import yaml

from helm.dashboards.build import PAGES
from tests.support.helm import CHART, render
from tests.support.prometheus import RULES, Prometheus

_WRAPPING = (
    promql_parser.AggregateExpr,
    promql_parser.ParenExpr,
    promql_parser.UnaryExpr,
    promql_parser.SubqueryExpr,
)
"""Expressions around one other."""


def concrete(expr: str, *, window: str = "20s") -> str:
    """An expression with the reader's choices made: everything, and a short window."""
    for name in ("pool", "domain"):
        expr = expr.replace(f"${name}", ".*")
    return expr.replace("$__rate_interval", window)


def panels() -> Iterator[tuple[str, str]]:
    """Every expression on a dashboard, and where it stands."""
    for page in PAGES:
        for panel in page.panels():
            for query in panel.queries:
                yield f"{page.title}: {panel.title}", query.expr


def triggers() -> Iterator[tuple[str, str]]:
    """Every expression that an autoscaler watches."""
    values = CHART / "ci" / "everything-values.yaml"
    for manifest in render(values, only="serving.yaml"):
        if manifest["kind"] == "ScaledObject":
            for trigger in manifest["spec"]["triggers"]:
                yield manifest["metadata"]["name"], trigger["metadata"]["query"]


def rules() -> Iterator[tuple[str, str]]:
    """Every recording rule and alert."""
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule.get("alert") or rule["record"], rule["expr"]


def empty(prometheus: Prometheus) -> list[str]:
    """Panels and triggers whose expressions have no answer, or none that is a number."""
    return [
        f"{where}: {expr}"
        for where, expr in [*panels(), *triggers()]
        if not prometheus.values(concrete(expr))
    ]


def unknown(prometheus: Prometheus) -> list[str]:
    """Metrics that rules read and no process has, and labels that those metrics lack."""
    missing = []
    for where, expr in rules():
        for selector in selectors(promql_parser.parse(expr)):
            if not prometheus.ask(f'{{__name__="{selector.name}"}}'):
                missing.append(f"{where}: {selector.name}")
            for matcher in selector.matchers.matchers:
                if not prometheus.ask(f'{{__name__="{selector.name}", {matcher.name}!=""}}'):
                    missing.append(f"{where}: {selector.name} has no label {matcher.name}")
    return missing


def selectors(node: Any) -> Iterator[Any]:
    """The vector selectors in an expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    elif isinstance(node, promql_parser.MatrixSelector):
        yield from selectors(node.vector_selector)
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            yield from selectors(argument)
    elif isinstance(node, promql_parser.BinaryExpr):
        yield from selectors(node.lhs)
        yield from selectors(node.rhs)
    elif isinstance(node, _WRAPPING):
        yield from selectors(node.expr)
