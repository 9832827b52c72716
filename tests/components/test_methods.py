"""Every method trains, loads in unmodified PEFT, and says whether vLLM can serve it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, get_scheduler, set_seed

from adapters.admission import admit, files_in
from adapters.base_model import BaseModel
from adapters.errors import InvalidAdapter
from adapters.recipe import ALL_LINEAR, AnyRecipe, Method, Recipe, parse_recipe
from adapters.training.answering import load
from adapters.training.converting import convert, merge
from adapters.training.data import corpus_of
from adapters.training.fit import drawn
from adapters.training.forgetting import (
    general_right,
    packed_likelihoods,
    padded_likelihoods,
)
from adapters.training.models import base_model, encode, peft_config, tokenizer_of
from adapters.training.provenance import existing
from adapters.training.run import rehearse, train
from adapters.training.serving import not_served
from tests.support.tiny_model import one_thread, write_rows, write_tiny_model

SERVED = ("lora", "rslora", "qlora")
CONVERTED = ("dora", "ia3")
VIRTUAL = ("prefix", "prompt")


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    with one_thread():
        yield


class Trained:
    """One result of each method, trained on first use."""

    def __init__(self, folder: Path) -> None:
        self.base = write_tiny_model(folder / "base")
        self.rows = write_rows(folder / "rows.jsonl")
        self._folder = folder

    def recipe(self, method: str) -> AnyRecipe:
        rate = 0.5 if method in ("ia3", *VIRTUAL) else 0.01
        return parse_recipe(
            f"stage: sft\nadapter: demo/{method}\nbase: tiny\ndata: {self.rows}\nbatch: 4\n"
            f"steps: 4\nrank: 4\nalpha: 8\nwarmup_steps: 0\nlearning_rate: {rate}\n"
            f"method: {method}"
        )

    def __call__(self, method: str) -> Path:
        out = self._folder / method
        if not out.exists():
            train(self.recipe(method), self.base, out, progress=lambda *_: None)
        return out

    def problems(self, directory: Path) -> str:
        base = BaseModel.from_directory(self.base, "tiny")
        return " ".join(str(problem) for problem in admit(files_in(directory), base).problems)

    def logits(self, adapter: Path | None = None, model: Path | None = None) -> torch.Tensor:
        """What base, base with adapter by plain PEFT, or another model says of one text."""
        loaded = AutoModelForCausalLM.from_pretrained(model or self.base, dtype=torch.float32)
        if adapter is not None:
            loaded = PeftModel.from_pretrained(loaded, adapter)
        with torch.no_grad():
            said: torch.Tensor = loaded.eval()(torch.arange(5, 25)[None]).logits[0, -20:]
        return said


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("methods"))


@pytest.mark.parametrize("method", [*SERVED, *CONVERTED, *VIRTUAL])
def test_the_result_loads_in_unmodified_peft_and_does_something(
    method: str, trained: Trained
) -> None:
    with_adapter = trained.logits(trained(method))
    assert (with_adapter - trained.logits()).abs().max() > 1e-3


@pytest.mark.parametrize("method", ["lora", "prefix", "full"])
def test_general_questions_are_asked_of_the_base_before_and_of_the_result_after(
    trained: Trained, method: str
) -> None:
    out = trained(method)
    provenance = existing(out)
    assert provenance is not None
    asked = provenance.forgetting
    assert asked is not None
    tokenizer = tokenizer_of(trained.base)
    before, after = (
        general_right(load(trained.base, adapter), tokenizer) for adapter in (None, out)
    )
    assert (asked.before, asked.after, asked.of) == (sum(before), sum(after), len(before))
    assert asked.lost == sum(b and not a for b, a in zip(before, after, strict=True))
    assert f"{asked.after} after it" in (out / "README.md").read_text()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_question_computed_once_for_all_its_answers_gives_each_the_same_likelihood(
    trained: Trained, method: str
) -> None:
    model = load(trained.base, trained(method))
    prompt, answers = list(range(5, 40)), [[3, 4], [7], [9, 10, 11], [12, 3]]
    with torch.no_grad():
        packed = packed_likelihoods(model, prompt, answers)
        assert packed == pytest.approx(padded_likelihoods(model, prompt, answers), abs=1e-4)


def test_qlora_learns_the_same_after_the_model_was_asked_something(trained: Trained) -> None:
    """bitsandbytes' layers change their layout when asked without gradients, on some CPUs."""

    def gradients(asked_before: bool) -> list[torch.Tensor]:
        set_seed(0)
        recipe = trained.recipe("qlora")
        assert isinstance(recipe, Recipe)
        model = get_peft_model(base_model(recipe, trained.base), peft_config(recipe))
        if asked_before:
            general_right(model, tokenizer_of(trained.base))
        tokens = torch.arange(5, 25)[None]
        model.train()(input_ids=tokens, labels=tokens).loss.backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    undisturbed, asked = gradients(asked_before=False), gradients(asked_before=True)
    assert any(gradient.abs().max() > 0 for gradient in undisturbed)
    torch.testing.assert_close(asked, undisturbed, rtol=0, atol=0)


