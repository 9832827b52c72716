"""Pages where experts judge: what waits, one item at a time, and what came of it."""

from itertools import takewhile
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Form, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from registry.errors import BadRequest, UnknownReview
from registry.http.access import Caller
from registry.http.review_bodies import JudgementBody
from registry.http.reviews import (
    fingerprint_of,
    items_of,
    order_for,
    record,
    review_view,
    seen,
    shown_answers,
)
from registry.model.access import has_role
from registry.model.blinding import are_texts_hidden
from registry.model.harm import RULINGS, DecideHarm
from registry.model.reviewing import (
    MAX_CRITERIA,
    SEVERITIES,
    VERDICTS,
    Item,
    Preference,
    Review,
    Ruling,
    Verdict,
    judged,
    left,
    queue,
)
from registry.model.reviews import CloseReview, WithdrawJudgement, holders
from registry.web.rendering import page
from registry.web.session import ViewerDep

router = APIRouter(include_in_schema=False)
Line = Annotated[str, Form(max_length=20_000)]
Stated = Verdict | Literal["by-criteria"]
"""A verdict, or that it follows from the criteria."""


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
        texts=_texts_of_harm(viewer, found),
        rulings=RULINGS,
        severities=SEVERITIES,
        may_close=has_role(viewer.key, "evaluate", found.domain) and found.closed is None,
    )


def _texts_of_harm(viewer: Caller, review: Review) -> dict[str, Item] | None:
    """The items of a closed review by their ids, for whoever may decide about harm or evaluate;
    None while an open review hides the domain's texts."""
    domain = review.domain
    reads = has_role(viewer.key, "approve", domain) or has_role(viewer.key, "evaluate", domain)
    if review.closed is None or review.content is None or not reads:
        return {}
    hidden = are_texts_hidden(viewer.catalog, viewer.key, domain)
    return None if hidden else items_of(viewer, review)


@router.post("/reviews/{review}/decisions")
def decide(
    viewer: ViewerDep,
    review: str,
    item: Annotated[str, Form(max_length=200)],
    version: Annotated[int, Form(ge=1)],
    ruling: Annotated[Ruling, Form()],
    reason: Annotated[str, Form(min_length=1, max_length=1000)],
) -> Response:
    """Record what the viewer decided about one finding of harm."""
    found = seen(viewer, review)
    viewer.registry.execute(DecideHarm(found.id, item, version, ruling, reason), viewer.key.id)
    return RedirectResponse(f"/reviews/{review}#harm", 303)


@router.get("/reviews/{review}/judge")
def next_item(
    viewer: ViewerDep, review: str, after: Annotated[str, Query(max_length=200)] = ""
) -> Response:
    """To the next item that waits for this expert: the one behind `after`, if that still waits."""
    found = seen(viewer, review)
    viewer.require("review", found.domain)
    waiting = queue(found, viewer.key.id, holders(viewer.catalog))
    if not waiting:
        return RedirectResponse(f"/reviews/{review}", 303)
    place = waiting.index(after) + 1 if after in waiting else 0
    return RedirectResponse(f"/reviews/{review}/items/{waiting[place % len(waiting)]}", 303)


@router.get("/reviews/{review}/items/{item}", response_class=HTMLResponse)
def show_item(viewer: ViewerDep, review: str, item: str) -> Response:
    """One item: the form to judge it, or what this expert judged. Its address never shows another,
    so that Back and Reload cannot put one item's judgement under another."""
    found = seen(viewer, review)
    viewer.require("review", found.domain)
    shown = items_of(viewer, found).get(item)
    if shown is None:
        raise UnknownReview(f"The review has no item {item[:80]!r}. Take the next one.")
    persons = holders(viewer.catalog)
    who = persons[viewer.key.id]
    mine = next((j for j in found.of(item) if persons.get(j.expert, j.expert) == who), None)
    done = judged(found, viewer.key.id, persons)
    answers, places = shown_answers(viewer, found, shown), order_for(viewer, found, shown)
    return page(
        "judge.html",
        viewer=viewer,
        review=found,
        item=shown,
        answers=answers,
        shown=fingerprint_of(answers),
        judged=[mine.verdicts[place] for place in places] if mine else [],
        met=[mine.met[place] for place in places] if mine and mine.met else [],
        waits=item in queue(found, viewer.key.id, persons),
        may_withdraw=mine is not None and found.closed is None,
        verdicts=VERDICTS,
        severities=SEVERITIES,
        done=done,
        total=done + left(found, viewer.key.id, persons),
    )


async def criteria_met(request: Request) -> tuple[tuple[bool, ...], ...]:
    """What a form says of each answer that was shown: whether it meets each criterion, up to the
    first that is not judged."""
    form = await request.form()
    found = []
    for answer in (1, 2):
        given = (form.get(f"met_{answer}_{number}") for number in range(MAX_CRITERIA))
        found.append(tuple(one == "yes" for one in takewhile(("yes", "no").__contains__, given)))
    return tuple(one for one in found if one)


@router.post("/reviews/{review}/items/{item}")
def judge(
    viewer: ViewerDep,
    review: str,
    item: str,
    judged: Annotated[str, Form(alias="item", max_length=200)],
    shown: Annotated[str, Form(max_length=64)],
    met: Annotated[tuple[tuple[bool, ...], ...], Depends(criteria_met)],
    verdict_1: Annotated[Stated, Form()],
    verdict_2: Annotated[Stated | None, Form()] = None,
    severity: Annotated[int | None, Form(ge=0, le=3)] = None,
    preferred: Annotated[Preference | None, Form()] = None,
    rationale: Line = "",
    correction: Line = "",
    reference: Line = "",
) -> Response:
    """Record what the expert judged, and go on to the next item."""
    found = seen(viewer, review)
    viewer.require("review", found.domain)
    if judged != item:
        raise BadRequest("The form belongs to another item. Open the item again and judge it.")
    stated: list[Verdict | None] = [
        None if one == "by-criteria" else one for one in (verdict_1, verdict_2) if one is not None
    ]
    body = JudgementBody(
        item=item,
        verdicts=tuple(stated),
        met=met,
        severity=severity,
        preferred=preferred,
        rationale=rationale,
        correction=correction,
        reference=reference,
        shown=shown,
    )
    record(viewer, found, body)
    return RedirectResponse(f"/reviews/{review}/judge", 303)


@router.post("/reviews/{review}/items/{item}/withdraw")
def withdraw(viewer: ViewerDep, review: str, item: str) -> Response:
    """Take back what the expert judged, and show the item again."""
    found = seen(viewer, review)
    viewer.registry.execute(WithdrawJudgement(found.id, item), viewer.key.id)
    return RedirectResponse(f"/reviews/{review}/items/{item}", 303)


@router.post("/reviews/{review}/close")
def close(viewer: ViewerDep, review: str) -> Response:
    """End it, and show whose answers they were."""
    found = seen(viewer, review)
    viewer.registry.execute(CloseReview(found.id), viewer.key.id)
    return RedirectResponse(f"/reviews/{review}", 303)
