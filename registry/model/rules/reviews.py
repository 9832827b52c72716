"""Who may ask experts, who may judge, and that nobody judges twice."""

from collections.abc import Mapping

from adapters.names import AdapterRef
from registry import errors
from registry.model.catalog import Catalog, person
from registry.model.commands import CloseReview, EraseReview, JudgeItem, OpenReview
from registry.model.events import AnyEvent, ItemJudged, ReviewClosed, ReviewErased, ReviewOpened
from registry.model.reviewing import MAX_ITEMS, VERDICTS, Review, wants
from registry.model.rules.versions import spare
from registry.model.standing import authors

MAX_TITLE = 200


def open_review(catalog: Catalog, command: OpenReview) -> tuple[AnyEvent, ...]:
    """Ask experts about answers of one or two versions of an adapter."""
    if command.review in catalog.reviews:
        raise errors.Conflict(f"There is a review {command.review}. Open another.")
    if not 1 <= len(command.versions) <= 2 or len(set(command.versions)) < len(command.versions):
        raise errors.BadRequest("A review shows answers of one version, or of two. Name them.")
    for number in command.versions:
        catalog.find(AdapterRef(command.domain, command.adapter, version=number))
    if not 1 <= len(command.items) <= MAX_ITEMS or len(set(command.items)) < len(command.items):
        raise errors.BadRequest(f"A review has 1 to {MAX_ITEMS} items, each once. Choose fewer.")
    if not 0 < len(command.title.strip()) <= MAX_TITLE or not command.title.isprintable():
        raise errors.BadRequest(f"A review's title has 1 to {MAX_TITLE} characters. Give one.")
    if command.keep_days is not None and command.keep_days < 0:
        raise errors.BadRequest("Texts are kept for 0 days or more after a review's end.")
    spare(catalog, {command.content}, command.read_at)
    return (
        ReviewOpened(
            review=command.review,
            domain=command.domain,
            adapter=command.adapter,
            versions=command.versions,
            title=command.title.strip(),
            items=command.items,
            content=command.content,
            keep_days=command.keep_days,
        ),
    )


def judge(catalog: Catalog, command: JudgeItem, actor: str) -> tuple[AnyEvent, ...]:
    """An expert's final word on an item; never a publisher's on her own version."""
    review = find(catalog, command.review)
    persons = holders(catalog)
    for number in review.versions:
        version = catalog.find(AdapterRef(review.domain, review.adapter, version=number))
        if persons.get(actor, actor) in authors(catalog, version):
            raise errors.Forbidden(
                f"You published {'one of ' * (len(review.versions) > 1)}what this review is about "
                "and cannot judge it. Ask a colleague."
            )
    if command.item not in review.items:
        raise errors.BadRequest(f"The review has no item {command.item[:80]!r}. Take the next.")
    if review.closed is not None:
        raise errors.Conflict("This review is closed. Ask whoever opened it for another.")
    if not wants(review, review.of(command.item), actor, persons):
        raise errors.Conflict(
            "This item is settled, or you judged it before: judgements are final. Take the next."
        )
    known = all(verdict in VERDICTS for verdict in command.verdicts)
    if len(command.verdicts) != len(review.versions) or not known:
        raise errors.BadRequest(f"Each answer is one of {', '.join(VERDICTS)}. Judge each.")
    if not 0 <= command.severity <= 3:
        raise errors.BadRequest("Severity is 0 (none) to 3 (grave). Choose one.")
    if "harmful" in command.verdicts and command.severity == 0:
        raise errors.BadRequest(
            "An answer was judged harmful, so its harm is not none. Choose severity 1 (slight) to "
            "3 (grave)."
        )
    if command.notes is not None:
        spare(catalog, {command.notes}, command.read_at)
    return (
        ItemJudged(
            review=command.review,
            item=command.item,
            verdicts=command.verdicts,
            severity=command.severity,
            preferred=command.preferred,
            notes=command.notes,
        ),
    )


def close(catalog: Catalog, command: CloseReview) -> tuple[AnyEvent, ...]:
    """End a review: nobody judges any more, and whose answers they were may be shown."""
    review = find(catalog, command.review)
    return () if review.closed is not None else (ReviewClosed(review=command.review),)


def erase(catalog: Catalog, command: EraseReview) -> tuple[AnyEvent, ...]:
    """Give up the texts of a review that has ended; verdicts stay."""
    review = find(catalog, command.review)
    if review.content is None:
        return ()
    if review.closed is None:
        raise errors.Conflict("Experts still need its texts. Close the review first.")
    return (ReviewErased(review=command.review),)


def find(catalog: Catalog, review: str) -> Review:
    """The review; raises `UnknownReview`."""
    found = catalog.reviews.get(review)
    if found is None:
        raise errors.UnknownReview(f"There is no review {review[:40]!r}. See `lorary review ls`.")
    return found


def holders(catalog: Catalog) -> Mapping[str, str]:
    """Who holds each key."""
    return {key: person(catalog.keys, key) for key in catalog.keys}
