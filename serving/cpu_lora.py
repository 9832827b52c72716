"""What adapters add to a layer on a CPU, computed once for each adapter of a step.

Extension point: the entry-point group `vllm.general_plugins`; vLLM calls `install` in each of its
processes. On a GPU it changes nothing.

vLLM 0.32 copies an adapter's matrices for every token of a step before it multiplies. Here the
tokens of one adapter are multiplied with its matrices together. And tokens without an adapter,
whose slot is -1, stay as they are. vLLM takes -1 for the last slot where a step also has tokens
with an adapter: an adapter in that slot changes what the base model answers.
"""

from typing import Any, TypeAlias

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

Rows: TypeAlias = slice | torch.Tensor
"""Which tokens of a step: consecutive ones, or their places."""


def install() -> None:
    """Let vLLM use `ByAdapter` where it runs on a CPU."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        path = f"{__name__}.{ByAdapter.__qualname__}"
        type(current_platform).get_punica_wrapper = classmethod(lambda _: path)


def rows_by_slot(slots: torch.Tensor) -> list[tuple[int, Rows]]:
    """Each adapter's slot and its tokens; those without an adapter are left out.

    slots: (N,), of each token.
    """
    found = []
    for slot in sorted(set(slots.tolist())):
        if slot < 0:
            continue
        places = (slots == slot).nonzero().squeeze(1)
        first, last = int(places[0]), int(places[-1])
        together = last - first + 1 == len(places)
        found.append((slot, slice(first, last + 1) if together else places))
    return found


class ByAdapter(PunicaWrapperCPU):  # type: ignore[misc] # vLLM ships no types for it
    """vLLM's computation of adapters on a CPU, one matrix product for each adapter of a step."""

    def update_metadata(self, *arguments: Any, **named: Any) -> None:
        """Called once before each step, with what the step computes."""
        super().update_metadata(*arguments, **named)
        self._tokens = rows_by_slot(self.token_lora_indices)
        self._sampled = rows_by_slot(self.sampler_indices)

    def _shrink_prefill(
        self, y: torch.Tensor, x: torch.Tensor, w_t_all: torch.Tensor, scale: float
    ) -> None:
        _shrink(self._tokens, y, x, w_t_all, scale)

    def _expand_prefill(
        self, y: torch.Tensor, x: torch.Tensor, w_t_all: torch.Tensor, add_inputs: bool
    ) -> None:
        _expand(self._tokens, y, x, w_t_all, add=add_inputs)

    def _expand_slice_prefill(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        w_t_all: torch.Tensor,
        y_offset: int,
        y_slice_size: int,
        add_inputs: bool,
    ) -> None:
        _expand(self._tokens, y[:, y_offset : y_offset + y_slice_size], x, w_t_all, add=add_inputs)

    _shrink_decode = _shrink_prefill
    _expand_decode = _expand_prefill
    _expand_slice_decode = _expand_slice_prefill

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **_: Any,
    ) -> None:
        """Add to the logits y (N, vocabulary) of the N sampled tokens what their adapters add."""
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        low = torch.zeros(x.shape[0], lora_b_stacked.shape[-1], device=x.device)
        _shrink(self._sampled, low, x, lora_a_stacked, scale)
        _expand(self._sampled, y, low, lora_b_stacked, add=True)


def _shrink(
    tokens: list[tuple[int, Rows]], y: torch.Tensor, x: torch.Tensor, a: torch.Tensor, scale: float
) -> None:
    """Set y = scale A x for each token. x: (N, in), y: (N, rank), a: (slots, 1, rank, in)."""
    for slot, rows in tokens:
        matrix = a[slot].view(a.shape[-2:]).to(y.dtype)
        y[rows, : len(matrix)] = scale * (x[rows].to(y.dtype) @ matrix.T)


def _expand(
    tokens: list[tuple[int, Rows]], y: torch.Tensor, x: torch.Tensor, b: torch.Tensor, *, add: bool
) -> None:
    """Set y = B x, or add it to y. x: (N, rank), y: (N, out), b: (slots, 1, out, rank)."""
    for slot, rows in tokens:
        matrix = b[slot].view(b.shape[-2:]).to(y.dtype)[: y.shape[1]]
        added = x[rows].to(y.dtype) @ matrix.T
        width = added.shape[1]
        if add:
            y[rows, :width] += added
        else:
            y[rows, :width] = added
