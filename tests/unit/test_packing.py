"""Packing many examples into one sequence changes how much is computed, not what."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from adapters.training.packing import IGNORED, Example, pack, shared_length

EXAMPLES = [
    Example((1, 2, 3, 4, 10, 11), (20, 21)),
    Example((1, 2, 3, 4, 12), (22,)),
    Example((1, 2, 3, 4, 13, 14, 15), (23, 24, 25)),
]


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    ).eval()


def test_the_shared_beginning_stops_where_prompts_differ_or_one_ends() -> None:
    assert shared_length(EXAMPLES) == 4
    assert shared_length([Example((1, 2), (3,)), Example((1, 2), (4,))]) == 1


def test_packed_logits_are_those_of_each_example_alone(model: LlamaForCausalLM) -> None:
    batch = pack(EXAMPLES)
    with torch.no_grad():
        packed = model(**{k: v for k, v in batch.items() if k != "labels"}).logits[0]
    shared = shared_length(EXAMPLES)
    begin = shared
    for example in EXAMPLES:
        ids = [*example.prompt, *example.answer]
        with torch.no_grad():
            alone = model(input_ids=torch.tensor([ids])).logits[0]
        own = len(ids) - shared
        torch.testing.assert_close(packed[:shared], alone[:shared], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            packed[begin : begin + own], alone[shared:], atol=1e-5, rtol=1e-4
        )
        begin += own


def test_only_answers_carry_loss_and_each_answer_token_does() -> None:
    labels = pack(EXAMPLES)["labels"][0]
    carried = labels[labels != IGNORED].tolist()
    assert carried == [token for example in EXAMPLES for token in example.answer]
    # The trainer shifts labels by one: a first own token that carried loss would be predicted
    # from the example before it.
    shared = shared_length(EXAMPLES)
    assert labels[shared] == IGNORED
