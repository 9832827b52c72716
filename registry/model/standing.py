"""Whose evaluations and calibrations of a version count, and who its authors are. Pure."""

from collections.abc import Mapping

from registry.model.access import ANY_DOMAIN
from registry.model.catalog import Catalog, Key, Version, in_good_standing, person
from registry.model.recorded import Calibrated


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


def roles_of(catalog: Catalog, key: str, domain: str) -> set[str]:
    """The roles that a key has in `domain`."""
    grants = catalog.keys[key].grants if key in catalog.keys else ()
    return {grant.role for grant in grants if grant.domain in (ANY_DOMAIN, domain)}


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
    """Every person who published these weights, in any domain and under any name or card."""
    return {
        person(catalog.keys, publisher)
        for digest in version.weights
        for _, publisher in catalog.index.get("publisher", digest)
    }
