"""Whether a training fits into the memory of its device, stated before it starts.

Nothing is known of a base but its configuration, so it is measured: models with one and with two of
its layers, with random weights, take one step (forward, backward, optimiser) on a batch as large as
the training's largest. The difference is what a layer needs; the rest grows with the layers:

    needed = peak(1) + (layers - 1) (peak(2) - peak(1))

It does not cover: what the process takes beside tensors (half a gigabyte of libraries), what other
processes take meanwhile, fragmentation, the answers that ppo, rloo and grpo sample (a key-value
cache, smaller than a training step), a reward model, several devices.
"""

import functools
import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from peft import get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)

from adapters.recipe import Classify, Online, Recipe, Reward, Sft
from adapters.training.data import Corpus
from adapters.training.device import autocast, base_dtype, device
from adapters.training.fit import drawn
from adapters.training.fits import Fit
from adapters.training.models import encode, peft_config, tokenizer_of
from adapters.training.packing import Example, shared_length
from adapters.training.processes import share
from adapters.training.rows import Row
from adapters.training.sft import batches

NF4_BYTES = 0.53
"""Of a weight in NF4 with double quantisation: four bits, and its block's scale."""
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Load:
    """The largest batch that is computed at once."""

    sequences: int
    tokens: int
    """Of each sequence."""
    predicted: int
    """Of each sequence, the tokens whose prediction is computed; 0 for a head that scores."""


def fit_of(recipe: Recipe, corpus: Corpus[Any], base: Path) -> Fit:
    """What training the corpus takes, and what is free.

    corpus: with the rows that fit `max_tokens`.
    """
    load = largest(recipe, corpus, base)
    try:
        needed = needed_bytes(recipe, base, load)
    except torch.OutOfMemoryError:
        return Fit(2 * free_bytes(), free_bytes(), str(device()))
    return Fit(needed, free_bytes(), str(device()))


def largest(recipe: Recipe, corpus: Corpus[Any], base: Path) -> Load:
    """The largest batch of a training, of those that it will compute."""
    tokenizer = tokenizer_of(base)

    @functools.cache
    def examples(row: Row) -> tuple[Example, ...]:
        if isinstance(recipe, Classify):
            return (Example(tuple(tokenizer(row.question)["input_ids"]), ()),)
        return tuple(encode(tokenizer, row.prompt, answer) for answer in row.answers)

    loads = [_load(recipe, [examples(row) for row in part]) for part in _parts(recipe, corpus)]
    return max(loads, key=lambda load: load.sequences * load.tokens)


def _parts(recipe: Recipe, corpus: Corpus[Any]) -> list[list[Any]]:
    """The rows that are computed at once, in the training's order."""
    if isinstance(recipe, Sft):
        return batches(corpus.train, corpus.replay, recipe)
    part = share(recipe)
    rows = drawn(corpus.train, recipe.steps * recipe.batch, recipe.seed)
    return [rows[begin : begin + part] for begin in range(0, len(rows), part)]


def _load(recipe: Recipe, part: Sequence[Sequence[Example]]) -> Load:
    """What a part of a batch is to a model: rows with a prompt and one or two answers each."""
    among = [example for row in part for example in row]
    asked = max(len(example.prompt) for example in among)
    longest = max(len(example.prompt) + len(example.answer) for example in among)
    match recipe:
        case Online():
            return Load(len(part), asked + recipe.max_new_tokens, recipe.max_new_tokens)
        case Reward() | Classify():
            return Load(len(among), longest, 0)
        case Sft() if recipe.method not in ("prefix", "prompt"):
            shared = shared_length(among)
            own = sum(len(example.prompt) + len(example.answer) - shared for example in among)
            return Load(1, shared + own, sum(len(example.answer) for example in among))
        case _:
            return Load(len(among), longest, longest)


def needed_bytes(recipe: Recipe, base: Path, load: Load) -> int:
    """Bytes that a step on `load` takes at most, the weights included."""
    layers = int(AutoConfig.from_pretrained(base).num_hidden_layers)
    one, two = (measured(partial(step_of_layers, recipe, base, load, few)) for few in (1, 2))
    needed = one[0] + (layers - 1) * max(0, two[0] - one[0])
    if recipe.method == "qlora":
        linear = layers * (two[1] - one[1])
        needed -= int(linear * (base_dtype(recipe).itemsize - NF4_BYTES))
    return needed


def free_bytes() -> int:
    """What the training's device has left for it."""
    here = device()
    if here.type == "cuda":
        return int(torch.cuda.mem_get_info(here)[0])
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return free
    # Cached files count as used, and the kernel gives them up when a process needs the memory.
    return min(free, limit - used + int(stat.get("inactive_file", 0)))


def step_of_layers(recipe: Recipe, base: Path, load: Load, layers: int) -> int:
    """One training step of a model with a few layers; the linear layers' frozen weights."""
    config = AutoConfig.from_pretrained(base)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    scores = isinstance(recipe, Reward | Classify)
    kind = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    if scores:
        config.num_labels, config.pad_token_id = 2, 0
    with torch.device(device()):
        model: Any = kind.from_config(config, dtype=base_dtype(recipe))
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    method = peft_config(recipe, "SEQ_CLS" if scores else "CAUSAL_LM")
    if method is not None:
        model = get_peft_model(model, method)
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(trained)
    ids = torch.ones(load.sequences, load.tokens, dtype=torch.long, device=device())
    more: dict[str, Any] = {"use_cache": False}
    if load.predicted:
        more["logits_to_keep"] = load.predicted
    if load.sequences == 1:  # packed: a mask of its own
        seen = torch.ones(load.tokens, load.tokens, dtype=torch.bool, device=device()).tril()
        more["attention_mask"] = seen[None, None]
    with autocast(recipe):
        logits = model.train()(input_ids=ids, **more).logits.float()
        flat = logits.reshape(-1, logits.shape[-1])
        loss = torch.nn.functional.cross_entropy(flat, torch.zeros_like(flat[:, 0]).long())
    torch.autograd.backward(loss)
    optimizer.step()
    return linear


def measured(step: Callable[[], int]) -> tuple[int, int]:
    """The most bytes that were allocated at once during `step`, and what it returned.

    On an accelerator its allocator says; on a CPU the tensors that live at once are added up, for
    the process keeps what it has freed. What a kernel takes while it runs is not seen there.
    """
    gc.collect()
    here = device()
    if here.type == "cpu":
        with _Living() as living:
            value = step()
        return living.most, value
    module = torch.get_device_module(here)
    module.empty_cache()
    module.reset_peak_memory_stats(here)
    held = module.memory_allocated(here)
    value = step()
    most = int(module.max_memory_allocated(here)) - held
    gc.collect()
    module.empty_cache()
    module.reset_peak_memory_stats(here)
    return most, value


class _Living(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch types it in part
    """Adds up the storages of all tensors that operations return, for as long as they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, operation: Any, _types: Any, args: Any = (), options: Any = None
    ) -> Any:
        """Run the operation, and see what it made."""
        made = operation(*args, **(options or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return made

    def _see(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self._known:
            return
        self._known.add(address)
        weakref.finalize(storage, self._forget, address, size)
        self._now += size
        self.most = max(self.most, self._now)

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self._now -= size
