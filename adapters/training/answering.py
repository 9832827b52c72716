"""Answers of a model or an adapter on this machine, without a server: greedy, with confidences.

For comparing methods that no server takes, such as prefix tuning. What is served is judged through
the server, by `eval/`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from adapters.admission import CONFIG
from adapters.packs import Item
from adapters.training.conversations import asking
from adapters.training.models import prompt_text, tokenizer_of


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered, and the probability of the whole of it."""

    text: str
    confidence: float


def load(base: Path, trained: Path | None, dtype: torch.dtype = torch.float32) -> Any:
    """The base, the base with an adapter by plain PEFT, or a fully fine-tuned model; on the CPU."""
    if trained is not None and not (trained / CONFIG).is_file():
        return AutoModelForCausalLM.from_pretrained(trained, dtype=dtype).eval()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    return model.eval() if trained is None else PeftModel.from_pretrained(model, trained).eval()


def answers(
    model: Any,
    base: Path,
    prompts: Sequence[str],
    *,
    most: int = 24,
    batch: int = 16,
    answered: Callable[[int], None] = lambda _: None,
) -> list[Answer]:
    """Greedy answers in the prompts' order. `answered` is called with how many there are."""
    tokenizer = tokenizer_of(base)
    tokenizer.padding_side = "left"
    found: list[Answer] = []
    for begin in range(0, len(prompts), batch):
        texts = [
            prompt_text(tokenizer, asking(prompt)) for prompt in prompts[begin : begin + batch]
        ]
        asked = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.no_grad():
            said = model.generate(
                **asked,
                do_sample=False,
                max_new_tokens=most,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                return_dict_in_generate=True,
                output_logits=True,
            )
        tokens = said.sequences[:, -len(said.logits) :]
        logits = torch.stack(said.logits, 1).float().log_softmax(-1)
        chosen = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        ended = (tokens == tokenizer.eos_token_id).int()
        kept = ended.cumsum(1) - ended == 0
        sure = (chosen * kept).sum(1).exp().tolist()
        words = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        found += [Answer(text.strip(), c) for text, c in zip(words, sure, strict=True)]
        answered(len(found))
    return found


def right(items: Sequence[Item], given: Sequence[Answer]) -> list[bool]:
    """Which answers are exactly the reference answer, but for case."""
    return [
        answer.text.casefold() == item.label.casefold()
        for item, answer in zip(items, given, strict=True)
    ]
