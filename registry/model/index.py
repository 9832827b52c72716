"""What versions, evaluations and reviews hold, found by a digest or a name. Pure.

An index is made of a catalog once. Events add to it what they add to the catalog, so that no
question about content reads every version. It is never stored, since it follows from the catalog.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from registry.model.catalog import Catalog, Version
    from registry.model.reviewing import Review

PARTS = 4096
"""Dictionaries that an index consists of: a change copies one of them."""

Kind: TypeAlias = Literal["publisher", "child", "report", "content", "notes", "review"]
"""Of a digest of weights: a domain and a key that published them there; a review of them. Of a
version's name: a version that continues it. Of a blob's digest: what it is a record of."""
Fact: TypeAlias = tuple[Kind, str, Any]
"""A kind, a key, and a value that is found by it."""
_Entries: TypeAlias = tuple[tuple[Kind, Any], ...]


class Index:
    """The values of each key, by kind. Never mutated."""

    def __init__(self, parts: Sequence[dict[str, _Entries]] = ({},) * PARTS) -> None:
        self._parts = parts

    @classmethod
    def of(cls, catalog: "Catalog") -> "Index":
        """Everything that a catalog holds; reads all of it."""
        return cls().plus(_facts(catalog))

    def get(self, kind: Kind, key: str) -> list[Any]:
        """The values that a key has of one kind."""
        entries = self._parts[hash(key) % PARTS].get(key, ())
        return [value for of, value in entries if of == kind]

    def plus(self, facts: Iterable[Fact]) -> "Index":
        """With more facts."""
        parts, own = list(self._parts), set[int]()
        for kind, key, value in facts:
            place, entries = hash(key) % PARTS, _only(kind, value)
            if place not in own:
                own.add(place)
                parts[place] = dict(parts[place])
            before = parts[place].get(key, ())
            if entries[0] not in before:
                parts[place][key] = before + entries
        return Index(parts)

    def items(self) -> Iterator[tuple[str, frozenset[tuple[Kind, Any]]]]:
        """Every key with all that is found by it."""
        for part in self._parts:
            yield from ((key, frozenset(entries)) for key, entries in part.items())


def of_version(version: "Version") -> Iterator[Fact]:
    """What a version adds when it is published."""
    for digest in version.weights:
        yield "publisher", digest, (version.domain, version.publisher)
    if version.lineage.parent is not None:
        yield "child", version.lineage.parent, str(version.ref)


def of_review(review: "Review", versions: "Sequence[Version]") -> Iterator[Fact]:
    """What a review adds when it is opened; `versions` are those of its adapter."""
    if (content := review.content or review.erased) is not None:
        yield "content", content, review.id
    for number in review.versions:
        for digest in versions[number - 1].weights:
            yield "review", digest, review.id


def is_record(index: Index, digest: str) -> bool:
    """Whether a blob is a record of the registry's own and no file of a version: the report of an
    evaluation, or what a review asks, or asked until it was erased, or its experts wrote."""
    kinds: tuple[Kind, ...] = ("report", "content", "notes")
    return any(index.get(kind, digest) for kind in kinds)


def _facts(catalog: "Catalog") -> Iterator[Fact]:
    for adapter in catalog.adapters.values():
        for version in adapter.versions:
            yield from of_version(version)
            for evaluation in version.evaluations:
                yield "report", evaluation.report, str(version.ref)
    for review in catalog.reviews.values():
        yield from of_review(review, catalog.adapters[f"{review.domain}/{review.adapter}"].versions)
        for judgement in review.recorded():
            if judgement.notes is not None:
                yield "notes", judgement.notes, review.id


@lru_cache(maxsize=4096)
def _only(kind: Kind, value: Any) -> _Entries:
    """One entry, the same object for the same value: most keys have one, and publish alike."""
    return ((kind, value),)
