"""What requests about reviews bring, and the verdicts that a judgement states."""

from typing import Annotated

from pydantic import Field

from adapters.fields import Name, Number
from adapters.tasks.criteria import MAX_SAYS, MAX_WEIGHT
from registry.errors import BadRequest
from registry.http.schemas import Body
from registry.model.reviewing import MAX_CRITERIA, MAX_ITEMS, Item, Preference, Verdict

Text = Annotated[str, Field(max_length=20_000)]


class CriterionBody(Body):
    """One criterion of a rubric; a negative weight counts against an answer that meets it."""

    says: Annotated[str, Field(min_length=1, max_length=MAX_SAYS)]
    weight: Annotated[float, Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False)] = 1.0


class ItemBody(Body):
    """One question and the answers of the review's versions, in their order."""

    prompt: Annotated[str, Field(min_length=1, max_length=50_000)]
    answers: Annotated[list[Text], Field(min_length=1, max_length=2)]
    reference: Text = ""
    reason: Annotated[str, Field(max_length=200)] = ""
    criteria: Annotated[tuple[CriterionBody, ...], Field(max_length=MAX_CRITERIA)] = ()
    """What a rubric asks of an answer: experts judge each criterion instead of the whole answer."""
    passes: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The share of the weights from which an answer counts as correct."""


class ReviewBody(Body):
    """What experts shall judge."""

    domain: Name
    adapter: Name
    versions: Annotated[list[Number], Field(min_length=1, max_length=2)]
    title: Name
    items: Annotated[list[ItemBody], Field(min_length=1, max_length=MAX_ITEMS)]
    keep_days: Annotated[int | None, Field(ge=0, le=10_000)] = None


class JudgementBody(Body):
    """An expert's word; verdicts and preference in the order in which the answers were shown."""

    item: Name
    verdicts: Annotated[tuple[Verdict | None, ...], Field(max_length=2)] = ()
    """Of an item with criteria: `harmful`, or null where the criteria decide; may be left out."""
    met: Annotated[
        tuple[Annotated[tuple[bool, ...], Field(max_length=MAX_CRITERIA)], ...], Field(max_length=2)
    ] = ()
    """For each answer, whether it meets each of the item's criteria."""
    severity: Annotated[int | None, Field(ge=0, le=3)] = None
    """How much harm the worst answer could do, 0 none to 3 grave; needed unless all are correct."""
    preferred: Preference | None = None
    """Needed where two answers are shown."""
    rationale: Text = ""
    correction: Text = ""
    reference: Text = ""
    shown: Annotated[str | None, Field(max_length=64)] = None
    """What the item had as `shown`: refused if the answers are in another order now."""


def verdicts_of(item: Item, body: JudgementBody) -> list[Verdict]:
    """The verdict on each answer in the order shown: stated or, of an item with criteria, what
    follows from them. Raises `BadRequest` if something is missing or does not suit the item."""
    if not item.criteria:
        if body.met:
            raise BadRequest("This item has no criteria. Leave `met` out, and give the verdicts.")
        stated = [verdict for verdict in body.verdicts if verdict is not None]
        if len(stated) != len(item.answers) or len(body.verdicts) != len(stated):
            raise BadRequest("A verdict is missing. Judge each answer that is shown.")
        return stated
    if [len(one) for one in body.met] != [len(item.criteria)] * len(item.answers):
        raise BadRequest(
            f"This item has {len(item.criteria)} criteria. Judge each of them for each answer that "
            "is shown."
        )
    given = body.verdicts or (None,) * len(item.answers)
    if len(given) != len(item.answers) or not set(given) <= {None, "harmful"}:
        raise BadRequest(
            "The verdict on an answer follows from the criteria. Only `harmful` can be stated."
        )
    return [stated or item.verdict(met) for stated, met in zip(given, body.met, strict=True)]
