"""Complaints become review items by texts that an app hands in, and by nothing else."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from adapters.tasks.criteria import Criterion
from registry.cli import build
from registry.errors import BadRequest
from registry.review_export import make_item
from registry.review_intake import from_complaints, redacted

COMPLAINTS: list[dict[str, Any]] = [
    {"response": "chatcmpl-1", "category": "harmful", "time": "2026-11-25T08:00:00Z"},
    {"response": "chatcmpl-2", "category": None, "time": "2026-11-25T08:00:01Z"},
    {"response": "chatcmpl-9", "category": "incorrect", "time": "2026-11-25T08:00:02Z"},
]
ROWS: list[dict[str, Any]] = [
    {"id": "chatcmpl-1", "prompt": "How much digoxin?", "answer": "5 mg"},
    {"id": "chatcmpl-2", "prompt": [{"role": "user", "content": "And this?"}], "answer": "Skin"},
    {"id": "chatcmpl-3", "prompt": "Nobody complained", "answer": "Fine"},
]


def test_each_complaint_with_texts_is_an_item_and_the_others_are_counted() -> None:
    items, missing = from_complaints(COMPLAINTS, ROWS)
    assert [(i.prompt, i.answers, i.reason) for i in items] == [
        ("How much digoxin?", ("5 mg",), "users complained: harmful"),
        ("And this?", ("Skin",), "users complained: negative"),
    ]
    assert missing == 1


def test_experts_see_the_system_message_and_the_earlier_turns() -> None:
    asked = [
        {"role": "system", "content": "The patient is six."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Go ahead."},
        {"role": "user", "content": "How much digoxin?"},
    ]
    (item,), _ = from_complaints(
        COMPLAINTS, [{"id": "chatcmpl-1", "prompt": asked, "answer": "5 mg"}]
    )
    assert item.prompt == (
        "System: The patient is six.\n\nUser: Hello.\n\nAssistant: Go ahead.\n\n"
        "User: How much digoxin?"
    )


def test_items_that_differ_in_their_criteria_alone_are_not_merged_by_redaction() -> None:
    item = make_item("Who is Mr. Miller?", ["5 mg"])
    other = replace(item, criteria=(Criterion("names no person"),), passes=0.5)
    kept, _ = redacted([item, other, other, replace(other, passes=1.0)])
    assert [(one.criteria, one.passes) for one in kept] == [
        ((), 1.0), (other.criteria, 0.5), (other.criteria, 1.0),
    ]  # fmt: skip


def test_the_same_question_and_answer_complained_of_twice_is_one_item() -> None:
    rows = [{**ROWS[0], "id": name} for name in ("chatcmpl-1", "chatcmpl-2")]
    items, _ = from_complaints(COMPLAINTS, rows)
    assert len(items) == 1


@pytest.mark.parametrize(
    "row", [7, {}, {"id": "a", "prompt": "b"}, {"id": "a", "prompt": [], "answer": "c"},
            {"id": "a", "prompt": [{"role": "user", "content": [{}]}], "answer": "c"},
            {"id": "a", "prompt": [{"content": "b"}, {"content": "c"}], "answer": "c"},
            {"id": 1, "prompt": "b", "answer": "c"}],
)  # fmt: skip
def test_a_row_of_another_shape_is_named(row: object) -> None:
    with pytest.raises(BadRequest, match="Row 1"):
        from_complaints(COMPLAINTS, [row])


def test_redacted_items_tell_what_was_taken_out_and_equal_ones_become_one() -> None:
    rows = [
        {"id": "chatcmpl-1", "prompt": "Mrs Jones, digoxin?", "answer": "5 mg"},
        {"id": "chatcmpl-2", "prompt": "Mrs Smith, digoxin?", "answer": "5 mg"},
    ]
    items, removed = redacted(from_complaints(COMPLAINTS, rows)[0])
    known = make_item("Digoxin?", ["5 mg"], reference="Mrs Jones says so")
    assert redacted([known])[0][0].reference == "[name] says so"
    assert [item.prompt for item in items] == ["[name], digoxin?"]
    assert removed == [("name", "Mrs Jones"), ("name", "Mrs Smith")]


def test_from_the_shell_texts_are_redacted_unless_somebody_says_not_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Registry:
        def resolve(self, ref: str) -> dict[str, Any]:
            return {"ref": ref, "feedback": {"complaints": COMPLAINTS[:1]}}

    monkeypatch.setattr("registry.cli.reviewing.client", lambda: nullcontext(Registry()))
    log = tmp_path / "answers.jsonl"
    log.write_text(json.dumps({**ROWS[0], "prompt": "Mail a@b.example: how much digoxin?"}))
    command = ["review", "complaints", "medical/coder@1", str(log), "--dry-run", "--json"]
    assert "Mail [e-mail]: how much" in CliRunner().invoke(build(), command).stdout
    kept = CliRunner().invoke(build(), [*command, "--no-redact"]).stdout
    assert "a@b.example" in kept
