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


def test_alpacas_instruction_and_input_are_the_prompt_and_its_output_the_answer(
    tmp_path: Path,
) -> None:
    row = {"instruction": "Which ward?", "input": "Fever.", "output": "urgent"}
    whole = "Below is an instruction.\n### Which ward?\n### Fever.\n### Response: urgent"
    bare = {"instruction": "Which ward?", "input": "", "output": "urgent"}
    first, second = corpus(tmp_path, "sft", {**row, "text": whole}, bare).train
    assert (first.prompt, first.answer) == (
        (Message("user", "Which ward?\n\nFever."),), "urgent",
    )  # fmt: skip
    assert (second.prompt, second.answer) == (messages(THEN), "urgent")
    judged = {"instruction": "Which ward?", "chosen": "urgent", "rejected": "routine"}
    (pair,) = corpus(tmp_path, "dpo", judged).train
    assert (pair.prompt, pair.chosen, pair.rejected) == (messages(THEN), "urgent", "routine")


def test_openais_preferences_are_read_as_pairs(tmp_path: Path) -> None:
    row = {
        "input": {"messages": WHOLE[:-1], "tools": []},
        "preferred_output": [ANSWER],
        "non_preferred_output": [{**ANSWER, "content": "routine"}],
    }
    (pair,) = corpus(tmp_path, "dpo", row).train
    assert pair.prompt == messages(*WHOLE[:-1])
    assert (pair.chosen, pair.rejected) == ("urgent", "routine")
    for changed, reason in (
        ({"input": {"messages": WHOLE[:-1], "tools": [{"type": "function"}]}}, "key 'tools'"),
        ({"input": "Which ward?"}, "holds no messages"),
        ({"non_preferred_output": []}, "neither text nor a list of messages"),
    ):
        with pytest.raises(BadRecipe, match=rf"row 1 does not suit .*{reason}"):
            corpus(tmp_path, "dpo", {**row, **changed})


def test_keys_that_describe_a_row_or_repeat_what_is_read_are_passed_over(tmp_path: Path) -> None:
    described = {"id": 7, "source": "ward", "licence": "CC0", "tags": ["a"], "split": "train"}
    pair = {"prompt": "Which ward?", "chosen": [THEN, ANSWER], "rejected": "routine"}
    repeated = {**pair, **described, "messages": [THEN, ANSWER], "score_chosen": 9, "image": None}
    assert len(corpus(tmp_path, "dpo", repeated).train) == 1
    accepted = {"prompt": "Which ward?", "messages": [THEN, ANSWER], "label": True, **described}
    whole = corpus(tmp_path, "sft", repeated, accepted, {**pair, "completion": "urgent"}).train
    assert {(turn.prompt, turn.answer) for turn in whole} == {(messages(THEN), "urgent")}


def test_rows_of_the_domain_packs_data_are_read(tmp_path: Path) -> None:
    """As `lorary data --out` writes them."""
    item = {"split": "train", "text": "red eye", "label": "Eye", "unit": "7"}
    row = {**item, "prompt": "Which chapter?\n\nSymptom: red eye", "completion": "Eye"}
    assert corpus(tmp_path, "sft", row).train[0].unit == "7"
    assert corpus(tmp_path, "ppo", {**row, "unit": 0}).train[0].unit == "0"


TOOL_CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}
ROW = {"prompt": "Which?", "completion": "this"}


