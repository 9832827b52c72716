"""What an open review hides from a key, so that its experts judge blind. Pure.

While a review is open, its versions, verdicts and progress are shown only to evaluators who may not
judge in its domain with any of their keys. What would name its versions by being hidden for them
alone is hidden for every version of the domain.
"""

import msgspec

from registry.model.access import has_role
from registry.model.catalog import Catalog, Key, Version, person
from registry.model.gates import EXPERT_REVIEW, requirements
from registry.model.requirement import Requirement
from registry.model.reviewing import Review


def may_judge(catalog: Catalog, key: Key, domain: str) -> bool:
    """Whether the person who holds `key` has a key, unless it was revoked, to judge in `domain`."""
    who = person(catalog.keys, key.id)
    return any(
        other.revoked is None
        and has_role(other, "review", domain)
        and person(catalog.keys, other.id) == who
        for other in catalog.keys.values()
    )


def is_blind(catalog: Catalog, key: Key, review: Review) -> bool:
    """Whether `key` must not learn whose answers the review shows, nor what others judged."""
    if review.closed is not None:
        return False
    domain = review.domain
    return not has_role(key, "evaluate", domain) or may_judge(catalog, key, domain)


def is_hidden(catalog: Catalog, key: Key, domain: str) -> bool:
    """Whether an open review for which `key` is blind is about weights that `domain` holds."""
    return any(_is_about(catalog, review, domain) for review in _hidden(catalog, key))


def are_texts_hidden(catalog: Catalog, key: Key, domain: str) -> bool:
    """Whether reports and exports of `domain`, which show whose every answer is, are hidden from
    `key`: while a review there is open for which it is blind, and from whoever may judge in an open
    review of another domain about weights that `domain` holds."""
    return any(
        review.domain == domain
        or (may_judge(catalog, key, review.domain) and _is_about(catalog, review, domain))
        for review in _hidden(catalog, key)
    )


def requirements_shown(
    version: Version, catalog: Catalog, key: Key, *, now: str, alias: str
) -> tuple[Requirement, ...]:
    """A version's requirements, without the results of open reviews for which `key` is blind.

    While there is such a review in the version's domain, the requirements of every version there
    say so in place of what experts settled, and are not all met.
    """
    policy = catalog.domain(version.domain).policy
    if not is_hidden(catalog, key, version.domain):
        return requirements(version, policy, catalog, now=now, alias=alias)
    hidden = {review.id for review in _hidden(catalog, key)}
    reviews = {
        name: _without_reasons(review)
        for name, review in catalog.reviews.items()
        if name not in hidden
    }
    known = catalog.changed(reviews=reviews)
    asked = requirements(version, policy, known, now=now, alias=alias)
    placeholder = Requirement(
        name=EXPERT_REVIEW,
        met=False,
        hidden=True,
        evidence="a review in this domain is open, and its results are hidden until it is closed",
        remedy="an evaluator closes the review: lorary review ls, lorary review close REVIEW",
    )
    return (*(item for item in asked if item.name != EXPERT_REVIEW), placeholder)


def _without_reasons(review: Review) -> Review:
    """The review without the reasons of decisions about harm, which may quote whose answer it was:
    the same answers may be judged again in an open review."""
    decisions = tuple(msgspec.structs.replace(d, reason="") for d in review.decisions)
    return msgspec.structs.replace(review, decisions=decisions)


def _hidden(catalog: Catalog, key: Key) -> list[Review]:
    return [review for review in catalog.reviews.values() if is_blind(catalog, key, review)]


def _is_about(catalog: Catalog, review: Review, domain: str) -> bool:
    if review.domain == domain:
        return True
    versions = catalog.adapters[f"{review.domain}/{review.adapter}"].versions
    return any(
        domain == where
        for number in review.versions
        for digest in versions[number - 1].weights
        for where, _ in catalog.index.get("publisher", digest)
    )
