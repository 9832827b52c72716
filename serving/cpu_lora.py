"""What adapters add to a layer on a CPU, computed once for each adapter of a step.

Extension point: the entry-point group `vllm.general_plugins`; vLLM calls `install` in each of its
processes. On a GPU it changes nothing.

vLLM 0.32 copies an adapter's matrices for every token of a step before it multiplies. Here the
tokens of one adapter are multiplied with its matrices together. And tokens without an adapter,
whose slot is -1, stay as they are. vLLM takes -1 for the last slot where a step also has tokens
with an adapter: an adapter in that slot changes what the base model answers
(vllm-project/vllm#48421).
"""

from typing import Any, TypeAlias

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

Rows: TypeAlias = slice | torch.Tensor
"""Which tokens of a step: consecutive ones, or their places."""
SINGLY = 16
"""Tokens of an adapter, on average, from which on each adapter's are multiplied by themselves. Of
fewer, all are multiplied with every adapter of the step at once and what is not theirs is dropped:
the work is more, the calls are fewer."""


def install() -> None:
    """Let vLLM use `ByAdapter` where it runs on a CPU."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        path = f"{__name__}.{ByAdapter.__qualname__}"
        type(current_platform).get_punica_wrapper = classmethod(lambda _: path)


class Step:
    """Which adapters the tokens of a step have.

    slots: (N,), each token's slot, or -1.
    """

    def __init__(self, slots: torch.Tensor) -> None:
        self._used = sorted({slot for slot in slots.tolist() if slot >= 0})
        self._rows = [_rows(slots == slot) for slot in self._used]
        self._at_once = len(self._used) > 1 and len(slots) < SINGLY * len(self._used)
        self._own = slots == torch.tensor(self._used, dtype=slots.dtype)[:, None]

    def __bool__(self) -> bool:
        return bool(self._used)

    def products(self, x: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
        """Each token multiplied with the matrix of its adapter; zero for those without one.

        x: (N, in); matrices: (all slots, 1, out, in); the result: (N, out), in x's type.
        """
        if len(x) != self._own.shape[1]:
            raise ValueError(f"a step of {self._own.shape[1]} tokens computes {len(x)}")
        matrices = matrices.flatten(0, -3).to(x.dtype)
        if self._at_once:
            each = x @ matrices[self._used].mT
            # Not by multiplying: zero times the infinity of an overflowing adapter is NaN.
            return torch.where(self._own[..., None], each, 0).sum(0)
        found = x.new_zeros(x.shape[0], matrices.shape[-2])
        for slot, rows in zip(self._used, self._rows, strict=True):
            found[rows] = x[rows] @ matrices[slot].T
        return found


def _rows(own: torch.Tensor) -> Rows:
    """The places that are true, of which there is one. own: (N,)."""
    places = own.nonzero().squeeze(1)
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if last - first < len(places) else places


class ByAdapter(PunicaWrapperCPU):  # type: ignore[misc] # vLLM ships no types for it
    """vLLM's computation of adapters on a CPU, one matrix product for each adapter of a step."""

    def update_metadata(self, *arguments: Any, **named: Any) -> None:
        """Called once before each step, with what the step computes."""
        super().update_metadata(*arguments, **named)
        self._tokens = Step(self.token_lora_indices)
        self._sampled = Step(self.sampler_indices)

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


def _shrink(step: Step, y: torch.Tensor, x: torch.Tensor, a: torch.Tensor, scale: float) -> None:
    """Set y = scale A x for each token. x: (N, in), y: (N, rank), a: (slots, 1, rank, in)."""
    if not step:
        return
    y[:, : a.shape[-2]] = step.products(x, a)
    if scale != 1:
        y.mul_(scale)


def _expand(step: Step, y: torch.Tensor, x: torch.Tensor, b: torch.Tensor, *, add: bool) -> None:
    """Set y = B x, or add it to y. x: (N, rank), y: (N, out), b: (slots, 1, out, rank)."""
    if not step:
        return
    found = step.products(x.to(y.dtype), b)[:, : y.shape[1]]
    width = found.shape[1]
    if add:
        y[:, :width] += found
    else:
        y[:, :width] = found
