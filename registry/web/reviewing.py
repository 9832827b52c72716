"""Pages where experts judge: what waits, one item at a time, and what came of it."""

from typing import Annotated

from fastapi import APIRouter, Form, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from registry.access import has_role
from registry.api.reviews import JudgementBody, items_of, record, review_view, seen
from registry.commands import CloseReview
from registry.reviewing import VERDICTS, Preference, Verdict, order, queue
from registry.rules.reviews import holders
from registry.web.rendering import page
from registry.web.session import ViewerDep

router = APIRouter(include_in_schema=False)
Line = Annotated[str, Form(max_length=20_000)]


@router.get("/reviews", response_class=HTMLResponse)
def list_reviews(viewer: ViewerDep) -> Response:
    """Every review in the viewer's domains."""
    reviews = [r for r in viewer.catalog.reviews.values() if viewer.may_see(r.domain)]
    views = [review_view(viewer, review) for review in reversed(reviews)]
    return page("reviews.html", viewer=viewer, reviews=views)


@router.get("/reviews/{review}", response_class=HTMLResponse)
def show_review(viewer: ViewerDep, review: str) -> Response:
    """How far it is, how far experts agree and, once it is closed, whose answers they were."""
    found = seen(viewer, review)
    return page(
        "review.html",
        viewer=viewer,
        review=review_view(viewer, found),
        path=f"{found.domain}/{found.adapter}",
        may_close=has_role(viewer.key, "evaluate", found.domain) and found.closed is None,
    )


@router.get("/reviews/{review}/judge", response_class=HTMLResponse)
def next_item(viewer: ViewerDep, review: str) -> Response:
    """The next item that waits for this expert."""
    found = seen(viewer, review)
    viewer.require("review", found.domain)
    waiting = queue(found, viewer.key.id, holders(viewer.catalog))
    if not waiting:
        return RedirectResponse(f"/reviews/{review}", 303)
    item = items_of(viewer, found)[waiting[0]]
    mine = sum(said.expert == viewer.key.id for said in found.judgements)
    return page(
        "judge.html",
        viewer=viewer,
        review=found,
        item=item,
        answers=[item.answers[i] for i in order(found, item.id, viewer.key.id)],
        verdicts=VERDICTS,
        done=mine,
        total=mine + len(waiting),
    )


@router.post("/reviews/{review}/judge")
def judge(
    viewer: ViewerDep,
    review: str,
    item: Annotated[str, Form(max_length=200)],
    verdict_1: Annotated[Verdict, Form()],
    verdict_2: Annotated[Verdict | None, Form()] = None,
    severity: Annotated[int, Form(ge=0, le=3)] = 0,
    preferred: Annotated[Preference, Form()] = "neither",
    rationale: Line = "",
    correction: Line = "",
    reference: Line = "",
) -> Response:
    """Record what the expert said, and go on to the next item."""
    found = seen(viewer, review)
    viewer.require("review", found.domain)
    body = JudgementBody(
        item=item,
        verdicts=[verdict_1] if verdict_2 is None else [verdict_1, verdict_2],
        severity=severity,
        preferred=preferred,
        rationale=rationale,
        correction=correction,
        reference=reference,
    )
    record(viewer, found, body)
    return RedirectResponse(f"/reviews/{review}/judge", 303)


@router.post("/reviews/{review}/close")
def close(viewer: ViewerDep, review: str) -> Response:
    """End it, and show whose answers they were."""
    found = seen(viewer, review)
    viewer.registry.execute(CloseReview(found.id), viewer.key.id)
    return RedirectResponse(f"/reviews/{review}", 303)
