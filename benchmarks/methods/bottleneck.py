"""Houlsby et al.'s bottleneck adapters (arXiv 1902.00751), for the comparison only.

PEFT has none. AdapterHub's library has them, under the import name of our own package, and for an
older transformers: so it trains in a process of its own, before whose packages it is put.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters.recipe import Recipe
from adapters.training.answering import Answer
from adapters.training.conversations import asking
from adapters.training.data import corpus_of
from adapters.training.fit import drawn
from adapters.training.models import encode, tokenizer_of
from benchmarks.peers import library

LIBRARY = "adapters==1.3.0"
REDUCTION = 8
"""The bottleneck is the hidden size through this: as many parameters as LoRA of rank 16."""
MOST = 24
"""Tokens of an answer."""


@dataclass(frozen=True, slots=True)
class Made:
    """What was trained, and what it answers."""

    trainable: int
    parameters: int
    peak_bytes: int
    seconds: float
    final_loss: float
    answers: list[Answer]


def bottleneck(recipe: Recipe, base: Path, asked: Sequence[str]) -> Made:
    """Train on the very examples that `recipe` would draw, and answer what is asked greedily."""
    tokenizer = tokenizer_of(base)
    rows = drawn(corpus_of(recipe).train, recipe.steps * recipe.batch, recipe.seed)
    examples = [encode(tokenizer, row.prompt, row.answer) for row in rows]
    pairs = [[example.prompt, example.answer] for example in examples]
    plan = {
        "base": str(base),
        "seed": recipe.seed,
        "reduction": REDUCTION,
        "learning_rate": recipe.learning_rate,
        "warmup": recipe.warmup_steps,
        "batches": [pairs[i : i + recipe.batch] for i in range(0, len(pairs), recipe.batch)],
        "asked": [encode(tokenizer, asking(text), "").prompt for text in asked],
        "most": MOST,
        "pad": tokenizer.pad_token_id,
        "end": tokenizer.eos_token_id,
    }
    worker = Path(__file__).with_name("adapterhub.py")
    environment = {**os.environ, "PYTHONPATH": str(library("adapterhub", LIBRARY))}
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "plan.json"), Path(folder, "result.json")
        given.write_text(json.dumps(plan))
        began = time.monotonic()
        subprocess.run([sys.executable, "-P", worker, given, found], env=environment, check=True)
        seconds = time.monotonic() - began
        result = json.loads(found.read_text())
    texts = tokenizer.batch_decode(result.pop("answers"), skip_special_tokens=True)
    return Made(**result, seconds=seconds, answers=[Answer(text.strip(), 0) for text in texts])
