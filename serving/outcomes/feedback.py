"""`POST /v1/feedback`: what an app's users thought of an answer.

    {"id": "chatcmpl-...", "rating": "negative", "category": "incorrect", "comment": "..."}

The id proves which version answered which key. The rating is answered once the registry's log
holds it. The comment is not passed on: the log is forever, and the words of users are the app's.
"""

from dataclasses import dataclass
from typing import Any

from adapters.errors import LoraryError
from adapters.names import AdapterRef
from registry.errors import BadRequest, FeedbackTooLate, Forbidden
from registry.model.catalog import Key
from registry.model.feedback import GiveFeedback
from registry.model.ratings import CATEGORIES, RATINGS, Category, Rating
from serving.errors import FeedbackDisabled, FeedbackUnavailable, LimitReached
from serving.outcomes.reporting import Reports
from serving.outcomes.response_ids import ResponseIds
from serving.telemetry import access_log
from serving.telemetry.metrics import FEEDBACK

FEEDBACK_FIELDS = ("id", "rating", "category", "comment")
MAX_FEEDBACK_BYTES = 16 << 10
MAX_COMMENT = 2000


@dataclass(frozen=True, slots=True)
class Given:
    """A well-formed body."""

    id: str
    rating: Rating
    category: Category | None


def parse_feedback(body: dict[str, Any]) -> Given:
    """A body of `FEEDBACK_FIELDS`; raises `BadRequest` that names what is wrong."""
    response, comment = body.get("id"), body.get("comment")
    if not isinstance(response, str):
        raise BadRequest("`id` is missing. Send the `id` of the completion.")
    rating = next((r for r in RATINGS if r == body.get("rating")), None)
    if rating is None:
        raise BadRequest(f"`rating` must be one of {', '.join(RATINGS)}. Send one.")
    category = next((c for c in CATEGORIES if c == body.get("category")), None)
    if category is None and body.get("category") is not None:
        raise BadRequest(
            f"`category` must be one of {', '.join(CATEGORIES)}. Leave it out if none is."
        )
    if comment is not None and (not isinstance(comment, str) or len(comment) > MAX_COMMENT):
        raise BadRequest(f"`comment` is a text of at most {MAX_COMMENT} letters. Send fewer.")
    return Given(response, rating, category)


async def give(
    reports: Reports, ids: ResponseIds, key: Key, body: dict[str, Any]
) -> dict[str, Any]:
    """Have a rating kept; the answer for the caller, once it is.

    Raises `BadRequest`, `UnknownResponse`, `Forbidden` for another key's answer,
    `FeedbackDisabled`, `FeedbackTooLate`, and `FeedbackUnavailable` when the registry does not take
    it now.
    """
    given = parse_feedback(body)
    answered = ids.read(given.id)
    if answered.key != key.id:
        raise Forbidden(
            "That answer was given to another key. Send feedback with the key that asked."
        )
    if answered.ref is None:
        raise BadRequest("The base model gave that answer. Feedback is about adapters' answers.")
    try:
        kept = await reports.send(
            GiveFeedback(
                *AdapterRef.parse_version(str(answered.ref)),
                response=given.id,
                answered=answered.at,
                asker=key.id,
                rating=given.rating,
                category=given.category,
                alias=answered.alias,
                split=answered.split,
            )
        )
    except (FeedbackTooLate, LimitReached, FeedbackDisabled):
        raise
    except LoraryError as error:
        # What lies between us and the registry is not the caller's business, and may be secret.
        access_log.write("feedback_failed", code=error.code, reason=error.message[:300])
        raise FeedbackUnavailable(
            "The feedback could not be stored just now. Send it again."
        ) from (error)
    if kept["counted"]:
        FEEDBACK.labels(given.rating).inc()
    return {
        "object": "feedback",
        "id": given.id,
        "model": str(answered.ref),
        "rating": given.rating,
        "category": given.category,
        "counted": kept["counted"],
        "comment_kept": False,
    }
