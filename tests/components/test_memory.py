"""What a training needs is said before it starts, and what does not fit is refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from adapters.recipe import AnyRecipe, DoesNotFit, parse_recipe
from adapters.training import memory
from adapters.training.fits import Fit
from adapters.training.run import train
from tests.support.tiny_model import one_thread, write_rows, write_tiny_model

LAYERS = 4


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose activations are large beside its weights."""
    folder = tmp_path_factory.mktemp("wide")
    config = LlamaConfig(
        vocab_size=300, hidden_size=64, intermediate_size=256, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=4,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def recipe(text: str) -> AnyRecipe:
    return parse_recipe(f"adapter: demo/x\nbase: wide\ndata: rows.jsonl\n{text}")


BATCH = memory.Load(sequences=4, tokens=64, predicted=8)


@pytest.mark.parametrize("text", ["stage: sft", "stage: reward", "stage: sft\nmethod: full"])
def test_what_two_layers_need_tells_what_all_need(text: str, wide: Path) -> None:
    chosen = recipe(text)
    told = memory.needed_bytes(chosen, wide, BATCH)
    (measured, _) = memory.measured(lambda: memory.step_of_layers(chosen, wide, BATCH, LAYERS))
    assert told == pytest.approx(measured, rel=0.05)
    assert measured > 3e6, "more than the weights"


def test_recomputed_activations_and_shorter_batches_need_less(wide: Path) -> None:
    whole = memory.needed_bytes(recipe("stage: sft"), wide, BATCH)
    less = memory.needed_bytes(recipe("stage: sft\ngradient_checkpointing: true"), wide, BATCH)
    short = memory.needed_bytes(recipe("stage: sft"), wide, memory.Load(1, 64, 8))
    assert less < 0.7 * whole
    assert short < 0.7 * whole


def test_in_a_container_cached_files_are_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (
        ("max", "1000"),
        ("current", "900"),
        ("stat", "anon 100\ninactive_file 700\n"),
    ):
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.free_bytes() == 800


def test_the_largest_batch_is_that_of_the_longest_row_and_of_both_answers_of_a_pair(
    tmp_path: Path,
) -> None:
    from adapters.training.data import corpus_of

    base, rows = write_tiny_model(tmp_path / "base"), write_rows(tmp_path / "rows.jsonl", count=20)

    def load(text: str) -> memory.Load:
        chosen = parse_recipe(f"adapter: demo/x\nbase: x\ndata: {rows}\nbatch: 4\n{text}")
        return memory.largest(chosen, corpus_of(chosen), base)

    pair, thumb = load("stage: dpo"), load("stage: kto")
    assert (pair.sequences, thumb.sequences) == (8, 4)
    assert pair.tokens == pair.predicted >= thumb.tokens
    packed, halves = load("stage: sft"), load("stage: sft\naccumulate: 2")
    assert packed.sequences == halves.sequences == 1
    assert halves.tokens < packed.tokens < 4 * pair.tokens, "the shared beginning counts once"
    assert load("stage: ppo\nmax_new_tokens: 9").predicted == 9


def test_what_does_not_fit_is_refused_before_training_with_what_would_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, rows = write_tiny_model(tmp_path / "base"), write_rows(tmp_path / "rows.jsonl", count=8)
    chosen = parse_recipe(
        f"stage: sft\nadapter: demo/x\nbase: x\ndata: {rows}\nbatch: 4\nsteps: 1\n"
        "forgetting: false\nwarmup_steps: 0\n"
    )
    told: list[Fit] = []
    steps: list[int] = []

    def attempt() -> None:
        train(
            chosen, base, tmp_path / "out", progress=lambda step, *_: steps.append(step),
            on_fit=told.append,
        )  # fmt: skip

    with monkeypatch.context() as patched:
        patched.setattr(memory, "free_bytes", lambda: 1000)
        with pytest.raises(DoesNotFit, match=r"does not fit: .* free on cpu. Set gradient_check"):
            attempt()
    assert steps == []
    attempt()
    assert steps == [1]
    assert [fit.fits for fit in told] == [False, True]
    assert "The largest step needs about" in told[1].said
