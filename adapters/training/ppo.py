"""Reinforcement learning from a reward, by PPO-clip with a KL penalty to where training started.

Each step samples a batch of answers, takes their reward at the last token and the price of leaving
the reference at every token,

    r_t = -beta (log pi(a_t) - log pi_ref(a_t)) + [t is last] reward,

estimates advantages (Schulman et al., arXiv 1506.02438), and improves the clipped objective
(arXiv 1707.06347) for a few epochs. Where the reward judges whole answers, the optimum is known:
pi* proportional to pi_ref exp(reward / beta); a test holds the loop to it.

Advantages are not whitened: near the optimum all of them vanish, and dividing by their spread
would blow noise up to full steps.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.modeling_layers import GradientCheckpointingLayer

from adapters.recipe import Ppo
from adapters.training.data import Corpus
from adapters.training.device import device, random_state, restore_random_state
from adapters.training.fit import KEPT, MARKER, drawn, finished, newest_checkpoint
from adapters.training.forgetting import General
from adapters.training.job import Job, Outcome, Record
from adapters.training.models import REFERENCE, encode, policy, tokenizer_of
from adapters.training.processes import share
from adapters.training.rewards import reward_of
from adapters.training.rollouts import Rollouts, sample, scored
from adapters.training.rows import Turn
from adapters.training.trackers import Trackers

MAX_NORM = 1.0
"""To which the gradients of policy and critic are clipped, each of them."""

Judge = Callable[[int, Rollouts], torch.Tensor]
"""From the step and its answers to one reward each, (N,)."""


def advantages(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gae_lambda: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimates and the returns to fit the critic to, undiscounted.

    All: (N, T). Positions after an answer's end count nothing and are zero.
    """
    rewards, values = rewards * mask, values * mask
    following = torch.zeros_like(rewards[:, 0])
    gained = torch.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1])):
        after = values[:, t + 1] if t + 1 < rewards.shape[1] else torch.zeros_like(values[:, 0])
        following = rewards[:, t] + after - values[:, t] + gae_lambda * following
        gained[:, t] = following
    gained = gained * mask
    return gained, gained + values


def clipped_loss(
    new: torch.Tensor, old: torch.Tensor, gained: torch.Tensor, clip: float
) -> torch.Tensor:
    """Each token's loss: what the probability ratio gains, no more than `clip` allows."""
    ratio = (new - old).exp()
    return -torch.minimum(ratio * gained, ratio.clamp(1 - clip, 1 + clip) * gained)


def train(job: Job, corpus: Corpus[Turn], out: Path) -> Outcome:
    """Train the policy on the corpus's prompts and save the adapter to `out`."""
    recipe = job.recipe
    assert isinstance(recipe, Ppo)  # noqa: S101 - run.py chose by it
    part = share(recipe)
    transformers.set_seed(recipe.seed)
    tokenizer = tokenizer_of(job.base)
    model, peft_config = policy(job)
    if peft_config is None:
        model.load_adapter(str(job.start), REFERENCE, is_trainable=False)
    else:
        from peft import get_peft_model

        model = get_peft_model(model, peft_config)
    model.to(device())
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    rows = drawn(corpus.train, recipe.steps * recipe.batch, recipe.seed)
    prompts = [encode(tokenizer, row.prompt, "").prompt for row in rows]
    reward = reward_of(job, tokenizer)

    def judge(step: int, rollouts: Rollouts) -> torch.Tensor:
        asked = rows[step * recipe.batch : (step + 1) * recipe.batch]
        texts = tokenizer.batch_decode(rollouts.answers, skip_special_tokens=True)
        return reward(asked, texts)

    loop = Loop(model, recipe, part=part, pad=tokenizer.pad_token_id, end=tokenizer.eos_token_id)
    trackers = Trackers(job, model)
    general = General(job, model, tokenizer)
    begin = loop.resume(job.workspace)
    for step in range(begin, recipe.steps):
        batch = prompts[step * recipe.batch : (step + 1) * recipe.batch]
        record = loop.step(step, batch, judge)
        job.progress(step + 1, recipe.steps, record["loss"])
        trackers.log(record)
        if (step + 1) % recipe.save_every == 0 and step + 1 < recipe.steps:
            loop.save(job.workspace, step + 1)
    trackers.close()
    return finished(job, model, loop.history, general, out)


