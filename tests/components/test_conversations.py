"""Conversations are trained on as plain TRL trains on them; rows that do not fit are refused."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import SFTConfig, SFTTrainer

from adapters.recipe import ALL_LINEAR, AnyRecipe, BadRecipe, parse_recipe
from adapters.training.data import corpus_of
from adapters.training.job import Job
from adapters.training.provenance import Provenance
from adapters.training.run import rehearse, run_stage, train
from tests.support.tiny_model import one_thread, write_tiny_model

GENERATION = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}"
    "{% else %}{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""The tiny model's chat template, as TRL needs it to find the assistant's tokens."""
CONVERSATION = [
    {"role": "system", "content": "Ward code is URGENT."},
    {"role": "user", "content": "Hello, a question."},
    {"role": "assistant", "content": "Go ahead."},
    {"role": "user", "content": "Which ward?"},
    {"role": "assistant", "content": "urgent"},
]


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "base")


def rows_in(folder: Path, *rows: dict[str, Any]) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def recipe(rows: Path, text: str) -> AnyRecipe:
    return parse_recipe(
        f"adapter: demo/x\nbase: tiny\ndata: {rows}\nrank: 4\nalpha: 8\nforgetting: false\n"
        f"warmup_steps: 0\n{text}"
    )


def run(base: Path, out: Path, rows: Path, text: str) -> Provenance:
    return train(recipe(rows, text), base, out, progress=lambda *_: None)[0]


