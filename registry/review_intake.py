"""Answers from production as items for experts: what users complained of, by the app's own log.

Lorary keeps of a complaint only the answer's id. The texts are the app's, and come from it when
somebody decides that experts shall see them. Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from registry.errors import BadRequest
from registry.model.reviewing import Item
from registry.redaction import redact
from registry.review_export import make_item


def from_complaints(
    complaints: Sequence[Mapping[str, Any]], rows: Iterable[Any]
) -> tuple[list[Item], int]:
    """An item for each complaint whose texts are among `rows`, and for how many they are not.

    complaints: `response`, `category` as the registry returns them. rows: `id`, `prompt` (text, or
    messages), `answer`. Experts see every message, with its role if there are several. Rows nobody
    complained of are passed over. Raises `BadRequest` for a row of another shape.
    """
    logged: dict[str, tuple[str, str]] = {}
    for number, row in enumerate(rows, start=1):
        try:
            prompt, response, answer = _shown(row["prompt"]), row["id"], row["answer"]
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise BadRequest(f"Row {number} lacks id, prompt or answer. Add them.") from error
        if not all(isinstance(text, str) for text in (response, prompt, answer)):
            raise BadRequest(f"Row {number}: id, prompt and answer are texts. Correct it.")
        logged[response] = (prompt, answer)
    items: dict[str, Item] = {}
    missing = 0
    for complaint in complaints:
        texts = logged.get(complaint["response"])
        if texts is None:
            missing += 1
            continue
        reason = f"users complained: {complaint['category'] or 'negative'}"
        item = make_item(texts[0], [texts[1]], reason=reason)
        items.setdefault(item.id, item)
    return list(items.values()), missing


def _shown(asked: Any) -> str:
    """A prompt as experts see it: one message's text, or a transcript of several."""
    if not isinstance(asked, list):
        return asked  # type: ignore[no-any-return] # the caller checks that it is text
    if len(asked) <= 1:
        return asked[0]["content"]  # type: ignore[no-any-return] # as above
    return "\n\n".join(m["role"].capitalize() + ": " + m["content"] for m in asked)


def redacted(items: Iterable[Item]) -> tuple[list[Item], list[tuple[str, str]]]:
    """The items without what may tell who somebody is, and what was taken out: kind and words.

    Items that differed in nothing else become one.
    """
    kept: dict[tuple[object, ...], Item] = {}
    removed: list[tuple[str, str]] = []
    for item in items:
        says = [criterion.says for criterion in item.criteria]
        texts = [redact(text) for text in (item.prompt, item.reference, *says, *item.answers)]
        removed += [found for text in texts for found in text.removed]
        prompt, reference, *others = (text.text for text in texts)
        criteria = tuple(
            replace(one, says=said) for one, said in zip(item.criteria, others, strict=False)
        )
        made = make_item(prompt, others[len(says) :], reference, item.reason)
        made = replace(made, criteria=criteria, passes=item.passes)
        kept.setdefault((made.id, made.criteria, made.passes), made)
    return list(kept.values()), removed
