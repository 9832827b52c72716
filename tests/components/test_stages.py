"""Every stage moves its own measure on a tiny model, and ends in what it says it makes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adapters.admission import WEIGHTS, admit, files_in
from adapters.base_model import BaseModel
from adapters.recipe import BadRecipe, parse_recipe
from adapters.training.data import corpus_of
from adapters.training.job import Job, Record
from adapters.training.mistakes import with_own_mistakes
from adapters.training.models import tokenizer_of
from adapters.training.provenance import Provenance
from adapters.training.rows import Pair
from adapters.training.run import train
from tests.support.tiny_model import one_thread, write_rows, write_tiny_model


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    with one_thread():
        yield


class Bench:
    """A tiny base, and what was trained on it so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = write_tiny_model(folder / "base")
        self.rows = write_rows(folder / "rows.jsonl")
        self.liked = write_rows(folder / "liked.jsonl", always="alpha")

    def run(self, name: str, text: str) -> Provenance:
        recipe = parse_recipe(
            f"adapter: demo/{name}\nbase: tiny\ndata: {self.rows}\nbatch: 16\nwarmup_steps: 0\n"
            + text
        )
        out = self.folder / name
        return train(recipe, self.base, out, reuse=True, progress=lambda *_: None)[0]

    def admitted(self, name: str) -> bool:
        base = BaseModel.from_directory(self.base, "tiny")
        return admit(files_in(self.folder / name), base).problems == ()

    def card(self, name: str) -> str:
        return (self.folder / name / "README.md").read_text()

    @property
    def continued(self) -> str:
        """Continue the fine-tuned adapter, towards the one of its two answers that is liked."""
        self.sft()
        return f"start: {self.folder / 'sft'}\ndata: {self.liked}\n"

    @property
    def judged(self) -> str:
        """Reward by the reward model."""
        self.reward()
        return f"reward: {self.folder / 'reward'}\nmax_new_tokens: 6\n"

    def sft(self) -> Provenance:
        return self.run("sft", "stage: sft\nsteps: 60\nlearning_rate: 0.005\n")

    def reward(self) -> Provenance:
        text = (
            "stage: reward\nsteps: 20\nlearning_rate: 0.01\nvalidation: 0.3\nevaluate_every: 20\n"
        )
        return self.run("reward", f"{text}data: {self.liked}")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("stages"))


def column(history: list[Record], key: str) -> list[float]:
    return [record[key] for record in history if key in record]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_fine_tuning_learns_the_two_answers(bench: Bench) -> None:
    losses = column(bench.sft().history, "loss")
    assert losses[0] > 2
    assert mean(losses[-5:]) < 0.1
    assert bench.admitted("sft")
    assert "vLLM serves it per request" in bench.card("sft")


def test_a_reward_model_tells_right_from_wrong_on_pairs_it_never_saw(bench: Bench) -> None:
    (accuracy,) = column(bench.reward().history, "eval_accuracy")
    assert accuracy > 0.9
    assert bench.admitted("reward"), "a head of one score"
    assert "a server that writes refuses it" in bench.card("reward")


def test_a_reward_model_begins_with_what_the_adapter_that_it_starts_from_knows(
    bench: Bench,
) -> None:
    bench.sft()
    text = f"stage: reward\nsteps: 1\nlearning_rate: 1e-12\nstart: {bench.folder / 'sft'}\n"
    bench.run("started", f"{text}data: {bench.liked}")
    before, after = (load_file(bench.folder / name / WEIGHTS) for name in ("sft", "started"))
    assert set(after) > set(before), "the head that scores is added"
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor)


