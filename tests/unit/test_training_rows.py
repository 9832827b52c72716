"""Nothing of a row is lost on the way to training: it is read whole, or refused by its number."""

import json
from pathlib import Path
from typing import Any

import pytest

from adapters.recipe import AnyRecipe, BadRecipe, parse_recipe
from adapters.training.conversations import Message
from adapters.training.data import Corpus, corpus_of

SYSTEM = {"role": "system", "content": "Answer with the ward."}
ASKED = {"role": "user", "content": "Hello."}
SAID = {"role": "assistant", "content": "Go ahead."}
THEN = {"role": "user", "content": "Which ward?"}
ANSWER = {"role": "assistant", "content": "urgent"}
WHOLE = [SYSTEM, ASKED, SAID, THEN, ANSWER]


def corpus(folder: Path, stage: str, *rows: Any, more: str = "") -> Corpus[Any]:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return corpus_of(recipe(f"stage: {stage}\ndata: {file}\n{more}"))


def recipe(text: str) -> AnyRecipe:
    return parse_recipe(f"adapter: demo/rows\nbase: tiny\n{text}")


def messages(*given: dict[str, str]) -> tuple[Message, ...]:
    return tuple(Message(**message) for message in given)


def test_every_answer_is_learnt_after_the_whole_conversation_before_it(tmp_path: Path) -> None:
    first, second = corpus(tmp_path, "sft", {"messages": WHOLE}).train
    assert (first.prompt, first.answer) == (messages(SYSTEM, ASKED), "Go ahead.")
    assert (second.prompt, second.answer) == (messages(SYSTEM, ASKED, SAID, THEN), "urgent")
    assert first.unit == second.unit == "Which ward?", "a split keeps a conversation together"


def test_an_answer_of_weight_0_and_a_greeting_are_context_only(tmp_path: Path) -> None:
    greeting = {"role": "assistant", "content": "Welcome."}
    row = {"messages": [greeting, ASKED, {**SAID, "weight": 0}, THEN, ANSWER]}
    (turn,) = corpus(tmp_path, "sft", row).train
    assert turn.prompt == messages(greeting, ASKED, SAID, THEN)


def test_of_prompt_and_completion_the_completion_alone_is_learnt(tmp_path: Path) -> None:
    (turn,) = corpus(tmp_path, "sft", {"prompt": WHOLE[:-1], "completion": [ANSWER]}).train
    assert (turn.prompt, turn.answer) == (messages(*WHOLE[:-1]), "urgent")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": WHOLE[:-1], "chosen": "urgent", "rejected": [{**ANSWER, "content": "routine"}]},
        {"chosen": WHOLE, "rejected": [*WHOLE[:-1], {**ANSWER, "content": "routine"}]},
        {"prompt": WHOLE[:-1], "chosen": WHOLE, "rejected": "routine"},
    ],
)
@pytest.mark.parametrize("stage", ["dpo", "reward"])
def test_pairs_keep_the_conversation_that_they_answer(
    stage: str, row: dict[str, Any], tmp_path: Path
) -> None:
    (pair,) = corpus(tmp_path, stage, row).train
    assert pair.prompt == messages(*WHOLE[:-1])
    assert (pair.chosen, pair.rejected) == ("urgent", "routine")


def test_thumbs_and_sampled_prompts_keep_it_too(tmp_path: Path) -> None:
    thumb = {"prompt": WHOLE[:-1], "completion": "urgent", "label": True}
    assert corpus(tmp_path, "kto", thumb).train[0].prompt == messages(*WHOLE[:-1])
    for row in ({"messages": WHOLE}, {"prompt": WHOLE[:-1], "completion": "urgent"}):
        (turn,) = corpus(tmp_path, "ppo", row).train
        assert (turn.prompt, turn.answer) == (messages(*WHOLE[:-1]), "urgent")
    (turn,) = corpus(tmp_path, "grpo", {"messages": WHOLE[:-1]}, more="reward: demo/r").train
    assert (turn.prompt, turn.answer) == (messages(*WHOLE[:-1]), "")