def part(text: Any, **more: Any) -> dict[str, Any]:
    """A message by the user in one part."""
    return {"role": "user", "content": [{"type": "text", "text": text, **more}]}


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
        ({"instruction": "x", "input": "", "output": ""}, "its output is no text, or empty"),
        ({"instruction": "", "input": "x", "output": "y"}, "its instruction is no text"),
        ({"instruction": "x", "input": ["z"], "output": "y"}, "its input is no text"),
        ({"instruction": "x", "input": ""}, "it lacks 'completion'"),
        ({"instruction": "x", "prompt": "z", "output": "y"}, "an instruction and a prompt"),
        ({"instruction": "x", "output": "y", "history": [["a", "b"]]}, "'history' is not read"),
        ({"instruction": "x", "output": "y", "text": "x, then z"}, "its key 'text' is not read"),
        (["x", "y"], "no JSON object"),
        ({**ROW, "label": False}, "was rejected"),
        ({**ROW, "accepted": False}, "its key 'accepted' is not read"),
        ({**ROW, "label": "routine"}, "its key 'label' is not read"),
        ({**ROW, "system_prompt": "Be brief."}, "its key 'system_prompt' is not read"),
        ({**ROW, "rationale": "hm"}, "its key 'rationale' is not read"),
        ({**ROW, "text": "other"}, "its key 'text' is not read"),
        ({**ROW, "chosen": "better"}, "its key 'chosen' is not read"),
        ({**ROW, "messages": [ASKED, ANSWER]}, "its key 'prompt' is not read"),
        ({"messages": [ASKED, ANSWER], "conversations": [ASKED, SAID]}, "'conversations' is not"),
        ({"messages": [ASKED, SAID, ANSWER]}, "message 3 by the assistant follows another"),
        ({"messages": [ASKED, {**SAID, "weight": 0}, ANSWER]}, "message 3 by the assistant"),
        ({"messages": [part(None), ANSWER]}, "message 1: the text of a part is None"),
        ({"messages": [part({"text": "x"}), ANSWER]}, "the text of a part is {'text': 'x'}"),
        ({"messages": [part("x", image="y"), ANSWER]}, "a part's key 'image' is not read"),
        ({"prompt": "x", "completion": [{**ANSWER, "weight": 0}]}, "its answer has weight 0"),
        ({"messages": [{**ASKED, "weight": 2}, ANSWER]}, "weight is 2"),
    ],
)
def test_what_would_be_lost_is_refused_with_the_rows_number(
    row: Any, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(BadRecipe, match=rf"rows.jsonl, row 2 does not suit .*{reason}"):
        corpus(tmp_path, "sft", {"prompt": "Hello.", "completion": "A"}, row)


PAIR = {"prompt": "x", "chosen": "y", "rejected": "z"}


@pytest.mark.parametrize(
    ("stage", "row", "reason"),
    [
        ("dpo", {"prompt": "x", "chosen": "y", "rejected": "y"}, "are the same"),
        ("dpo", {"prompt": [ASKED, SAID], "chosen": "y", "rejected": "z"}, "by the assistant"),
        ("dpo", {"chosen": WHOLE, "rejected": [ASKED, ANSWER]}, "are not the prompt's"),
        ("kto", {"prompt": "x", "completion": "y", "label": "good"}, "neither true nor false"),
        ("kto", {**PAIR, "label": True}, "it lacks 'completion'"),
        ("kto", {**PAIR, "completion": "w", "label": True}, "its key 'chosen' is not read"),
        ("dpo", {**PAIR, "label": False}, "its key 'label' is not read"),
        ("dpo", {**PAIR, "messages": WHOLE}, "its key 'messages' is not read"),
        ("dpo", {**PAIR, "completion": "w"}, "its key 'completion' is not read"),
        ("dpo", {**PAIR, "chosen": [{**ANSWER, "weight": 0}]}, "its answer has weight 0"),
        ("dpo", {**PAIR, "score_chosen": 1, "score_rejected": 9}, "is below score_rejected"),
        ("dpo", {"chosen": "Human: x", "rejected": "Human: y"}, "it lacks 'prompt'"),
        ("ppo", {**ROW, "messages": [ASKED]}, "its key 'prompt' is not read"),
        ("ppo", {**ROW, "label": False}, "was rejected"),
        ("ppo", {"messages": [ASKED, {**ANSWER, "weight": 0}]}, "its answer has weight 0"),
        ("ppo", {"prompt": "x"}, "it lacks 'completion'"),
        ("rloo", {"prompt": [ASKED, SAID], "completion": "x"}, "by the assistant"),
    ],
)
def test_so_is_it_in_the_stages_that_judge(
    stage: str, row: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(BadRecipe, match=rf"row 1 does not suit .*{reason}"):
        corpus(tmp_path, stage, row)


def test_a_key_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "x", "prompt": "y", "completion": "z"}\n')
    with pytest.raises(BadRecipe, match="a key twice"):
        corpus_of(recipe(f"stage: sft\ndata: {file}\n"))


@pytest.mark.parametrize(
    "line", ['{"prompt": "p\\ud800", "completion": "c"}', "[" * 100_000, '{"prompt"']
)
def test_a_line_that_cannot_be_read_is_refused_with_its_number(line: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "x", "completion": "z"}\n\n' + line + "\n")
    with pytest.raises(BadRecipe, match=r"is not JSON Lines: line 3: "):
        corpus_of(recipe(f"stage: sft\ndata: {file}\n"))


def test_sampled_answers_must_leave_room_for_a_prompt() -> None:
    with pytest.raises(BadRecipe, match="max_tokens leaves no room for a prompt"):
        recipe("stage: ppo\ndata: x.jsonl\nmax_new_tokens: 64\nmax_tokens: 64")
