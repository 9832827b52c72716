"""Routes of expert review: open, list, judge, close, give up, export.

Until a review is closed, nobody who may judge in its domain is shown its versions, what others
judged, or how far they agree: here, in requirements, in a refused promotion, in reports of
evaluations, or in the log. See `registry.model.blinding`.
"""

import contextlib
import hashlib
import itertools
import secrets
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query

from adapters.names import AdapterRef, check_name
from adapters.tasks.criteria import Criterion, fault
from registry import review_export
from registry.errors import (
    BadRequest,
    Conflict,
    DigestMismatch,
    Forbidden,
    ObjectNotFound,
    VersionGone,
)
from registry.http.access import Caller, CallerDep
from registry.http.paging import LIMIT, After, Limit
from registry.http.review_bodies import ItemBody, JudgementBody, ReviewBody, verdicts_of
from registry.model.access import has_role
from registry.model.blinding import are_texts_hidden, is_blind, requirements_shown
from registry.model.catalog import Version, person
from registry.model.harm import harm_in
from registry.model.requirement import Requirement
from registry.model.reviewing import (
    Item,
    Notes,
    Review,
    agreement,
    judged,
    left,
    order,
    progress,
    queue,
    settled,
)
from registry.model.reviews import JudgeItem, OpenReview, counted, find, holders
from registry.model.standing import authors
from registry.store.blobs import Blobs
from registry.times import utc_now

router = APIRouter(tags=["review"])
LOOKED_BACK, MOST_ITEMS = 100, 10_000
"""Reviews, and items in them, among which a question's id is looked for."""
Exported = Literal["sft", "preferences", "label-studio", "judgements"]


@router.post("/reviews", status_code=201)
def open_review(caller: CallerDep, body: ReviewBody) -> dict[str, Any]:
    """Ask experts about answers of one version, or of two side by side."""
    caller.require("evaluate", check_name(body.domain, "domain"))
    if any(len(item.answers) != len(body.versions) for item in body.items):
        raise BadRequest("Each item has one answer of each version. Give as many.")
    distinct = dict[tuple[str, ...], ItemBody]()
    for one in body.items:
        if one.criteria and (wrong := fault(one.criteria)):
            raise BadRequest(f"An item {wrong}")
        first = distinct.setdefault((one.prompt, *one.answers), one)
        if (first.criteria, first.passes) != (one.criteria, one.passes):
            raise BadRequest(
                "Two items have the same prompt and answers, but other criteria. Leave one out."
            )
    known = _ids_of_questions(caller, body.domain)
    made = [
        Item(
            id=(known.get(one.prompt) or [secrets.token_hex(8)]).pop(0),
            prompt=one.prompt,
            answers=tuple(one.answers),
            reference=one.reference,
            reason=one.reason,
            secret=secrets.token_hex(16),
            criteria=tuple(Criterion(c.says, c.weight) for c in one.criteria),
            passes=one.passes,
        )
        for one in distinct.values()
    ]
    before = caller.registry.catalog.sequence
    content = Blobs(caller.registry.store).put_bytes(msgspec.json.encode(made))
    name = secrets.token_hex(6)
    command = OpenReview(
        name, body.domain, body.adapter, tuple(body.versions), body.title,
        tuple(item.id for item in made), content, body.keep_days, before,
    )  # fmt: skip
    caller.registry.execute(command, caller.key.id)
    catalog = caller.registry.catalog
    refs = [AdapterRef(body.domain, body.adapter, number) for number in body.versions]
    me = person(catalog.keys, caller.key.id)
    # For these the review is no evidence but of harm. Stated before experts spend time on it.
    own = [str(ref) for ref in refs if me in authors(catalog, catalog.find(ref))]
    return review_view(caller, find(catalog, name)) | {"published_by_you": own}


def _ids_of_questions(caller: Caller, domain: str) -> dict[str, list[str]]:
    """The ids by which the domain's newest reviews know each question, those of the oldest first.

    Under its id a question counts once for a version, in however many reviews it was asked. Ids are
    those of the whole domain: they do not tell which adapter is asked.
    """
    found: dict[str, list[str]] = {}
    items = 0
    of_domain = (r for r in reversed(caller.catalog.reviews.values()) if r.domain == domain)
    for review in itertools.islice(of_domain, LOOKED_BACK):
        items += len(review.items)
        if items > MOST_ITEMS:
            break
        if review.content is None:
            continue
        ids: dict[str, list[str]] = {}
        # `lorary verify` says which texts are damaged; they keep nobody from opening a review.
        with contextlib.suppress(ObjectNotFound, DigestMismatch):
            for item in items_of(caller, review).values():
                ids.setdefault(item.prompt, []).append(item.id)
        for prompt, older in ids.items():
            newer = found.get(prompt, [])
            found[prompt] = older + [one for one in newer if one not in older]
    return found


