"""docs/reference/metrics.md: every metric, its labels and meaning."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

from reference.markdown import code, table
from registry.http.metrics import CatalogCollector
from registry.model.catalog import Catalog
from serving.telemetry.residency import ResidencyInfo

ROOT = Path(__file__).resolve().parents[1]


class Described(NamedTuple):
    """One metric as a scrape shows it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


def counted(package: str) -> Iterator[Described]:
    """The metrics that a package's modules define."""
    for module in _modules(package):
        for value in vars(importlib.import_module(module)).values():
            if isinstance(value, MetricWrapperBase):
                yield from _of(next(iter(value.describe())), tuple(value._labelnames))


def collected(families: Iterator[Metric] | list[Metric]) -> Iterator[Described]:
    """Metrics that are read when they are scraped."""
    for family in families:
        yield from _of(family, tuple(getattr(family, "_labelnames", ())))


def _of(family: Metric, labels: tuple[str, ...]) -> Iterator[Described]:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    yield Described(name, family.type, labels, family.documentation)


def _modules(package: str) -> Iterator[str]:
    """The modules of a package that use Prometheus' client."""
    for file in sorted((ROOT / package).rglob("*.py")):
        if "prometheus_client" in file.read_text():
            yield ".".join(file.relative_to(ROOT).with_suffix("").parts)


def every() -> dict[str, list[Described]]:
    """All metrics by the service that shows them."""
    catalog = list(CatalogCollector(Catalog(), "2027-01-01T00:00:00Z").collect())
    parts = {
        "Registry: counted by each process": [*counted("registry")],
        "Registry: read from the log": [*collected(catalog)],
        "Server": [*counted("serving"), *collected(list(ResidencyInfo().describe()))],
    }
    return {title: sorted(set(found)) for title, found in parts.items()}


def page() -> str:
    """The page."""
    titles = ("metric", "type", "labels", "meaning")
    parts = "\n".join(
        f"## {title}\n\n"
        + table(
            titles,
            [(code(m.name), m.kind, ", ".join(map(code, m.labels)), m.meaning) for m in found],
        )
        for title, found in every().items()
    )
    return f"""# Metrics

Prometheus' text format at `/metrics`; it takes a key with the role `observe` or `operate` in all
domains (`LORARY_OPEN_METRICS` opens a server's). A server's page has vLLM's own metrics,
too. What every registry process reads from the log is the same in each: take the maximum over
them, not the sum. [Dashboards and alerts](../how-to/operate.md#dashboards-and-alerts) use these
names.

{parts}"""