def losses_of_trl(base: Path, folder: Path, row: dict[str, Any], **options: Any) -> list[float]:
    """What TRL's own trainer logs on that one row, again and again."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    if "assistant_only_loss" in options:
        tokenizer.chat_template = GENERATION
    set_seed(0)
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base),
        args=SFTConfig(
            output_dir=str(folder), max_steps=3, per_device_train_batch_size=1, learning_rate=0.01,
            logging_steps=1, report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
            save_strategy="no", max_length=None, seed=0, weight_decay=0.0,
            dataloader_pin_memory=False,
            **options,
        ),
        train_dataset=datasets.Dataset.from_list([row]),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules=list(ALL_LINEAR)),
    )  # fmt: skip
    trainer.train()
    return [record["loss"] for record in trainer.state.log_history if "loss" in record]


def test_messages_teach_what_trls_assistant_only_loss_teaches(base: Path, tmp_path: Path) -> None:
    row = {"messages": CONVERSATION}
    # Both answers of the conversation are one batch.
    text = "stage: sft\nbatch: 2\nsteps: 3\nlearning_rate: 0.01"
    ours = run(base, tmp_path / "out", rows_in(tmp_path, row), text)
    theirs = losses_of_trl(base, tmp_path / "trl", row, assistant_only_loss=True)
    assert [record["loss"] for record in ours.history] == pytest.approx(theirs, rel=1e-3)


def test_prompt_and_completion_teach_what_they_teach_in_trl(base: Path, tmp_path: Path) -> None:
    row = {"prompt": CONVERSATION[:-1], "completion": CONVERSATION[-1:]}
    text = "stage: sft\nbatch: 1\nsteps: 3\nlearning_rate: 0.01"
    ours = run(base, tmp_path / "out", rows_in(tmp_path, row), text)
    theirs = losses_of_trl(base, tmp_path / "trl", row)
    assert [record["loss"] for record in ours.history] == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("stage", ["dpo", "kto", "reward", "ppo", "rloo", "grpo"])
def test_every_stage_is_given_the_system_message_and_the_history(
    stage: str, base: Path, tmp_path: Path
) -> None:
    rest = {"completion": "urgent", "chosen": "urgent", "rejected": "routine"}
    histories = []
    for name, prompt in (("whole", CONVERSATION[:-1]), ("last", CONVERSATION[3:4])):
        folder = tmp_path / name
        folder.mkdir()
        rows = rows_in(folder, *({"prompt": prompt, "unit": str(n), **rest} for n in range(4)))
        sampled = "max_new_tokens: 4\n" if stage in ("ppo", "rloo", "grpo") else ""
        chosen = recipe(rows, f"stage: {stage}\nbatch: 4\nsteps: 2\n{sampled}")
        job = Job(
            recipe=chosen, base=base, start=None, reward=None, workspace=folder / "work",
            progress=lambda *_: None,
        )  # fmt: skip
        history = run_stage(job, corpus_of(chosen), folder / "saved").history
        # PPO logs no count of tokens; its sampled answers tell what they were sampled after.
        told = ("num_tokens", "length", "kl", "logps/chosen", "loss")
        histories.append([{key: r[key] for key in told if key in r} for r in history])
    assert histories[0] != histories[1]


LONG = "too long a word " * 40


@pytest.mark.parametrize(
    ("stage", "row"),
    [
        ("sft", {"prompt": LONG, "completion": "yes"}),
        ("sft", {"prompt": "Why?", "completion": LONG}),
        ("sft", {"messages": [*CONVERSATION[:3], {"role": "user", "content": LONG},
                              CONVERSATION[-1]]}),
        ("dpo", {"prompt": "Why?", "chosen": "yes", "rejected": LONG}),
        ("reward", {"prompt": LONG, "chosen": "yes", "rejected": "no"}),
        ("kto", {"prompt": "Why?", "completion": LONG, "label": False}),
        ("ppo", {"prompt": LONG, "completion": "yes"}),
        ("grpo", {"prompt": LONG, "completion": "yes"}),
    ],
)  # fmt: skip
def test_a_row_that_is_too_long_is_refused_by_its_number_or_dropped_and_counted(
    stage: str, row: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    short = {"prompt": "Who?", "completion": "me", "chosen": "me", "rejected": "you"}
    if stage == "kto":
        short = {"prompt": "Who?", "completion": "me", "label": True}  # type: ignore[dict-item]
    rows = rows_in(tmp_path, short, row, short, short)
    text = f"stage: {stage}\nbatch: 2\nsteps: 1\nmax_tokens: 120\n"
    text += "generations: 2\nmax_new_tokens: 8" if stage == "grpo" else ""
    steps: list[int] = []

    def attempt(more: str = "") -> Provenance:
        chosen = recipe(rows, f"{text}\n{more}")
        return train(chosen, base, tmp_path / "out", progress=lambda s, *_: steps.append(s))[0]

    for refused in (attempt, lambda: rehearse(recipe(rows, text), base)):
        with pytest.raises(BadRecipe, match=r"max_tokens=120 .*rows.jsonl, row 2 \(\d+\).*=drop"):
            refused()
    assert steps == []
    dropping = recipe(rows, f"{text}\ntoo_long: drop")
    assert rehearse(dropping, base)["dropped"] == 1
    if stage == "grpo":
        return  # no answer of a random model is right, so it learns nothing and is not admitted
    provenance = attempt("too_long: drop")
    assert provenance.dropped_items == 1
    assert (
        "1 items longer than 120 tokens were left out" in (tmp_path / "out/README.md").read_text()
    )


def test_an_answer_as_long_as_is_allowed_is_packed(base: Path, tmp_path: Path) -> None:
    rows = rows_in(tmp_path, {"prompt": "?", "completion": "y" * 245})

    def chosen(max_tokens: int) -> str:
        return f"stage: sft\nbatch: 2\nsteps: 1\nmax_tokens: {max_tokens}"

    with pytest.raises(BadRecipe) as refused:
        rehearse(recipe(rows, chosen(32)), base)
    (needed,) = map(int, re.findall(r"row 1 \((\d+)\)", refused.value.message))
    with pytest.raises(BadRecipe, match=rf"row 1 \({needed}\)"):
        rehearse(recipe(rows, chosen(needed - 1)), base)
    run(base, tmp_path / "out", rows, chosen(needed))


def test_replayed_rows_are_held_to_the_same_length(base: Path, tmp_path: Path) -> None:
    rows = rows_in(tmp_path, *({"prompt": f"{n}?", "completion": "y"} for n in range(4)))
    general = tmp_path / "general.jsonl"
    general.write_text(json.dumps({"prompt": LONG, "completion": "y"}))
    text = f"stage: sft\nbatch: 4\nsteps: 1\nreplay: 0.25\nreplay_data: {general}\nmax_tokens: 99"
    with pytest.raises(BadRecipe, match=r"general.jsonl, row 1"):
        run(base, tmp_path / "out", rows, text)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('System role not supported') }}", "System role not supported"),
        ("{{ messages[-1]['content'] }}<|assistant|>", r"does not show message 1 \(by the system"),
        (None, "has no chat template"),
    ],
)
def test_a_base_whose_template_cannot_show_the_conversation_is_refused(
    template: str | None, reason: str, tmp_path: Path
) -> None:
    base = write_tiny_model(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    (base / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(base)
    rows = rows_in(tmp_path, {"messages": CONVERSATION})
    with pytest.raises(BadRecipe, match=reason):
        run(base, tmp_path / "out", rows, "stage: sft\nbatch: 2\nsteps: 1")
