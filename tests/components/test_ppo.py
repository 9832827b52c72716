"""Our PPO loop reaches an optimum that is known, and its parts compute what they say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from adapters.recipe import Ppo
from adapters.training.ppo import Loop, advantages, clipped_loss
from adapters.training.rollouts import Rollouts, draw, reference_of, sample, scored
from tests.support.tiny_model import one_thread

PROMPT = [2, 3, 4]
REWARDS = torch.tensor([0.0, 1.0, 0.5, 0.0, 2.0, 0.2, 0.0, 1.0])
BETA = 0.7


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    with one_thread():
        yield


def tiny_policy() -> Any:
    """A language model over eight tokens whose last projection is large enough to prefer some."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
    )
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"]
    return get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=targets))


def recipe(**changes: Any) -> Ppo:
    chosen = {
        "beta": BETA, "batch": 256, "steps": 60, "max_new_tokens": 1, "learning_rate": 0.02,
        "value_learning_rate": 0.05, "warmup_steps": 0, **changes,
    }  # fmt: skip
    return Ppo(adapter="demo/bandit", data=("rows.jsonl",), **chosen)


def first_token(model: Any) -> torch.Tensor:
    """The distribution of the first token of the answer."""
    with torch.no_grad():
        probabilities: torch.Tensor = model(torch.tensor([PROMPT])).logits[0, -1].softmax(-1)
    return probabilities