@pytest.mark.parametrize("method", Method.__args__)  # type: ignore[attr-defined]
def test_what_vllm_cannot_serve_says_so_and_is_refused_by_admission(
    method: str, trained: Trained
) -> None:
    said, problems = not_served(trained.recipe(method)), trained.problems(trained(method))
    if method in SERVED:
        assert said is None
        assert problems == ""
        return
    assert said is not None
    assert problems
    assert said in (trained(method) / "README.md").read_text().replace("\n", " ")
    assert ("lorary convert" in said) == (method in CONVERTED)


@pytest.mark.parametrize("method", [*CONVERTED, "full"])
def test_at_full_rank_the_conversion_to_plain_lora_is_exact(
    method: str, trained: Trained, tmp_path: Path
) -> None:
    source = trained(method)
    if method == "full":  # embeddings and norms were trained, too: no LoRA holds that
        with pytest.raises(InvalidAdapter, match=r"embed_tokens.*lorary merge"):
            convert(source, trained.base, tmp_path / "lora", rank=64)
        return
    made = convert(source, trained.base, tmp_path / "lora", rank=64)
    assert made.error < 1e-3
    assert "the conversion is exact" in (tmp_path / "lora" / "README.md").read_text()
    torch.testing.assert_close(
        trained.logits(tmp_path / "lora"), trained.logits(source), atol=1e-3, rtol=1e-3
    )
    assert trained.problems(tmp_path / "lora") == ""


def test_at_a_lower_rank_what_is_lost_is_measured_and_stated(
    trained: Trained, tmp_path: Path
) -> None:
    source = trained("dora")
    made = convert(source, trained.base, tmp_path / "lora", rank=4)
    finer = convert(source, trained.base, tmp_path / "finer", rank=16)
    assert 0.01 < finer.error < made.error < 1
    assert made.worst >= made.error
    assert (
        f"{100 * made.error:.1f} % of the update's norm is lost"
        in (tmp_path / "lora" / "README.md").read_text()
    )
    assert trained.problems(tmp_path / "lora") == ""


@pytest.mark.parametrize("method", ["lora", *CONVERTED])
def test_a_merged_model_says_what_base_and_adapter_say(
    method: str, trained: Trained, tmp_path: Path
) -> None:
    merge(trained(method), trained.base, tmp_path / "model")
    torch.testing.assert_close(
        trained.logits(model=tmp_path / "model"),
        trained.logits(trained(method)),
        atol=1e-4,
        rtol=1e-3,
    )


@pytest.mark.parametrize("method", VIRTUAL)
def test_virtual_tokens_can_be_neither_merged_nor_converted(
    method: str, trained: Trained, tmp_path: Path
) -> None:
    for attempt in (
        lambda: merge(trained(method), trained.base, tmp_path / "out"),
        lambda: convert(trained(method), trained.base, tmp_path / "out", rank=4),
    ):
        with pytest.raises(InvalidAdapter, match=r"virtual tokens.*train a LoRA instead"):
            attempt()
    assert not (tmp_path / "out").exists()


def test_our_packed_recipe_and_plain_peft_code_give_the_same_loss_curve(
    trained: Trained, tmp_path: Path
) -> None:
    recipe = trained.recipe("lora").changed(["steps=10", "warmup_steps=2"])
    provenance, _ = train(recipe, trained.base, tmp_path / "o", progress=lambda *_: None)
    ours = [record["loss"] for record in provenance.history]
    assert ours == pytest.approx(by_plain_peft(trained.base, recipe), rel=1e-3)
    assert ours[-1] < ours[0] / 1.2


def by_plain_peft(base: Path, recipe: Recipe) -> list[float]:
    """The losses of a loop with nothing of ours but the order of the rows: no packing, padding."""
    tokenizer = tokenizer_of(base)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    set_seed(recipe.seed)
    config = LoraConfig(
        r=recipe.rank, lora_alpha=recipe.alpha, target_modules=list(ALL_LINEAR), lora_dropout=0.0
    )
    model = get_peft_model(model, config).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
    schedule = get_scheduler("linear", optimizer, recipe.warmup_steps, recipe.steps)
    rows = drawn(corpus_of(recipe).train, recipe.steps * recipe.batch, recipe.seed)
    losses = []
    for step in range(recipe.steps):
        batch = rows[step * recipe.batch : (step + 1) * recipe.batch]
        examples = [encode(tokenizer, row.prompt, row.answer) for row in batch]
        sequences = [torch.tensor([*e.prompt, *e.answer]) for e in examples]
        ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        labels = torch.full_like(ids, -100)
        for row, example in enumerate(examples):
            begin = len(example.prompt)
            labels[row, begin : begin + len(example.answer)] = torch.tensor(example.answer)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_a_dry_run_tells_time_and_memory_and_leaves_nothing(trained: Trained) -> None:
    estimate = rehearse(trained.recipe("lora").changed(["steps=1000"]), trained.base)
    assert estimate["steps"] == 1000
    assert estimate["seconds"] > 1000 * estimate["step_seconds"] > 0
    assert estimate["peak_bytes"] > 100e6, "torch alone takes more than this"
    assert estimate["trainable"] < estimate["parameters"]
    assert 0 < estimate["needed_bytes"] < estimate["free_bytes"]