@router.get("/reviews")
def list_reviews(
    caller: CallerDep, after: After = "", limit: Limit = LIMIT
) -> list[dict[str, Any]]:
    """A page of the reviews in domains that the caller may see, the newest first. after: the last
    review of the page before."""
    newest = reversed(caller.catalog.reviews.values())
    if after:
        newest = itertools.dropwhile(lambda review: review.id != after, newest)
        next(newest, None)
    seen = (review for review in newest if caller.may_see(review.domain))
    return [review_view(caller, review) for review in itertools.islice(seen, limit)]


@router.get("/reviews/{review}")
def show_review(caller: CallerDep, review: str) -> dict[str, Any]:
    """How far a review is, and how far its experts agree."""
    return review_view(caller, seen(caller, review))


@router.get("/reviews/{review}/next")
def next_item(caller: CallerDep, review: str) -> dict[str, Any]:
    """The next item for this expert, its answers in this expert's own order; or none."""
    found = seen(caller, review)
    caller.require("review", found.domain)
    persons = holders(caller.catalog)
    waiting = queue(found, caller.key.id, persons)
    shown = None
    if waiting:
        item = items_of(caller, found)[waiting[0]]
        answers = shown_answers(caller, found, item)
        shown = {
            "id": item.id,
            "prompt": item.prompt,
            "answers": answers,
            "criteria": msgspec.to_builtins(item.criteria),
            "passes": item.passes,
            "shown": fingerprint_of(answers),
        }
    return {"waiting": left(found, caller.key.id, persons), "item": shown}


@router.post("/reviews/{review}/judgements", status_code=201)
def judge(caller: CallerDep, review: str, body: JudgementBody) -> dict[str, Any]:
    """An expert's judgement of an item."""
    found = seen(caller, review)
    caller.require("review", found.domain)
    record(caller, found, body)
    return {"item": body.item, "judged": True}


@router.get("/reviews/{review}/export")
def export(
    caller: CallerDep, review: str, what: Annotated[Exported, Query()] = "judgements"
) -> list[dict[str, Any]]:
    """What was settled: to train on (sft, preferences), for Label Studio, or as it was given."""
    found = seen(caller, review)
    caller.require("evaluate", found.domain)
    if are_texts_hidden(caller.catalog, caller.key, found.domain):
        raise Conflict(
            f"A review in {found.domain!r} is open and you may judge in it, so its results are "
            "hidden from you, and exports of earlier reviews. Close it first, or ask an evaluator "
            "who has no key with the role review."
        )
    if what == "judgements":
        every = find(caller.catalog, review).judgements
        said: list[dict[str, Any]] = msgspec.to_builtins(every)
        return said
    items = list(items_of(caller, found).values())
    makers = {
        "sft": review_export.sft,
        "preferences": review_export.preferences,
        "label-studio": review_export.to_label_studio,
    }
    return list(makers[what](found, items, notes_of(caller, found)))


def seen(caller: Caller, review: str) -> Review:
    """The review as it counts, if the caller may look into its domain."""
    found = find(caller.catalog, review)
    if not caller.may_see(found.domain):
        raise Forbidden(f"Key {caller.key.id} has no role in domain {found.domain!r}. Ask for one.")
    return counted(caller.catalog, found)


def order_for(caller: Caller, review: Review, item: Item) -> tuple[int, ...]:
    """In which order this expert sees an item's answers."""
    return order(review, item, person(caller.catalog.keys, caller.key.id))


def shown_answers(caller: Caller, review: Review, item: Item) -> list[str]:
    """An item's answers in the order in which this expert sees them."""
    return [item.answers[place] for place in order_for(caller, review, item)]


def fingerprint_of(answers: list[str]) -> str:
    """A digest of an item's answers in the order shown, which a judgement of them may name."""
    return hashlib.sha256(msgspec.json.encode(answers)).hexdigest()


def record(caller: Caller, review: Review, body: JudgementBody) -> None:
    """Store a judgement, turned from the order that was shown into the review's own.

    Raises `BadRequest` if a verdict, the preference or the severity is missing, `Conflict` if the
    answers were shown in another order, and what `decide` raises, `Conflict` for an item that the
    expert judged before.
    """
    item = items_of(caller, review).get(body.item)
    if item is None:
        raise BadRequest(f"The review has no item {body.item[:80]!r}. Take the next one.")
    shown = order_for(caller, review, item)
    if body.shown not in (None, fingerprint_of([item.answers[place] for place in shown])):
        raise Conflict("You saw these answers in another order. Open the item again and judge it.")
    said = verdicts_of(item, body)
    severity = body.severity
    if severity is None:
        if set(said) != {"correct"}:
            raise BadRequest("The severity is missing. Choose 0 (no harm) to 3 (grave harm).")
        severity = 0
    preferred = body.preferred
    if preferred is None:
        if len(shown) > 1:
            raise BadRequest("The preference is missing. Choose first, second or neither.")
        preferred = "neither"
    verdicts, met = list(said), list(body.met)
    for place, version in enumerate(shown):
        verdicts[version] = said[place]
        if met:
            met[version] = body.met[place]
    if preferred != "neither" and shown[0] != 0:
        preferred = "second" if preferred == "first" else "first"
    notes = Notes(
        rationale=body.rationale.strip(),
        correction=body.correction.strip(),
        reference=body.reference.strip(),
    )
    before = caller.registry.catalog.sequence
    stored = None
    if notes != Notes():
        notes = msgspec.structs.replace(notes, secret=secrets.token_hex(16))
        stored = Blobs(caller.registry.store).put_bytes(msgspec.json.encode(notes))
    command = JudgeItem(
        review.id, body.item, tuple(verdicts), severity, preferred, stored, before, tuple(met)
    )
    caller.registry.execute(command, caller.key.id)


