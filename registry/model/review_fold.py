"""What events make of a review. Pure; part of `registry.model.fold`."""

from typing import TypeAlias

import msgspec

from registry.model.events import ItemJudged, ReviewClosed, ReviewErased, ReviewOpened
from registry.model.reviewing import Judgement, Review

AboutReview: TypeAlias = "ItemJudged | ReviewClosed | ReviewErased"


def opened(event: ReviewOpened, actor: str, time: str) -> Review:
    """A review as it begins."""
    return Review(
        id=event.review,
        domain=event.domain,
        adapter=event.adapter,
        versions=event.versions,
        title=event.title,
        items=event.items,
        content=event.content,
        opened=time,
        opener=actor,
        keep_days=event.keep_days,
    )


def after(review: Review, event: AboutReview, actor: str, time: str) -> Review:
    """A review after something happened to it."""
    match event:
        case ItemJudged():
            said = Judgement(
                item=event.item,
                expert=actor,
                time=time,
                verdicts=event.verdicts,
                severity=event.severity,
                preferred=event.preferred,
                notes=event.notes,
            )
            return msgspec.structs.replace(review, judgements=(*review.judgements, said))
        case ReviewClosed():
            return msgspec.structs.replace(review, closed=time)
        case ReviewErased():
            return msgspec.structs.replace(review, content=None)
