"""Routes for replicas, which report what they see: opinions, and candidates that crossed a bound.

They take the role `serve`, which opens nothing else.
"""

from typing import Any

import msgspec
from fastapi import APIRouter

from adapters.names import check_name
from registry.http.access import CallerDep
from registry.http.schemas import FeedbackBody, RollbackBody
from registry.model.canary import RollBackSplit, SplitRolledBack
from registry.model.feedback import GiveFeedback
from registry.model.trials import Evidence

router = APIRouter(tags=["reporting"])


@router.post("/adapters/{domain}/{adapter}/aliases/{alias}/split/rollback")
def roll_back(
    caller: CallerDep, domain: str, adapter: str, alias: str, body: RollbackBody
) -> dict[str, Any]:
    """End a split whose candidate crossed a declared bound, as the evidence shows."""
    evidence = msgspec.convert(body.evidence.model_dump(), Evidence)
    command = RollBackSplit(
        check_name(domain, "domain"),
        adapter,
        alias,
        body.candidate,
        body.split,
        body.bound,
        evidence,
    )
    events = caller.registry.execute(command, caller.key.id)
    return {"rolled_back": bool(events)}


@router.post("/adapters/{domain}/{adapter}/versions/{version}/feedback")
def give_feedback(
    caller: CallerDep, domain: str, adapter: str, version: int, body: FeedbackBody
) -> dict[str, Any]:
    """Keep what a caller thought of one answer; `counted` is false if it was known already."""
    command = GiveFeedback(
        check_name(domain, "domain"),
        adapter,
        version,
        body.response,
        body.answered,
        body.asker,
        body.rating,
        body.category,
        body.comment,
        body.alias,
        body.split,
    )
    events = caller.registry.execute(command, caller.key.id)
    ended = [event.alias for event in events if isinstance(event, SplitRolledBack)]
    return {"counted": bool(events), "rolled_back": ended}
