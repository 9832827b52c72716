"""What preference training moved on held-out questions, by answers drawn from the two policies.

Greedy answers hide most of what a short training on preferences does: it moves probability, and an
answer changes only where another overtakes the first. So both models draw answers at temperature 1,
which is what the objectives of DPO and PPO are about: their expected reward, and how far the new
policy went for it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from adapters.packs import DomainPack, Item
from adapters.training.answering import load
from adapters.training.conversations import asking
from adapters.training.models import REFERENCE, encode, tokenizer_of
from adapters.training.packing import Example
from adapters.training.rewards import Reward, learnt
from adapters.training.rollouts import Rollouts, reference_of, sample, scored
from adapters.training.rows import Turn
from eval.statistics import Estimate, clustered_mean, paired_difference

BATCH = 16
MOST = 24
"""Tokens of an answer."""


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """A policy beside the one it was trained from, each with one answer drawn to each question.

    The intervals are clustered by what the split keeps together.
    """

    n: int
    kl: Estimate
    """KL(new || old), nats an answer: the mean of log new - log old over the new one's answers."""
    rewards: tuple[float, float]
    """The learnt reward's means, old and new."""
    reward: Estimate
    """By how much the new one's is higher."""
    right: tuple[float, float]
    """The mean probability of the right answer, old and new: the verifiable reward's expectation,
    exact where the learnt one's is estimated from one answer a question."""
    gain: Estimate
    """By how much the new one's is higher."""
    won: int
    """Questions whose new answer the reward model scores higher, the two being different."""
    lost: int

    @property
    def win_rate(self) -> float:
        """Share of the questions that the new policy wins; the same answer twice counts half."""
        return (self.won + (self.n - self.won - self.lost) / 2) / self.n

    def text(self) -> str:
        """Two lines for a person."""
        return (
            f"answers drawn: right {100 * self.right[0]:.1f} -> {100 * self.right[1]:.1f} % "
            f"({_signed(self.gain, 100)} points); KL {self.kl.value:.2f} nats an answer\n"
            f"learnt reward {self.rewards[0]:.2f} -> {self.rewards[1]:.2f} "
            f"({_signed(self.reward)}); win rate {100 * self.win_rate:.0f} % "
            f"({self.won} won, {self.lost} lost of {self.n})"
        )


def moved(
    base: Path,
    old: Path,
    new: Path,
    reward: Path,
    pack: DomainPack,
    items: Sequence[Item],
    progress: Callable[[int], None],
    seed: int = 0,
) -> Moved:
    """Draw from both adapters and judge by the reference answers and by the reward model."""
    tokenizer = tokenizer_of(base)
    rows = [Turn(asking(pack.question(item)), item.unit, item.label) for item in items]
    examples = [encode(tokenizer, row.prompt, row.answer) for row in rows]
    model = load(base, new)
    model.load_adapter(str(old), REFERENCE, is_trainable=False)
    torch.manual_seed(seed)
    divergence: list[float] = []
    said: tuple[list[str], list[str]] = ([], [])
    right: tuple[list[float], list[float]] = ([], [])
    for begin in range(0, len(examples), BATCH):
        part = examples[begin : begin + BATCH]
        with reference_of(model):
            right[0].extend(_chances(model, part, tokenizer))
            before = _draw(model, part, tokenizer)  # which looks at the reference, and leaves it
        after = _draw(model, part, tokenizer)
        right[1].extend(_chances(model, part, tokenizer))
        divergence += ((after.logprobs - after.reference) * after.mask).sum(1).tolist()
        for texts, drawn in zip(said, (before, after), strict=True):
            words = tokenizer.batch_decode(drawn.answers, skip_special_tokens=True)
            texts += [text.strip() for text in words]
        progress(begin + len(part))
    units = [item.unit for item in items]
    scores = [_scored(learnt(base, reward, tokenizer), rows, texts) for texts in said]
    pairs = [(b, a) for x, y, b, a in zip(*said, *scores, strict=True) if x != y]
    return Moved(
        n=len(items),
        kl=clustered_mean(divergence, units),
        rewards=_means(scores),
        reward=paired_difference(scores[1], scores[0], units),
        right=_means(right),
        gain=paired_difference(right[1], right[0], units),
        won=sum(after > before for before, after in pairs),
        lost=sum(after < before for before, after in pairs),
    )


def _draw(model: Any, part: Sequence[Example], tokenizer: Any) -> Rollouts:
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    prompts = [example.prompt for example in part]
    return sample(model, _no_critic, prompts, most=MOST, pad=pad, end=end)


@torch.no_grad()
def _chances(model: Any, part: Sequence[Example], tokenizer: Any) -> list[float]:
    """The probability that each example's own answer is drawn."""
    pad = tokenizer.pad_token_id
    width = max(len(example.prompt) for example in part)
    most = max(len(example.answer) for example in part)
    lengths = [(width - len(e.prompt), most - len(e.answer)) for e in part]
    ids = [
        [pad] * a + [*e.prompt, *e.answer] + [pad] * b
        for e, (a, b) in zip(part, lengths, strict=True)
    ]
    seen = torch.tensor([[0] * a + [1] * (width + most - a - b) + [0] * b for a, b in lengths])
    logprobs, _ = scored(model, torch.tensor(ids), seen, most)
    return [float(value) for value in (logprobs * seen[:, -most:]).sum(1).exp()]


def _no_critic(hidden: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(hidden[..., :1])


def _scored(
    reward: Reward,
    rows: Sequence[Turn],
    texts: Sequence[str],
) -> list[float]:
    scores: list[float] = []
    for begin in range(0, len(rows), BATCH):
        part = slice(begin, begin + BATCH)
        scores += reward(rows[part], texts[part]).tolist()
    return scores


def _means(pair: Sequence[Sequence[float]]) -> tuple[float, float]:
    old, new = pair
    return sum(old) / len(old), sum(new) / len(new)


def _signed(estimate: Estimate, times: float = 1) -> str:
    digits = 1 if times > 1 else 2
    value, low, high = (times * x for x in (estimate.value, estimate.low, estimate.high))
    return f"{value:+.{digits}f} [{low:+.{digits}f} .. {high:+.{digits}f}]"
