"""Adapters on a CPU: each token gets its own adapter's update and no other, the base model none."""

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from serving.cpu_lora import ByAdapter, install

SLOTS, RANK, IN, OUT = 4, 8, 48, (32, 16)
NAMES = [7, None, 9, 8]
"""Which adapter is in which slot, by its number in vLLM."""


def ready(adapters: Sequence[int]) -> ByAdapter:
    """As before a step in which each token belongs to one of `adapters`; 0: to none."""
    made = ByAdapter(96, 96, "cpu")
    mapping = SimpleNamespace(
        index_mapping=tuple(adapters), prompt_mapping=tuple(adapters), is_prefill=True
    )
    made.update_metadata(mapping, NAMES, SLOTS + 1, 100)
    return made


@given(
    adapters=st.lists(st.sampled_from([0, 7, 8, 9]), min_size=1, max_size=24),
    seed=st.integers(0, 9),
)
def test_each_token_gets_its_own_adapters_update_and_the_base_models_none(
    adapters: list[int], seed: int
) -> None:
    torch.manual_seed(seed)
    a = [torch.randn(SLOTS, 1, RANK, IN) for _ in OUT]
    b = [torch.randn(SLOTS, 1, out, RANK) for out in OUT]
    x, before = torch.randn(len(adapters), IN), torch.randn(len(adapters), sum(OUT))
    found, wanted = before.clone(), before.clone()
    ready(adapters).add_lora_linear(found, x, tuple(a), tuple(b), 0.5, OUT)
    for token, adapter in enumerate(adapters):
        if adapter:
            slot = NAMES.index(adapter)
            parts = [0.5 * (b[i][slot, 0] @ (a[i][slot, 0] @ x[token])) for i in range(len(OUT))]
            wanted[token] += torch.cat(parts)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("adapters", [[0, 0], [0, 8], [8, 7, 0, 8]])
def test_logits_and_embeddings_of_the_base_model_stay_as_they_are(adapters: list[int]) -> None:
    wrapper = ready(adapters)
    a, b = torch.randn(SLOTS, 1, RANK, IN), torch.randn(SLOTS, 1, 100, RANK)
    logits = torch.zeros(len(adapters), 100)
    wrapper.add_lora_logits(logits, torch.randn(len(adapters), IN), a, b, 1.0)
    embedded = torch.zeros(len(adapters), 100)
    wrapper.add_lora_embedding(embedded, torch.randn(len(adapters), RANK), b)
    for token, adapter in enumerate(adapters):
        assert bool(logits[token].any()) == bool(adapter)
        assert bool(embedded[token].any()) == bool(adapter)


def test_tokens_of_another_step_are_refused() -> None:
    with pytest.raises(ValueError, match="a step of 2 tokens computes 3"):
        ready([8, 0]).add_lora_embedding(
            torch.zeros(3, 100), torch.randn(3, RANK), torch.randn(SLOTS, 1, 100, RANK)
        )


@pytest.mark.parametrize("adapters", [[7, 8] * 3, [7] * 40 + [8] * 40])
def test_an_adapter_that_overflows_changes_no_other_adapters_answer(adapters: list[int]) -> None:
    a, b = torch.randn(SLOTS, 1, RANK, IN), torch.randn(SLOTS, 1, 32, RANK)
    x = torch.randn(len(adapters), IN)
    found, infinite = torch.zeros(len(adapters), 32), torch.zeros(len(adapters), 32)
    ready(adapters).add_lora_linear(found, x, (a,), (b,), 1.0, (32,))
    a[NAMES.index(7)] = b[NAMES.index(7)] = torch.inf
    ready(adapters).add_lora_linear(infinite, x, (a,), (b,), 1.0, (32,))
    others = torch.tensor(adapters) != 7
    assert torch.equal(infinite[others], found[others])
    assert not infinite[~others].isfinite().any()


def test_vllm_uses_it_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.lora.punica_wrapper.punica_selector import get_punica_wrapper
    from vllm.platforms import current_platform

    # Only so that it is undone after the test.
    monkeypatch.setattr(type(current_platform), "get_punica_wrapper", None)
    install()
    assert isinstance(get_punica_wrapper(64, 64, "cpu"), ByAdapter)