def test_pairs_that_nobody_judged_reject_what_the_model_itself_answers_wrongly(
    bench: Bench,
) -> None:
    bench.sft()  # it says alpha and beta in turn
    recipe = parse_recipe(f"stage: dpo\nadapter: demo/own\ndata: {bench.liked}\nsteps: 4")
    corpus = corpus_of(recipe)
    judged = [replace(pair, rejected="gamma") for pair in corpus.train]
    nobodys = [replace(pair, judged=False) for pair in judged]

    def made(pairs: list[Pair], start: Path | None) -> list[Pair]:
        job = Job(
            recipe=recipe, base=bench.base, start=start, reward=None,
            workspace=bench.folder, progress=lambda *_: None,
        )  # fmt: skip
        given = replace(corpus, train=tuple(pairs))
        return list(with_own_mistakes(job, given, tokenizer_of(bench.base)).train)

    tuned = bench.folder / "sft"
    assert made(judged, tuned) == judged, "what somebody rejected stays rejected"
    assert made(nobodys, None) == nobodys, "the bare base does not know the task"
    own = made(nobodys, tuned)
    assert ("alpha", "beta") in {(pair.chosen, pair.rejected) for pair in own}
    assert all(pair.rejected != "alpha" for pair in own)
    assert len(own) < len(nobodys), "where it was right there is nothing to prefer"
    for count in (3, len(judged) - 1):
        mixed = made([*judged[:count], *nobodys[count:]], tuned)
        assert sum(pair.rejected == "gamma" for pair in mixed) == count
    missed = {pair.prompt for pair in own}
    known = [pair for pair in nobodys if pair.prompt not in missed]
    torch.manual_seed(0)
    with pytest.raises(BadRecipe, match=r"answers every prompt right.*judged"):
        made(known[:3], tuned)


@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_preferences_are_learnt_relative_to_where_training_started(
    stage: str, bench: Bench
) -> None:
    text = f"stage: {stage}\nsteps: 10\nlearning_rate: 0.003\n"
    gained = column(bench.run(stage, text + bench.continued).history, "rewards/margins")
    assert abs(gained[0]) < 1e-3, "at first it is the model it is compared with"
    assert mean(gained[-3:]) > 0.1
    assert bench.admitted(stage)


@pytest.mark.parametrize("stage", ["ppo", "rloo", "grpo"])
def test_reinforcement_raises_the_learnt_reward_and_stays_near_where_it_began(
    stage: str, bench: Bench
) -> None:
    text = f"stage: {stage}\nsteps: 12\nlearning_rate: 0.003\nbeta: 0.02\n"
    history = bench.run(stage, text + bench.continued + bench.judged).history
    rewards, divergence = column(history, "reward"), column(history, "kl")
    assert len(rewards) == 12
    assert mean(rewards[-3:]) > mean(rewards[:3])
    assert abs(divergence[0]) < 1e-3, "at first it is the model that it began as"
    assert max(divergence) < 10
    assert bench.admitted(stage)


def test_replayed_rows_are_a_share_of_every_batch(bench: Bench) -> None:
    general = write_rows(bench.folder / "general.jsonl", count=5)
    text = f"stage: sft\nsteps: 2\nreplay: 0.25\nreplay_data: {general}\n"
    provenance = bench.run("replayed", text)
    assert provenance.plan.data_digest != bench.sft().plan.data_digest
    assert "general.jsonl`: 5 rows for replay" in bench.card("replayed")


def test_a_start_that_was_never_trained_is_refused_with_its_path(bench: Bench) -> None:
    with pytest.raises(BadRecipe, match=r"no trained adapter 'demo/nowhere'.*Train it first"):
        bench.run("x", "stage: dpo\nstart: demo/nowhere\n")


def test_tensorboard_is_written_if_it_is_asked_for_and_others_if_installed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage in ("sft", "ppo\nreward: verifiable\nmax_new_tokens: 2"):
        recipe = parse_recipe(
            f"adapter: demo/logged\nbase: tiny\ndata: {bench.rows}\nbatch: 4\nsteps: 1\n"
            "warmup_steps: 0\n"
            f"{'start: ' + str(bench.folder / 'sft') if stage != 'sft' else ''}\nstage: {stage}"
        )
        logs = bench.folder / f"logs-{recipe.stage}"
        out = bench.folder / "logged"
        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(logs))
        train(recipe, bench.base, out, progress=lambda *_: None, report_to=("tensorboard",))
        assert list(logs.rglob("events.out.tfevents.*"))
    with pytest.raises(BadRecipe, match="'comet' is not installed here"):
        train(recipe, bench.base, out, progress=lambda *_: None, report_to=("comet",))
