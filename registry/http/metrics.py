"""The page that Prometheus scrapes: what this process counted, and what the catalog says.

The first are in `registry.metrics`. The second are read from the catalog at each scrape, so that
every registry process shows the same: take the maximum over them, not the sum. Series by adapter
are kept for the `MAX_ADAPTERS` whose aliases moved last. Labels hold only names that the registry
knows.
"""

from collections import Counter as Tallies
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import REGISTRY, Collector

from adapters.names import DEFAULT_ALIAS
from registry import times
from registry.model.catalog import Adapter, Catalog, Key, Version
from registry.model.gates import requirements
from registry.model.standing import calibrated

MAX_ADAPTERS = 500
"""Adapters with series of their own."""
_ALIAS = ["domain", "adapter", "alias"]
_VERSION = ["domain", "adapter", "version"]


def page(catalog: Catalog, now: str) -> bytes:
    """Everything, in Prometheus' text format."""
    read = CollectorRegistry()
    read.register(CatalogCollector(catalog, now))
    return generate_latest(REGISTRY) + generate_latest(read)


class CatalogCollector(Collector):
    """What a catalog says at a moment."""

    def __init__(self, catalog: Catalog, now: str) -> None:
        self._catalog = catalog
        self._now = now

    def collect(self) -> Iterable[Metric]:
        """Every family, from the whole to its parts."""
        recent = _recent(self._catalog)
        yield _gauge("lorary_catalog_sequence", "The last commit", self._catalog.sequence)
        yield from self._domains()
        yield from self._keys()
        yield from _aliases(recent)
        yield from self._quality(recent)
        yield _feedback(recent)
        yield from self._reviews()

    def _domains(self) -> Iterator[Metric]:
        adapters: Tallies[str] = Tallies()
        states: Tallies[tuple[str, str]] = Tallies()
        for adapter in self._catalog.adapters.values():
            adapters[adapter.domain] += 1
            for state, count in adapter.states.items():
                states[adapter.domain, state] += count
        counted = GaugeMetricFamily("lorary_catalog_adapters", "Adapters", labels=["domain"])
        versions = GaugeMetricFamily(
            "lorary_catalog_versions", "Versions by state", labels=["domain", "state"]
        )
        for domain in sorted(self._catalog.domains):
            counted.add_metric([domain], adapters[domain])
            for state in ("kept", "revoked", "given up"):
                versions.add_metric([domain, state], states[domain, state])
        yield counted
        yield versions

    def _keys(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("lorary_keys", "API keys by state", labels=["state"])
        found = Tallies(_key_state(key, self._now) for key in self._catalog.keys.values())
        for state in ("active", "expired", "revoked"):
            family.add_metric([state], found[state])
        yield family

    def _reviews(self) -> Iterator[Metric]:
        reviews = GaugeMetricFamily(
            "lorary_reviews", "Expert reviews by state", labels=["domain", "state"]
        )
        judged = GaugeMetricFamily(
            "lorary_review_judgements", "Items that experts judged", labels=["domain"]
        )
        states: Tallies[tuple[str, str]] = Tallies()
        judgements: Tallies[str] = Tallies()
        for review in self._catalog.reviews.values():
            states[review.domain, "open" if review.closed is None else "closed"] += 1
            judgements[review.domain] += len(review.judgements)
        for domain in sorted(self._catalog.domains):
            for state in ("open", "closed"):
                reviews.add_metric([domain, state], states[domain, state])
            judged.add_metric([domain], judgements[domain])
        yield from (reviews, judged)

    def _quality(self, recent: list[Adapter]) -> Iterator[Metric]:
        """Of what production names, and of the newest version: gates, approvals, evaluations."""
        unmet = GaugeMetricFamily(
            "lorary_gate_unmet", "What a version still lacks for production", labels=_VERSION
        )
        approvals = GaugeMetricFamily(
            "lorary_approvals", "Experts who approved a version", labels=_VERSION
        )
        evaluations = GaugeMetricFamily(
            "lorary_evaluations", "Evaluations recorded of a version", labels=_VERSION
        )
        shares = GaugeMetricFamily(
            "lorary_suite_share",
            "Share of a suite's items with the wanted outcome, by the newest evaluation",
            labels=[*_VERSION, "suite", "tally"],
        )
        threshold = GaugeMetricFamily(
            "lorary_calibration_threshold",
            "Confidence below which a version's answers should be withheld",
            labels=_VERSION,
        )
        for adapter in recent:
            policy = self._catalog.domains[adapter.domain].policy
            for version in _watched(adapter):
                labels = [version.domain, version.adapter, str(version.number)]
                asked = requirements(version, policy, self._catalog, now=self._now)
                unmet.add_metric(labels, sum(not requirement.met for requirement in asked))
                approvals.add_metric(labels, len(version.approvers))
                evaluations.add_metric(labels, len(version.evaluations))
                if (counting := calibrated(self._catalog.keys, version)) is not None:
                    threshold.add_metric(labels, counting.calibration.threshold)
                for result in version.evaluations[-1].results if version.evaluations else ():
                    for name, tally in result.tallies.items():
                        if tally.n:
                            shares.add_metric([*labels, result.suite, name], tally.hits / tally.n)
        yield from (unmet, approvals, evaluations, shares, threshold)


def _aliases(recent: list[Adapter]) -> Iterator[Metric]:
    names = GaugeMetricFamily(
        "lorary_alias_version", "The version that an alias names", labels=_ALIAS
    )
    moves = CounterMetricFamily("lorary_alias_moves", "Moves of an alias", labels=_ALIAS)
    back = CounterMetricFamily(
        "lorary_alias_rollbacks",
        "Times that an alias went back to an older version, or its candidate crossed a bound",
        labels=_ALIAS,
    )
    splits = GaugeMetricFamily(
        "lorary_alias_canary_percent",
        "Callers of an alias who get its candidate",
        labels=[*_ALIAS, "candidate"],
    )
    for adapter in recent:
        moved = Tallies(move.alias for move in adapter.moves)
        rolled = Tallies(
            move.alias
            for move in adapter.moves
            if move.previous is not None and move.version < move.previous
        )
        rolled.update(rollback.alias for rollback in adapter.rollbacks)
        for alias, version in adapter.aliases.items():
            labels = [adapter.domain, adapter.name, alias]
            names.add_metric(labels, version)
            moves.add_metric(labels, moved[alias])
            back.add_metric(labels, rolled[alias])
        for alias, split in adapter.splits.items():
            labels = [adapter.domain, adapter.name, alias, str(split.candidate)]
            splits.add_metric(labels, split.percent)
    yield from (names, moves, back, splits)


def _feedback(recent: list[Adapter]) -> Metric:
    family = GaugeMetricFamily(
        "lorary_version_feedback",
        "Callers' feedback about a version's answers",
        labels=[*_VERSION, "rating"],
    )
    for adapter in recent:
        for version in _watched(adapter):
            labels = [version.domain, version.adapter, str(version.number)]
            family.add_metric([*labels, "positive"], version.feedback.tally.positive)
            family.add_metric([*labels, "negative"], version.feedback.tally.negative)
    return family


_Number: TypeAlias = int | float


def _gauge(name: str, text: str, value: _Number) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _recent(catalog: Catalog) -> list[Adapter]:
    """The adapters whose aliases moved last."""
    moved = [adapter for adapter in catalog.adapters.values() if adapter.moves]
    return sorted(moved, key=lambda adapter: adapter.moves[-1].time, reverse=True)[:MAX_ADAPTERS]


def _watched(adapter: Adapter) -> list[Version]:
    """What production names, and the newest, if that is another."""
    named = adapter.aliases.get(DEFAULT_ALIAS)
    numbers = {len(adapter.versions)} | ({named} if named is not None else set())
    return [adapter.versions[number - 1] for number in sorted(numbers)]


def _key_state(key: Key, now: str) -> str:
    if key.revoked is not None:
        return "revoked"
    expired = key.expires is not None and times.reached(key.expires, now)
    return "expired" if expired else "active"
