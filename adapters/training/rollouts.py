"""Answers sampled from a policy, and what the policy, its reference and its critic say of them.

The reference is the model that training started from: a frozen second adapter where training
continues one, else the base with the adapter switched off. The critic is one linear layer on the
policy's last hidden state, cut off from its gradient, so it cannot disturb the policy.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig

from adapters.training.models import REFERENCE


@dataclass(frozen=True, slots=True)
class Drawn:
    """N sampled answers of at most T tokens."""

    ids: torch.Tensor
    """Prompts padded on the left, then answers padded on the right: (N, P + T)."""
    seen: torch.Tensor
    """1 for each token that is no padding: (N, P + T)."""
    mask: torch.Tensor
    """1 for each token of an answer, its end included: (N, T)."""

    @property
    def answers(self) -> list[list[int]]:
        """The sampled tokens of each answer."""
        width = self.mask.shape[1]
        pairs = zip(self.ids[:, -width:], self.mask.bool(), strict=True)
        return [row[kept].tolist() for row, kept in pairs]


@dataclass(frozen=True, slots=True)
class Rollouts(Drawn):
    """The same with what is computed for them, each (N, T)."""

    logprobs: torch.Tensor
    """Of the sampled tokens under the policy that sampled them."""
    reference: torch.Tensor
    """The same under the reference."""
    values: torch.Tensor
    """The critic's expectation before each token."""

    def part(self, rows: slice) -> "Rollouts":
        """Some of the answers."""
        fields = (self.ids, self.seen, self.mask, self.logprobs, self.reference, self.values)
        return Rollouts(*(field[rows] for field in fields))


@torch.no_grad()
def draw(model: Any, prompts: Sequence[Sequence[int]], most: int, pad: int, end: int) -> Drawn:
    """One answer to each prompt, drawn from the model itself: temperature 1, nothing cut off."""
    width = max(len(prompt) for prompt in prompts)
    padded = [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    asked = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    seen = torch.tensor(asked, device=model.device)
    with _nothing_preset(model):
        ids = model.generate(
            input_ids=torch.tensor(padded, device=model.device),
            attention_mask=seen,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=most,
            pad_token_id=pad,
            eos_token_id=end,
        )
    ended = (ids[:, width:] == end).int()
    mask = (ended.cumsum(1) - ended == 0).int()
    return Drawn(ids, torch.cat([seen, mask], 1), mask)


@contextlib.contextmanager
def _nothing_preset(model: Any) -> Iterator[None]:
    """Within the block, nothing that comes with the base changes what is drawn.

    Its generation_config.json may hold a repetition penalty or the like.
    """
    own = model.get_base_model() if isinstance(model, PeftModel) else model
    before = own.generation_config
    own.generation_config = GenerationConfig()
    try:
        yield
    finally:
        own.generation_config = before


def sample(
    model: Any, critic: Any, prompts: Sequence[Sequence[int]], *, most: int, pad: int, end: int
) -> Rollouts:
    """What `draw` draws, and what policy, reference and critic say of it."""
    drawn = draw(model, prompts, most=most, pad=pad, end=end)
    ids, seen, mask = drawn.ids, drawn.seen, drawn.mask
    with torch.no_grad():
        logprobs, hidden = scored(model, ids, seen, mask.shape[1])
        values = critic(hidden).squeeze(-1)
        with reference_of(model):
            reference, _ = scored(model, ids, seen, mask.shape[1])
    return Rollouts(ids, seen, mask, logprobs, reference, values)


def scored(
    model: Any, ids: torch.Tensor, seen: torch.Tensor, answered: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (N, T) of the last T tokens, and the states (N, T, H) they follow from."""
    positions = (seen.cumsum(1) - 1).clamp(min=0)
    output = model(
        input_ids=ids,
        attention_mask=seen,
        position_ids=positions,
        logits_to_keep=answered + 1,
        output_hidden_states=True,
        use_cache=False,
    )
    logits = output.logits[:, :-1].float()
    chosen = ids[:, -answered:].unsqueeze(-1)
    logprobs = logits.log_softmax(-1).gather(-1, chosen).squeeze(-1)
    return logprobs, output.hidden_states[-1][:, -answered - 1 : -1].detach().float()


@contextlib.contextmanager
def reference_of(model: Any) -> Iterator[None]:
    """Within the block, the model is the one that training started from."""
    if REFERENCE not in model.peft_config:
        with model.disable_adapter():
            yield
        return
    model.set_adapter(REFERENCE)
    try:
        yield
    finally:
        model.set_adapter("default")
