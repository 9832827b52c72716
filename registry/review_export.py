"""What experts settled, as data for the next version; and Label Studio's JSON in and out. Pure.

Rows are JSON objects in TRL's conversational formats: prompt and completion for supervised
fine-tuning, prompt, chosen and rejected for preference training. Only settled items are exported,
so nothing is taught that experts do not agree on; each row names its review, and so the lineage of
what is trained on it does.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from registry.errors import BadRequest
from registry.model.reviewing import Item, Notes, Outcome, Review, settled

Row = dict[str, Any]
Noted = Mapping[str, Notes]
"""What experts wrote, by the digest in their judgement."""


def _user(text: str) -> list[Row]:
    return [{"role": "user", "content": text}]


def _assistant(text: str) -> list[Row]:
    return [{"role": "assistant", "content": text}]


def _settled(
    review: Review, items: Sequence[Item], noted: Noted
) -> Iterator[tuple[Item, Outcome, str]]:
    """Settled items with what stands for them, and the best correction anybody wrote."""
    for item in items:
        said = review.of(item.id)
        outcome = settled(said)
        if outcome is not None:
            # The adjudicator's correction comes last and counts first.
            written = [noted.get(j.notes or "", Notes()).correction.strip() for j in said]
            correction = next((text for text in reversed(written) if text), "")
            yield item, outcome, correction


def sft(review: Review, items: Sequence[Item], noted: Noted) -> Iterator[Row]:
    """Prompts with an answer that experts call correct, or the one they wrote instead."""
    for item, outcome, correction in _settled(review, items, noted):
        right = [
            answer
            for answer, verdict in zip(item.answers, outcome.verdicts, strict=True)
            if verdict == "correct"
        ]
        if correction or right:
            answer = correction or right[0]
            yield {
                "prompt": _user(item.prompt),
                "completion": _assistant(answer),
                "review": review.id,
            }


def preferences(review: Review, items: Sequence[Item], noted: Noted) -> Iterator[Row]:
    """Pairs of a better and a worse answer to one prompt.

    A correction beats every answer that is not correct; a correct answer beats one that is not; of
    two equally judged ones the preferred beats the other. Equal texts make no pair, and
    an empty one is no answer.
    """
    for item, outcome, correction in _settled(review, items, noted):
        judged = list(zip(item.answers, outcome.verdicts, strict=True))
        pairs = []
        if correction:
            pairs += [(correction, answer) for answer, verdict in judged if verdict != "correct"]
        if len(judged) == 2:
            (first, one), (second, two) = judged
            if "correct" in (one, two) and one != two:
                pairs.append((first, second) if one == "correct" else (second, first))
            elif one == two and outcome.preferred != "neither":
                pairs.append((first, second) if outcome.preferred == "first" else (second, first))
        for chosen, rejected in pairs:
            if rejected.strip() and chosen.strip() != rejected.strip():
                yield {
                    "prompt": _user(item.prompt),
                    "chosen": _assistant(chosen),
                    "rejected": _assistant(rejected),
                    "review": review.id,
                }


def to_label_studio(review: Review, items: Sequence[Item], noted: Noted) -> Iterator[Row]:
    """Tasks with annotations as Label Studio imports them (its JSON format, `data` and `result`).

    One annotation per judgement, the answers in the review's order.
    """
    for number, item in enumerate(items, start=1):
        data: Row = {"id": item.id, "prompt": item.prompt, "reference": item.reference}
        data |= {f"answer_{place}": text for place, text in enumerate(item.answers, start=1)}
        if item.criteria:
            data |= {"criteria": msgspec.to_builtins(item.criteria), "passes": item.passes}
        annotations = []
        for said in review.of(item.id):
            results = [
                _choice(f"verdict_{place}", f"answer_{place}", verdict)
                for place, verdict in enumerate(said.verdicts, start=1)
            ]
            results += [
                _choice(
                    f"criteria_{place}", f"answer_{place}",
                    *(c.says for c, yes in zip(item.criteria, met, strict=True) if yes),
                )
                for place, met in enumerate(said.met, start=1)
            ]  # fmt: skip
            results.append(
                {"from_name": "severity", "to_name": "prompt", "type": "rating",
                 "value": {"rating": said.severity}}
            )  # fmt: skip
            if len(item.answers) > 1:
                results.append(_choice("preferred", "prompt", said.preferred))
            notes = noted.get(said.notes or "", Notes())
            results += [
                {"from_name": name, "to_name": "prompt", "type": "textarea",
                 "value": {"text": [text]}}
                for name, text in (
                    ("rationale", notes.rationale), ("correction", notes.correction),
                    ("reference_given", notes.reference),
                )
                if text
            ]  # fmt: skip
            annotations.append(
                {"completed_by": said.expert, "created_at": said.time, "result": results}
            )
        yield {"id": number, "data": data, "annotations": annotations}


def from_label_studio(tasks: Any) -> list[Item]:
    """Items from tasks whose `data` has `prompt` and `answer_1`, perhaps `answer_2`, and a rubric's
    `criteria` with `passes`.

    Annotations are not taken over: a judgement is an expert's own act here. Raises `BadRequest`.
    """
    if not isinstance(tasks, list):
        raise BadRequest("Label Studio's JSON is a list of tasks. Export the project as JSON.")
    items = []
    for number, task in enumerate(tasks, start=1):
        data = task.get("data") if isinstance(task, dict) else None
        if not isinstance(data, dict) or not all(
            isinstance(data.get(name), str) for name in ("prompt", "answer_1")
        ):
            raise BadRequest(f"Task {number} has no data.prompt and data.answer_1. Add them.")
        answers = [data["answer_1"]]
        if isinstance(data.get("answer_2"), str):
            answers.append(data["answer_2"])
        reference = data.get("reference")
        made = make_item(data["prompt"], answers, reference if isinstance(reference, str) else "")
        rubric = {name: data[name] for name in ("criteria", "passes") if name in data}
        try:
            whole = msgspec.convert({**msgspec.to_builtins(made), **rubric}, Item)
        except msgspec.ValidationError as error:
            raise BadRequest(f"Task {number}: {error}. Correct data.criteria.") from error
        items.append(whole)
    return items


def make_item(prompt: str, answers: Sequence[str], reference: str = "", reason: str = "") -> Item:
    """An item, named by what it shows."""
    shown = "\n".join((prompt, *answers))
    name = hashlib.sha256(shown.encode()).hexdigest()[:16]
    return Item(id=name, prompt=prompt, answers=tuple(answers), reference=reference, reason=reason)


def _choice(name: str, about: str, *values: str) -> Row:
    chosen = {"choices": list(values)}
    return {"from_name": name, "to_name": about, "type": "choices", "value": chosen}