class Loop:
    """A policy in training: its model, critic and optimisers, and the record of its steps."""

    def __init__(self, model: Any, recipe: Ppo, *, part: int, pad: int, end: int) -> None:
        self.model = model.eval()  # dropout would tell the sampling and the learning policy apart
        self.history: list[Record] = []
        self._recipe = recipe
        self._part, self._pad, self._end = part, pad, end
        self._device = model.device
        self._critic = torch.nn.Linear(model.config.hidden_size, 1).to(self._device)
        torch.nn.init.zeros_(self._critic.weight)
        learnt = [p for n, p in model.named_parameters() if p.requires_grad and REFERENCE not in n]
        self._learnt = (learnt, list(self._critic.parameters()))
        rates = (recipe.learning_rate, recipe.value_learning_rate)
        self._optimizer = torch.optim.AdamW(
            [
                {"params": group, "lr": rate}
                for group, rate in zip(self._learnt, rates, strict=True)
            ],
            weight_decay=0.0,
        )
        self._schedule = transformers.get_scheduler(
            recipe.schedule,
            self._optimizer,
            num_warmup_steps=recipe.warmup_steps * recipe.epochs,
            num_training_steps=recipe.steps * recipe.epochs,
        )

    def step(self, number: int, prompts: Sequence[Sequence[int]], judge: Judge) -> Record:
        """Sample, judge, and improve; what happened."""
        recipe = self._recipe
        rollouts = sample(
            self.model,
            self._critic,
            prompts,
            most=recipe.max_new_tokens,
            pad=self._pad,
            end=self._end,
        )
        reward = judge(number, rollouts).to(self._device)
        divergence = (rollouts.logprobs - rollouts.reference) * rollouts.mask
        rewards = -recipe.beta * divergence
        last = rollouts.mask.sum(1) - 1
        rewards[torch.arange(len(last), device=self._device), last] += reward
        gained, returns = advantages(rewards, rollouts.values, rollouts.mask, recipe.gae_lambda)
        losses = [self._epoch(rollouts, gained, returns) for _ in range(recipe.epochs)]
        record = {
            "step": float(number + 1),
            "loss": losses[-1][0],
            "value_loss": losses[-1][1],
            "clipped": losses[-1][2],
            "reward": float(reward.mean()),
            "kl": float(divergence.sum(1).mean()),
            "length": float(rollouts.mask.sum(1).float().mean()),
        }
        self.history.append(record)
        return record

    def _epoch(
        self, rollouts: Rollouts, gained: torch.Tensor, returns: torch.Tensor
    ) -> tuple[float, float, float]:
        """One optimiser step on the whole batch: the two losses, and the share that was clipped."""
        recipe, tokens = self._recipe, rollouts.mask.sum()
        sums = torch.zeros(3, device=self._device)
        for begin in range(0, len(rollouts.ids), self._part):
            rows = slice(begin, begin + self._part)
            part = rollouts.part(rows)
            with _recomputing(self.model, recipe):
                new, hidden = scored(self.model, part.ids, part.seen, part.mask.shape[1])
            policy_loss = clipped_loss(new, part.logprobs, gained[rows], recipe.clip)
            value_loss = (self._critic(hidden).squeeze(-1) - returns[rows]) ** 2
            both = torch.stack([(loss * part.mask).sum() for loss in (policy_loss, value_loss)])
            torch.autograd.backward(both.sum() / tokens)
            clipped = ((new - part.logprobs).exp() - 1).abs() > recipe.clip
            sums += torch.stack([*both.detach(), (clipped * part.mask).sum()])
        for group in self._learnt:  # apart: the critic's far larger gradient would scale the other
            torch.nn.utils.clip_grad_norm_(group, MAX_NORM)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        policy_mean, value_mean, share = (sums / tokens).tolist()
        return policy_mean, value_mean, share

    def save(self, workspace: Path, step: int) -> None:
        """Write a checkpoint; the marker last."""
        folder = workspace / f"checkpoint-{step}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        state = {
            "policy": {n: p for n, p in self.model.named_parameters() if p.requires_grad},
            "critic": self._critic.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "random": random_state(),
            "history": self.history,
        }
        torch.save(state, folder / "state.pt")
        (folder / MARKER).touch()
        older = sorted(workspace.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
        for outlived in older[:-KEPT]:
            shutil.rmtree(outlived)

    def resume(self, workspace: Path) -> int:
        """Take up the newest whole checkpoint; the steps that are done."""
        checkpoint = newest_checkpoint(workspace)
        if checkpoint is None:
            return 0
        state = torch.load(checkpoint / "state.pt", weights_only=True, map_location="cpu")
        self.model.load_state_dict(state["policy"], strict=False)
        self._critic.load_state_dict(state["critic"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        restore_random_state(state["random"])
        self.history = state["history"]
        return int(checkpoint.name.rpartition("-")[2])


@contextlib.contextmanager
def _recomputing(model: Any, recipe: Ppo) -> Iterator[None]:
    """Within the block, layers keep no activations if the recipe says so.

    They do that in training mode only, which the model is not in: dropout stays off.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers:
        layer.training = recipe.gradient_checkpointing
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
