"""What an answer is worth while a model trains on its own answers.

`verifiable` gives 1 for exactly the reference answer and 0 otherwise: no model judges. A reward
model gives its score, which is on no particular scale.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from adapters.training.job import Job
from adapters.training.models import plain_prompt, reward_model
from adapters.training.rows import Turn

Reward = Callable[[Sequence[Turn], Sequence[str]], torch.Tensor]
"""From the rows that were asked and the answers given to one value each, (N,)."""


def reward_of(job: Job, tokenizer: Any) -> Reward:
    """The recipe's reward."""
    return verifiable if job.reward is None else learnt(job.base, job.reward, tokenizer)


def learnt(base: Path, directory: Path, tokenizer: Any) -> Reward:
    """The score of a reward model that stage reward trained."""
    scored = reward_model(base, directory, tokenizer)

    def reward(rows: Sequence[Turn], answers: Sequence[str]) -> torch.Tensor:
        texts = [
            plain_prompt(tokenizer, row.prompt) + answer + tokenizer.eos_token
            for row, answer in zip(rows, answers, strict=True)
        ]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
        with torch.no_grad():
            scores: torch.Tensor = scored(**inputs.to(scored.device)).logits.squeeze(-1)
        return scores.float().cpu()

    return reward


def verifiable(rows: Sequence[Turn], answers: Sequence[str]) -> torch.Tensor:
    """1 where the answer is the reference answer."""
    return torch.tensor(
        [float(answer.strip() == row.answer) for row, answer in zip(rows, answers, strict=True)]
    )
