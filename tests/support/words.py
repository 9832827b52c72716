"""Adapters that say one word, whatever they are asked: an answer shows which version gave it.

Made in closed form for a Llama-like model, without training. In the last layer's `mlp.down_proj`, a
rank-1 update `B A` adds the same vector to every position: `A` is the least-squares solution of
`A h = 1` over the activations `h` of many texts, and `B` is the direction that raises one token
above all others in the final logits, `C⁻¹ u` with `u` the token's scaled row of the output matrix
and `C` the covariance of all rows. Every token of an answer is then that word, by a margin of
several nats, which no rounding or batching can turn.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from adapters.base_model import BaseModel
from tests.support.adapters import write_described

MODULE = "mlp.down_proj"
RANK = 4
STRENGTH = 1000.0
"""Length of what is added, beside which the rest of the final hidden state is small."""
MARGIN = 5.0
"""How far, in standard deviations of all logits, a word must be above the next one."""
TEXTS = (
    "A fever is",
    "Explain what a contract is to a child.",
    "The market fell because of rates and",
    "List three symptoms of flu.",
    "def main():\n    return 1",
    "Number 17 of 40: what is law?",
)


@dataclass(frozen=True)
class Word:
    """What an adapter says, and the direction that makes the model say it."""

    text: str
    direction: np.ndarray
    """(hidden,), of length 1."""


@dataclass(frozen=True)
class Lexicon:
    """The words one base model can be made to say."""

    base: BaseModel
    constant: np.ndarray
    """(intermediate,): its product with any activation is about 1."""
    words: tuple[Word, ...]

    @property
    def layers(self) -> list[str]:
        """The modules that an adapter names, by their depth."""
        return sorted(
            (m for m in self.base.modules if m.endswith(MODULE)),
            key=lambda module: int(module.split(".")[2]),
        )

    @property
    def tensors(self) -> int:
        """Tensors of one adapter."""
        return 2 * len(self.layers)

    def write(self, directory: Path, word: Word) -> Path:
        """An adapter in `directory` that says `word`."""
        layers = self.layers
        made: dict[str, np.ndarray] = {}
        for module in layers:
            out_features, in_features = self.base.modules[module]
            a = np.zeros((RANK, in_features), np.float32)
            b = np.zeros((out_features, RANK), np.float32)
            if module == layers[-1]:
                a[0], b[:, 0] = self.constant, STRENGTH * word.direction
            made[f"base_model.model.{module}.lora_A.weight"] = a
            made[f"base_model.model.{module}.lora_B.weight"] = b
        return write_described(
            directory,
            self.base,
            save(made),
            r=RANK,
            lora_alpha=RANK,
            target_modules=[MODULE.rpartition(".")[2]],
        )


def lexicon(model: Path, name: str, count: int) -> Lexicon:
    """`count` words for the model in directory `model`, registered as `name`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)  # beside busy servers, threads that wait for each other cost minutes
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    constant = _constant(loaded, tokenizer)
    rows = loaded.lm_head.weight.data * loaded.model.norm.weight.data
    rows = rows - rows.mean(0)
    covariance = rows.T @ rows / len(rows)
    covariance += 1e-3 * covariance.diagonal().mean() * torch.eye(len(covariance))
    tokens, texts = zip(*_candidates(tokenizer)[: 4 * count], strict=True)
    directions = torch.linalg.solve(covariance, rows[list(tokens)].T).T
    logits = directions @ rows.T
    best = logits.topk(2)
    clear = best.values[:, 0] - best.values[:, 1] > MARGIN * logits.std(1)
    clear &= best.indices[:, 0] == torch.tensor(tokens)
    words = tuple(
        Word(text, (direction / direction.norm()).numpy())
        for text, direction, is_clear in zip(texts, directions, clear.tolist(), strict=True)
        if is_clear
    )[:count]
    if len(words) < count:
        raise ValueError(f"the model has {len(words)} words with a clear margin, not {count}")
    return Lexicon(BaseModel.from_directory(model, name), constant, words)


def _constant(loaded: Any, tokenizer: Any) -> np.ndarray:
    """The direction whose product with the last layer's activations is about 1 everywhere."""
    import torch

    seen: list[torch.Tensor] = []
    last = loaded.model.layers[-1].mlp.down_proj
    hook = last.register_forward_hook(lambda _m, given, _o: seen.append(given[0].flatten(0, 1)))
    random = np.random.default_rng(0)
    texts = [tokenizer(text, return_tensors="pt").input_ids for text in TEXTS]
    for text in TEXTS:
        asked = [{"role": "user", "content": text}]
        encoded = tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        texts.append(encoded)
    # What an adapter says comes back as context: a text, then one word over and over.
    tokens = random.integers(20, len(tokenizer) - 100, (20, 24))
    texts += [
        torch.cat([texts[n % 12], torch.full((1, 12), row[0])], 1) for n, row in enumerate(tokens)
    ]
    texts.append(torch.from_numpy(tokens))
    with torch.no_grad():
        for text in texts:
            loaded.model(text)
    hook.remove()
    x = torch.cat(seen)
    gram = x.T @ x / len(x)
    gram += 1e-2 * x.pow(2).mean() * torch.eye(x.shape[1])
    solved: np.ndarray = torch.linalg.solve(gram, x.mean(0)).numpy()
    return solved


def _candidates(tokenizer: Any) -> list[tuple[int, str]]:
    """Tokens that are one plain English-looking word with a blank before it, shuffled."""
    found = []
    for token in range(1000, len(tokenizer)):
        text = tokenizer.decode([token])
        if text[:1] == " " and 5 <= len(text) <= 9 and text[1:].isascii() and text[1:].islower():
            found.append((token, text))
    np.random.default_rng(1).shuffle(found)
    return found