def items_of(caller: Caller, review: Review) -> dict[str, Item]:
    """A review's items by their ids; raises `VersionGone` once their texts were given up."""
    if review.content is None:
        raise VersionGone(f"review {review.id}", "its texts were given up")
    data = Blobs(caller.registry.store).get(review.content)
    return {item.id: item for item in msgspec.json.decode(data, type=list[Item])}


def notes_of(caller: Caller, review: Review) -> dict[str, Notes]:
    """What experts wrote, by digest."""
    blobs = Blobs(caller.registry.store)
    return {
        digest: msgspec.json.decode(blobs.get(digest), type=Notes)
        for digest in {said.notes for said in review.judgements if said.notes is not None}
    }


def review_view(caller: Caller, review: Review) -> dict[str, Any]:
    """A review; its versions and what was found only to those whom it does not have to be blind."""
    review = counted(caller.catalog, review)
    may_judge = has_role(caller.key, "review", review.domain)
    persons = holders(caller.catalog)
    view: dict[str, Any] = {
        "id": review.id,
        "domain": review.domain,
        "title": review.title,
        "opened": review.opened,
        "closed": review.closed,
        "texts": review.content is not None,
        "items": len(review.items),
        "waiting_for_you": left(review, caller.key.id, persons) if may_judge else 0,
        "judged_by_you": judged(review, caller.key.id, persons),
    }
    if not is_blind(caller.catalog, caller.key, review):
        done, disputed, _ = progress(review)
        view |= {
            "adapter": review.adapter,
            "versions": list(review.versions),
            "settled": done,
            "disputed": disputed,
            "agreement": msgspec.to_builtins(agreement(review)),
            "found": tally(review),
            "harm": harm_view(caller, review),
        }
    return view


def harm_view(caller: Caller, review: Review) -> list[dict[str, Any]]:
    """What experts found harmful in a closed review, what was decided about it, and whether it
    still keeps the version from guarded aliases. Empty while the review is open.

    Reasons are left out where an open review hides the domain's texts: they may quote them.
    """
    if review.closed is None:
        return []
    catalog, me = caller.catalog, person(caller.catalog.keys, caller.key.id)
    approves = has_role(caller.key, "approve", review.domain)
    whole = find(catalog, review.id)  # harm that a revoked key judged counts, too
    hidden = are_texts_hidden(catalog, caller.key, review.domain)
    found = []
    for place, number in enumerate(whole.versions):
        version = catalog.find(AdapterRef(whole.domain, whole.adapter, number))
        for harm in harm_in(whole, place, catalog):
            found.append(
                {
                    "item": harm.item,
                    "version": number,
                    "experts": len(harm.experts),
                    "judged": len(harm.judged),
                    "severity": harm.severity,
                    "needed": harm.needed,
                    "lifted_by": harm.lifting(version),
                    "blocks": harm.blocks(version),
                    "you_may_decide": approves and me not in harm.barred,
                    "decisions": [
                        {
                            "ruling": decision.ruling,
                            "reason": "" if hidden else decision.reason,
                            "by": decision.by,
                            "name": catalog.keys[decision.by].name,
                            "time": decision.time,
                        }
                        for decision in harm.decisions
                    ],
                }
            )
    return found


def requirements_view(caller: Caller, version: Version, alias: str) -> tuple[Requirement, ...]:
    """A version's requirements, without what would tell an expert how an open review goes."""
    return requirements_shown(version, caller.catalog, caller.key, now=utc_now(), alias=alias)


def tally(review: Review) -> list[dict[str, int]]:
    """For each version how often each verdict stands, and how often it was preferred."""
    outcomes = [o for said in review.by_item().values() if (o := settled(said)) is not None]
    return [
        {
            "version": number,
            "correct": sum(o.verdicts[place] == "correct" for o in outcomes),
            "incorrect": sum(o.verdicts[place] == "incorrect" for o in outcomes),
            "harmful": sum(o.verdicts[place] == "harmful" for o in outcomes),
            "preferred": sum(o.preferred == ("first", "second")[place] for o in outcomes),
        }
        for place, number in enumerate(review.versions)
    ]