def test_sharegpt_and_content_in_parts_are_read(tmp_path: Path) -> None:
    shared = {
        "conversations": [{"from": "human", "value": "Hello."}, {"from": "gpt", "value": "A"}]
    }
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}]
    in_parts = {"messages": [{"role": "user", "content": parts}, {**SAID, "content": "A"}]}
    first, second = corpus(tmp_path, "sft", shared, in_parts).train
    assert first.prompt == second.prompt == messages(ASKED)


TOOL_CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}
PICTURE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [SYSTEM, ASKED]}, "end with one by the user: the answer is missing"),
        ({"messages": []}, "neither text nor a list of messages"),
        ({"messages": [ASKED, TOOL_CALL, ANSWER]}, "message 2: its key 'tool_calls' is not read"),
        ({"messages": [ASKED, {"role": "tool", "content": "7"}, ANSWER]}, "its role is 'tool'"),
        ({"messages": [PICTURE, ANSWER]}, "message 1: a part of its content is 'image_url'"),
        ({"messages": [{**ASKED, "content": " "}, ANSWER]}, "message 1: its content is empty"),
        ({"messages": [ASKED, {**ANSWER, "content": None}]}, "message 2: its content is None"),
        ({"messages": [ASKED, ANSWER, SYSTEM, ANSWER]}, "a system message stands only"),
        ({"messages": [ASKED, {**ANSWER, "weight": 0}]}, "none of its messages is an answer"),
        ({"messages": [ASKED, {**ANSWER, "weight": 2}]}, "weight is 2"),
        ({"messages": [ASKED, {**ANSWER, "reasoning_content": "hm"}]}, "'reasoning_content'"),
        ({"prompt": "Hello."}, "it lacks 'completion'"),
        ({"prompt": "Hello.", "completion": ""}, "the answer is empty"),
        ({"prompt": "Hello.", "completion": None}, "neither text nor a list of messages"),
        ({"prompt": [ASKED, SAID], "completion": "x"}, "ends with a message by the assistant"),
        ({"prompt": [ASKED], "completion": [SAID, THEN]}, "answer ends with a message by the user"),
        ({"prompt": [ASKED], "completion": [THEN, ANSWER]}, "are not the prompt's"),
        ({"prompt": "x", "completion": "y", "system": "Be brief."}, "its key 'system' is not read"),
        ({"instruction": "x", "input": "", "output": "y"}, "Alpaca's format"),
        (["x", "y"], "no JSON object"),
    ],
)
def test_what_would_be_lost_is_refused_with_the_rows_number(
    row: Any, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(BadRecipe, match=rf"rows.jsonl, row 2 does not suit .*{reason}"):
        corpus(tmp_path, "sft", {"prompt": "Hello.", "completion": "A"}, row)


@pytest.mark.parametrize(
    ("stage", "row", "reason"),
    [
        ("dpo", {"prompt": "x", "chosen": "y", "rejected": "y"}, "are the same"),
        ("dpo", {"prompt": [ASKED, SAID], "chosen": "y", "rejected": "z"}, "by the assistant"),
        ("dpo", {"chosen": WHOLE, "rejected": [ASKED, ANSWER]}, "are not the prompt's"),
        ("kto", {"prompt": "x", "completion": "y", "label": "good"}, "neither true nor false"),
        ("ppo", {"prompt": "x"}, "it lacks 'completion'"),
        ("rloo", {"prompt": [ASKED, SAID], "completion": "x"}, "by the assistant"),
    ],
)
def test_so_is_it_in_the_stages_that_judge(
    stage: str, row: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(BadRecipe, match=rf"row 1 does not suit .*{reason}"):
        corpus(tmp_path, stage, row)


def test_sampled_answers_must_leave_room_for_a_prompt() -> None:
    with pytest.raises(BadRecipe, match="max_tokens leaves no room for a prompt"):
        recipe("stage: ppo\ndata: x.jsonl\nmax_new_tokens: 64\nmax_tokens: 64")
