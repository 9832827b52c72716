"""What an answer is worth while a model trains on its own answers.

`verifiable` gives 1 for exactly the reference answer and 0 otherwise: no model judges. A reward
model gives its score, which is on no particular scale.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from adapters.training.device import base_dtype
from adapters.training.job import Job
from adapters.training.models import plain_prompt, reward_model
from adapters.training.rows import Turn

Reward = Callable[[Sequence[Turn], Sequence[str]], torch.Tensor]
"""From the rows that were asked and the answers given to one value each, (N,)."""


def reward_of(job: Job, tokenizer: Any) -> Reward:
    """The recipe's reward."""
    if job.reward is None:
        return verifiable
    return learnt(job.base, job.reward, tokenizer, base_dtype(job.recipe))


def learnt(
    base: Path, directory: Path, tokenizer: Any, dtype: torch.dtype = torch.float32
) -> Reward:
    """The score of a reward model that stage reward trained, on the device."""
    scored = reward_model(base, directory, tokenizer, dtype)

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
