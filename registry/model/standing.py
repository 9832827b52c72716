"""Whose evaluations and calibrations of a version count, and who its authors are. Pure."""

from collections.abc import Mapping
from functools import lru_cache

from registry.model.catalog import (
    Adapter,
    Calibrated,
    Catalog,
    Key,
    Version,
    in_good_standing,
    person,
)


def evaluator_fault(catalog: Catalog, version: Version, evaluator: str) -> str | None:
    """Why evaluations of `version` by the key `evaluator` do not count; None if they do."""
    if not in_good_standing(catalog.keys, evaluator):
        return "its evaluator's key was revoked"
    who = person(catalog.keys, evaluator)
    if who == person(catalog.keys, version.publisher):
        return "only its publisher evaluated it"
    if who in authors(catalog, version):
        return "only a publisher of its weights evaluated it"
    return None


def calibrated(keys: Mapping[str, Key], version: Version) -> Calibrated | None:
    """The version's newest calibration that counts, by the promotion gate's rule for evaluators.

    A report's age does not matter: `max_report_days` bounds promotions, not what is served.
    """
    found = reversed(version.calibrations)
    counting = (c for c in found if not c.by_author and in_good_standing(keys, c.evaluator))
    return next(counting, None)


def calibration_withdrawn(keys: Mapping[str, Key], version: Version) -> bool:
    """Whether the version had a calibration, and every one that counted is by a key that was
    revoked since."""
    others = any(not c.by_author for c in version.calibrations)
    return others and calibrated(keys, version) is None


def authors(catalog: Catalog, version: Version) -> set[str]:
    """Every person who published these weights in the domain, under whatever name or card."""
    publishers = _publishers(_State(catalog.adapters), version.domain)
    return {
        person(catalog.keys, publisher)
        for digest in version.weights
        for publisher in publishers.get(digest, ())
    }


class _State:
    """Adapters that are the same only if they are the very same table, which never changes."""

    def __init__(self, adapters: Mapping[str, Adapter]) -> None:
        self.adapters = adapters

    def __hash__(self) -> int:
        return id(self.adapters)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _State) and other.adapters is self.adapters


@lru_cache(maxsize=4)
def _publishers(state: _State, domain: str) -> Mapping[str, set[str]]:
    """By a digest of weights: the keys that published them in the domain. Read once for each state,
    however often it is asked."""
    found: dict[str, set[str]] = {}
    for adapter in state.adapters.values():
        if adapter.domain == domain:
            for version in adapter.versions:
                for digest in version.weights:
                    found.setdefault(digest, set()).add(version.publisher)
    return found
