"""Many short examples with the same beginning, computed in one sequence.

Every example of a task begins alike (system prompt, instruction). Here a batch becomes one
sequence: the shared beginning once, then each example's own tokens, which see the beginning and
themselves but not each other, at the positions they would have alone. Losses and gradients are
those of the unpacked batch; only the repeated work is gone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

IGNORED = -100
"""The label of a token that carries no loss, as PyTorch's cross entropy defines it."""


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of a prompt and of its answer."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def shared_length(examples: Sequence[Example]) -> int:
    """How many tokens all prompts begin with alike, short of the whole of any.

    Raises `ValueError` for an empty prompt: nothing would predict its answer's first token.
    """
    shortest = min(len(example.prompt) for example in examples) - 1
    if shortest < 0:
        raise ValueError("A prompt has no tokens.")
    first = examples[0].prompt
    for position in range(shortest):
        if any(example.prompt[position] != first[position] for example in examples):
            return position
    return shortest


def pack(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """One batch of one sequence of T tokens.

    input_ids, position_ids, labels: (1, T); attention_mask: (1, 1, T, T), true where a token (row)
    sees another (column).
    """
    shared = shared_length(examples)
    ids = list(examples[0].prompt[:shared])
    positions = list(range(shared))
    labels = [IGNORED] * shared
    spans = []
    for example in examples:
        own = example.prompt[shared:]
        begin = len(ids)
        ids += [*own, *example.answer]
        positions += range(shared, shared + len(own) + len(example.answer))
        labels += [*([IGNORED] * len(own)), *example.answer]
        spans.append((begin, len(ids)))
    mask = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    mask[:, :shared] = True
    mask[:shared, :shared] = torch.ones(shared, shared, dtype=torch.bool).tril()
    for begin, end in spans:
        size = end - begin
        mask[begin:end, begin:end] = torch.ones(size, size, dtype=torch.bool).tril()
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "labels": torch.tensor([labels]),
        "attention_mask": mask[None, None],
    }
