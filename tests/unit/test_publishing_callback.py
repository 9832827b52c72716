"""What `PublishCheckpoints` publishes, with which lineage, and what it refuses before training."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig

from adapters.admission import CARD, CONFIG, PROVENANCE, WEIGHTS
from adapters.errors import LoraryError
from adapters.training.callback import PublishCheckpoints
from tests.support.tiny_model import one_thread

ROWS = [{"input_ids": [n, n + 1, n + 2], "labels": [n, n + 1, n + 2]} for n in range(8)]
START = "demo/start@7"


@dataclass
class Registry:
    """Remembers what is published; fails as often as `failures` has errors."""

    pushed: list[dict[str, bytes]] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)

    def domain(self, name: str) -> Any:
        return {"name": name}

    def resolve(self, ref: str) -> Any:
        if ref not in (START, *(f"demo/queue@{n + 1}" for n in range(len(self.pushed)))):
            raise LoraryError(f"There is no {ref}.")

    def push(self, directory: Path, path: str, *, base: str | None = None) -> Any:
        if self.failures:
            raise self.failures.pop()
        names = (entry for entry in directory.rglob("*") if entry.is_file())
        self.pushed.append({str(n.relative_to(directory)): n.read_bytes() for n in names})
        return {"ref": f"{path}@{len(self.pushed)}"}

    def provenance(self, version: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.pushed[version - 1][PROVENANCE])
        return found

    def line(self) -> list[tuple[int, str | None]]:
        """Step and parent of every version."""
        stated = [self.provenance(n + 1) for n in range(len(self.pushed))]
        return [(one["step"], one["lineage"]["parent"]) for one in stated]


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def registry() -> Registry:
    return Registry()


def base_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2,
        )
    )  # fmt: skip


def adapted(**ranks: int) -> PeftModel:
    """A tiny model with adapters of these names and ranks; the first is trained."""
    (first, rank), *others = (ranks or {"default": 2}).items()
    model = get_peft_model(base_model(), lora(rank), adapter_name=first)
    for name, other in others:
        model.add_adapter(name, lora(other))
    return model


def lora(rank: int) -> LoraConfig:
    return LoraConfig(r=rank, target_modules=["q_proj"])


def trainer(
    out: Path,
    publish: PublishCheckpoints,
    model: Any = None,
    *,
    scores: tuple[float, ...] = (),
    **more: Any,
) -> Trainer:
    """A trainer that saves at every step; two steps by default.

    scores: what an evaluation finds after each step; the best step's checkpoint is loaded.
    """
    more = {"max_steps": 2, "save_steps": 1, "save_strategy": "steps", **more}
    if scores:
        more |= {
            "load_best_model_at_end": True, "metric_for_best_model": "score",
            "greater_is_better": True, "eval_strategy": "steps", "eval_steps": 1,
        }  # fmt: skip
    arguments = TrainingArguments(
        str(out), use_cpu=True, report_to=[], disable_tqdm=True, learning_rate=0.01, **more
    )
    left = iter(scores)
    return Trainer(
        model or adapted(),
        arguments,
        train_dataset=ROWS,
        eval_dataset=ROWS,
        callbacks=[publish],
        compute_metrics=(lambda _: {"score": next(left)}) if scores else None,
    )


@pytest.mark.parametrize("when", ["end", "save"])
@pytest.mark.parametrize(
    ("ranks", "active"),
    [
        ({"default": 2, "second": 3}, "second"),
        ({"default": 2, "ref": 3}, "default"),
        ({"coder": 2}, "coder"),
    ],
)
def test_of_several_adapters_the_trained_one_alone_is_published(
    when: Any, ranks: dict[str, int], active: str, registry: Registry, tmp_path: Path
) -> None:
    model = adapted(**ranks)
    model.set_adapter(active)
    publish = PublishCheckpoints(registry, "demo/queue", when=when)
    trainer(tmp_path, publish, model, max_steps=1).train()
    (files,) = registry.pushed
    assert set(files) == {CONFIG, WEIGHTS, CARD, PROVENANCE}
    assert json.loads(files[CONFIG])["r"] == ranks[active]
    down = next(value for name, value in load(files[WEIGHTS]).items() if "lora_A" in name)
    (layer,) = (module for module in model.modules() if hasattr(module, "lora_A"))
    assert torch.equal(down, layer.lora_A[active].weight)


def test_a_second_training_is_published_and_continues_the_first(
    registry: Registry, tmp_path: Path
) -> None:
    publish = PublishCheckpoints(registry, "demo/queue", parent=START)
    training = trainer(tmp_path, publish)
    training.train()
    training.train()
    assert publish.published == ["demo/queue@1", "demo/queue@2"]
    assert registry.line() == [(2, START), (2, "demo/queue@1")]


def test_arguments_are_published_without_texts_that_may_be_secret(
    registry: Registry, tmp_path: Path
) -> None:
    publish = PublishCheckpoints(registry, "demo/queue")
    arguments = SFTConfig(
        str(tmp_path), use_cpu=True, bf16=False, report_to=[], learning_rate=0.03,
        lr_scheduler_type="cosine", loss_type="dft", lr_scheduler_kwargs={"num_cycles": 0.5},
        model_init_kwargs={"token": "hf_secret"}, hub_token="hf_secret",
        chat_template_path="/home/secret", run_name="secret", project="secret",
    )  # fmt: skip
    state = TrainerState(global_step=4)
    publish.on_train_end(arguments, state, TrainerControl(), model=adapted())
    assert b"secret" not in registry.pushed[0][PROVENANCE]
    stated = registry.provenance(1)["arguments"]
    chosen = ("learning_rate", "packing", "lr_scheduler_type", "loss_type", "lr_scheduler_kwargs")
    assert [stated[name] for name in chosen] == [0.03, False, "cosine", "dft", {"num_cycles": 0.5}]


def test_an_error_of_the_system_at_a_save_does_not_end_the_training(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry.failures = [OSError(28, "No space left on device")]
    publish = PublishCheckpoints(registry, "demo/queue", when="save")
    trainer(tmp_path, publish).train()
    assert "was not published, training goes on: [Errno 28]" in caplog.text
    assert registry.line() == [(2, None)]


def test_a_version_whose_record_cannot_be_written_counts_as_published(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "published.partial").mkdir()
    publish = PublishCheckpoints(registry, "demo/queue", when="save")
    trainer(tmp_path, publish).train()
    assert publish.published == ["demo/queue@1", "demo/queue@2"]
    assert "demo/queue@1 is not recorded for a resumed training" in caplog.text
    assert "was not published" not in caplog.text


def test_a_missing_card_is_reported_before_anything_is_trained(
    registry: Registry, tmp_path: Path
) -> None:
    publish = PublishCheckpoints(registry, "demo/queue", card=tmp_path / "absent.md")
    with pytest.raises(ValueError, match=r"no card .*absent\.md"):
        trainer(tmp_path, publish).train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_the_best_model_is_published_with_the_step_and_the_parent_of_its_checkpoint(
    registry: Registry, tmp_path: Path
) -> None:
    publish = PublishCheckpoints(registry, "demo/queue", when="save", parent=START)
    training = trainer(tmp_path, publish, scores=(2.0, 1.0))
    training.train()
    assert training.state.best_model_checkpoint == str(tmp_path / "checkpoint-1")
    assert registry.line() == [(1, START), (2, "demo/queue@1"), (1, START)]
    best = (tmp_path / "checkpoint-1" / WEIGHTS).read_bytes()
    assert registry.pushed[2][WEIGHTS] == best != registry.pushed[1][WEIGHTS]


def test_a_best_model_that_was_the_last_save_is_not_published_twice(
    registry: Registry, tmp_path: Path
) -> None:
    publish = PublishCheckpoints(registry, "demo/queue", when="save")
    trainer(tmp_path, publish, scores=(1.0, 2.0)).train()
    assert registry.line() == [(1, None), (2, "demo/queue@1")]


def test_a_resumed_training_continues_its_own_last_version(
    registry: Registry, tmp_path: Path
) -> None:
    def publish() -> PublishCheckpoints:
        return PublishCheckpoints(registry, "demo/queue", when="save", parent=START)

    trainer(tmp_path, publish()).train()
    resumed = publish()
    trainer(tmp_path, resumed, max_steps=3).train(resume_from_checkpoint=True)
    assert registry.line() == [(1, START), (2, "demo/queue@1"), (3, "demo/queue@2")]
    assert resumed.published == ["demo/queue@1", "demo/queue@2", "demo/queue@3"]
    finished = publish()
    trainer(tmp_path, finished, max_steps=3).train(resume_from_checkpoint=True)
    assert finished.published == resumed.published, "nothing was left to train"
    earlier = str(tmp_path / "checkpoint-1")
    again = publish()
    trainer(tmp_path, again).train(resume_from_checkpoint=earlier)
    assert registry.line()[3:] == [(2, "demo/queue@1")]
    assert again.published == ["demo/queue@1", "demo/queue@4"], (
        "not what came after that checkpoint"
    )


def test_a_new_training_in_the_folder_of_an_old_one_continues_nothing_of_it(
    registry: Registry, tmp_path: Path
) -> None:
    def publish() -> PublishCheckpoints:
        return PublishCheckpoints(registry, "demo/queue", when="save", parent=START)

    trainer(tmp_path, publish(), max_steps=1).train()
    registry.failures = [OSError(28, "No space left on device") for _ in ("save", "end")]
    with pytest.raises(OSError, match="No space"):
        trainer(tmp_path, publish(), max_steps=1).train()
    trainer(tmp_path, publish()).train(resume_from_checkpoint=True)
    assert registry.line() == [(1, START), (2, START)]


def test_a_resumed_training_whose_version_is_in_no_registry_does_not_start(
    registry: Registry, tmp_path: Path
) -> None:
    trainer(tmp_path, PublishCheckpoints(registry, "demo/queue")).train()
    other = PublishCheckpoints(Registry(), "demo/queue")
    with pytest.raises(LoraryError, match="demo/queue@1"):
        trainer(tmp_path, other, max_steps=3).train(resume_from_checkpoint=True)


def test_a_model_that_trains_no_adapter_or_several_is_refused_before_training(
    registry: Registry, tmp_path: Path
) -> None:
    publish = PublishCheckpoints(registry, "demo/queue")
    with pytest.raises(ValueError, match="no adapter"):
        trainer(tmp_path, publish, base_model()).train()
    both = adapted(default=2, second=3)
    both.base_model.set_adapter(["default", "second"])
    with pytest.raises(ValueError, match="2 adapters"):
        trainer(tmp_path, publish, both).train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_training_that_accelerate_shards_is_published_from_its_checkpoint(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = PublishCheckpoints(registry, "demo/queue")
    training = trainer(tmp_path, publish, save_strategy="no")
    control = TrainerControl()
    begin, end = TrainerState(global_step=0), TrainerState(global_step=2)
    adapted().save_pretrained(tmp_path / "checkpoint-2")
    saved = (tmp_path / "checkpoint-2" / WEIGHTS).read_bytes()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="sharded"):
        publish.on_train_begin(training.args, begin, control, model=training.model)
    publish.on_train_end(training.args, end, control, model=adapted(default=3))
    assert registry.pushed[0][WEIGHTS] == saved