def test_it_learns_the_known_optimum_of_a_kl_regularised_bandit() -> None:
    """One token is one pull of an arm; the optimum is pi_ref exp(r / beta) / Z."""
    model = tiny_policy()
    loop = Loop(model, recipe(), part=256, pad=0, end=1)
    with reference_of(model):
        before = first_token(model)
    optimum = before * (REWARDS / BETA).exp()
    optimum /= optimum.sum()
    assert distance(before, optimum) > 0.3, "there is something to learn"

    def judge(_step: int, rollouts: Rollouts) -> torch.Tensor:
        return REWARDS[rollouts.ids[:, -1]]

    for step in range(60):
        loop.step(step, [PROMPT] * 256, judge)
    learnt = first_token(model)
    assert distance(learnt, optimum) < 0.02
    # Without the KL penalty it would put everything on the best arm.
    assert learnt.max() < optimum.max() + 0.03
    expected_divergence = float((learnt * (learnt / before).log()).sum())
    assert loop.history[-1]["kl"] == pytest.approx(expected_divergence, abs=0.15)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Total variation, in 0..1."""
    return float((a - b).abs().sum() / 2)


def test_advantages_of_a_perfect_critic_are_zero_and_lambda_one_gives_the_whole_return() -> None:
    rewards = torch.tensor([[0.0, -0.5, 2.0, 9.0]])
    mask = torch.tensor([[1, 1, 1, 0]])
    perfect = torch.tensor([[1.5, 1.5, 2.0, 9.0]])
    gained, returns = advantages(rewards, perfect, mask, 0.95)
    torch.testing.assert_close(gained, torch.zeros(1, 4))
    torch.testing.assert_close(returns, torch.tensor([[1.5, 1.5, 2.0, 0.0]]))
    gained, _ = advantages(rewards, torch.zeros(1, 4), mask, 1.0)
    torch.testing.assert_close(gained, torch.tensor([[1.5, 1.5, 2.0, 0.0]]))


@pytest.mark.parametrize(
    ("gained", "ratio", "gradient"),
    [(1.0, 1.5, 0.0), (1.0, 0.5, -0.5), (-1.0, 0.5, 0.0), (-1.0, 1.5, 1.5)],
)
def test_beyond_the_clip_only_a_way_back_has_a_gradient(
    gained: float, ratio: float, gradient: float
) -> None:
    new = torch.tensor(ratio).log().requires_grad_()
    loss = clipped_loss(new, torch.tensor(0.0), torch.tensor(gained), 0.2)
    (found,) = torch.autograd.grad(loss, new)
    torch.testing.assert_close(found, torch.tensor(gradient))


def test_an_answer_ends_with_its_end_token_and_padding_changes_no_probability() -> None:
    model = tiny_policy().eval()
    critic = torch.nn.Linear(16, 1)
    torch.manual_seed(1)
    prompts = [[2, 3, 4], [5, 6], [7]] * 8
    rollouts = sample(model, critic, prompts, most=6, pad=0, end=1)
    assert any(answer[-1] == 1 and len(answer) < 6 for answer in rollouts.answers)
    for row, (prompt, answer) in enumerate(zip(prompts, rollouts.answers, strict=True)):
        assert 1 not in answer[:-1]
        ids = torch.tensor([prompt + answer])
        alone, _ = scored(model, ids, torch.ones_like(ids), len(answer))
        torch.testing.assert_close(
            rollouts.logprobs[row, : len(answer)], alone[0], atol=1e-4, rtol=1e-3
        )


def test_a_checkpoint_brings_back_policy_critic_optimiser_and_chance(tmp_path: Path) -> None:
    def judge(_step: int, rollouts: Rollouts) -> torch.Tensor:
        return REWARDS[rollouts.ids[:, -1]]

    whole = Loop(tiny_policy(), recipe(steps=4, batch=8), part=256, pad=0, end=1)
    torch.manual_seed(3)
    for step in range(4):
        if step == 2:
            whole.save(tmp_path, 2)
        whole.step(step, [PROMPT] * 8, judge)
    resumed = Loop(tiny_policy(), recipe(steps=4, batch=8), part=256, pad=0, end=1)
    assert resumed.resume(tmp_path) == 2
    for step in (2, 3):
        resumed.step(step, [PROMPT] * 8, judge)
    assert resumed.history == whole.history
    torch.testing.assert_close(first_token(resumed.model), first_token(whole.model), atol=0, rtol=0)


def test_a_critic_that_is_far_off_does_not_shorten_the_policys_step() -> None:
    """Their gradients are clipped apart."""

    def after_one_epoch(returns: float) -> list[torch.Tensor]:
        model = tiny_policy()
        loop = Loop(model, recipe(batch=8), part=256, pad=0, end=1)
        torch.manual_seed(4)
        critic = torch.nn.Linear(16, 1)
        rollouts = sample(model, critic, [PROMPT] * 8, most=1, pad=0, end=1)
        gained = REWARDS[rollouts.ids[:, -1]][:, None]
        loop._epoch(rollouts, gained, torch.full_like(gained, returns))
        return [p.detach().clone() for p in model.parameters() if p.requires_grad]

    torch.testing.assert_close(after_one_epoch(0.0), after_one_epoch(1e4), rtol=0, atol=0)


def test_what_comes_with_the_base_does_not_change_what_is_sampled() -> None:
    """A repetition penalty in generation_config.json would make it another policy's sample."""

    def drawn(**preset: Any) -> list[list[int]]:
        model = tiny_policy()
        model.get_base_model().generation_config.update(**preset)
        torch.manual_seed(5)
        answers = draw(model, [PROMPT] * 8, most=6, pad=0, end=1).answers
        assert model.get_base_model().generation_config.repetition_penalty == preset.get(
            "repetition_penalty"
        ), "the model keeps its own"
        return answers

    assert drawn(repetition_penalty=50.0, bad_words_ids=[[4], [5], [6]]) == drawn()


def test_recomputed_activations_give_the_same_step() -> None:
    """Though nothing is in training mode, so that no dropout is drawn."""

    def stepped(**more: Any) -> list[torch.Tensor]:
        model = tiny_policy()
        if more:
            model.gradient_checkpointing_enable()
        loop = Loop(model, recipe(batch=8, **more), part=256, pad=0, end=1)
        torch.manual_seed(6)
        loop.step(0, [PROMPT] * 8, lambda _, rollouts: REWARDS[rollouts.ids[:, -1]])
        assert not any(module.training for module in model.modules())
        return [p.detach().clone() for p in model.parameters() if p.requires_grad]

    torch.testing.assert_close(stepped(gradient_checkpointing=True), stepped(), rtol=0, atol=1e-7)
