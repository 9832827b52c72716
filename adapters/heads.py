"""The classification head of an adapter: a fully trained linear layer, and the names of its labels.

PEFT saves it beside LoRA's tensors as `base_model.model.score.weight`, with or without a bias, and
names it in `modules_to_save`. vLLM 0.32 applies it per request where the base was started with
`--runner pooling --convert classify`. `labels.json` is Lorary's: PEFT stores no names of labels.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from math import inf
from typing import Annotated

import msgspec
from annotated_types import MaxLen

from adapters.errors import InvalidAdapter
from adapters.fields import Count, Name, is_line
from adapters.peft_config import SAVED_HEADS, Finding
from adapters.safetensors_header import TensorInfo

HEAD = "score"
"""What vLLM's converted models, and the classes of transformers they stand for, call the head."""
LABELS = "labels.json"
MAX_LABELS_BYTES = 1 << 18
MAX_LETTERS = 200
LARGEST_WEIGHT = 1e4
"""Above it a logit may overflow where the server computes in half precision. Trained heads stay
below 10."""
PREFIX = "base_model.model."
_AGAIN = "Save the adapter again with PEFT's save_pretrained, task_type SEQ_CLS."


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What admission measured of a head."""

    size: Count
    """Rows: one for each label; 1 for a head that scores."""
    labels: Annotated[tuple[Name, ...], MaxLen(1000)] = ()
    """Their names, in the order of the rows; none of a head that scores."""


def part_of(name: str) -> tuple[str, str] | None:
    """The head and the parameter (`weight`, `bias`) that a tensor's name stands for, or None."""
    module, _, parameter = name.removeprefix(PREFIX).rpartition(".")
    known = name.startswith(PREFIX) and module in SAVED_HEADS and parameter in ("weight", "bias")
    return (module, parameter) if known else None


def hidden_size(modules: Mapping[str, tuple[int, int]]) -> int:
    """The width of a base's hidden states: what most of its linear modules take as input."""
    counted = Counter(shape[1] for shape in modules.values())
    return counted.most_common(1)[0][0] if counted else 0


def check_head(
    tensors: Sequence[TensorInfo],
    largest: Mapping[str, float],
    modules: Mapping[str, tuple[int, int]],
    *,
    named: Sequence[str],
    max_labels: int,
) -> tuple[int, list[Finding]]:
    """How many rows the head has (0: there is none), and everything wrong with it.

    tensors: those that `part_of` takes. largest: the largest magnitude of each tensor
    of floating-point numbers; what is not finite is refused elsewhere. modules: the base's. named:
    what `modules_to_save` names.
    """
    parts = {part: info for info in tensors if (part := part_of(info.name)) is not None}
    if not parts:
        if not named:
            return 0, []
        said = f"modules_to_save names {named[0]!r}, for which there are no tensors."
        return 0, [Finding(said, f"{_AGAIN} Without a head, set modules_to_save to null.")]
    if not named:
        said = f"Tensor {tensors[0].name!r} is a head, but modules_to_save does not name it."
        return 0, [Finding(said, f"{_AGAIN} vLLM would not load it.")]
    if wrong := next((head for head, _ in parts if head != HEAD), None):
        said = f"The head is called {wrong!r}; vLLM's model of a decoder-only base has {HEAD!r}."
        return 0, [Finding(said, f"Rename its tensors to {PREFIX}{HEAD}.weight and .bias.")]
    weight, bias = parts.get((HEAD, "weight")), parts.get((HEAD, "bias"))
    if weight is None:
        return 0, [Finding("The head has a bias and no weight.", _AGAIN)]
    width = hidden_size(modules)
    if len(weight.shape) != 2 or weight.shape[0] < 1 or weight.shape[1] != width:
        said = (
            f"The head's weight has shape {list(weight.shape)}; the base needs [labels, {width}]."
        )
        return 0, [Finding(said, "Train the head on this base model's last hidden state.")]
    size = weight.shape[0]
    findings = []
    if size > max_labels:
        said = f"The head has {size} labels, above the limit of {max_labels}."
        findings.append(Finding(said, "Train with fewer labels, or have the answer written."))
    if bias is not None and bias.shape != (size,):
        said = f"The head's bias has shape {list(bias.shape)}; its weight needs [{size}]."
        findings.append(Finding(said, _AGAIN))
    for info in parts.values():
        if info.name not in largest:
            said = f"Tensor {info.name!r} has type {info.dtype}."
            findings.append(Finding(said, "Save it as F32, F16 or BF16."))
        elif LARGEST_WEIGHT < largest[info.name] < inf:
            said = f"Tensor {info.name!r} holds values above {LARGEST_WEIGHT:g}."
            findings.append(Finding(said, "Lower the learning rate and train again."))
    if largest.get(weight.name) == 0:
        said = "The head's weight is zero: every text would get the same answer."
        findings.append(Finding(said, "Save the adapter after training, not before."))
    return size, findings


def parse_labels(data: bytes | None, size: int) -> tuple[str, ...]:
    """The labels in `labels.json` for a head of `size` rows; none for a head that scores.

    Raises `InvalidAdapter` with what is wrong.
    """
    if data is None:
        if size > 1:
            raise InvalidAdapter(f"The head has {size} rows, and nothing names their labels.")
        return ()
    if len(data) > MAX_LABELS_BYTES:
        raise InvalidAdapter(f"It is larger than {MAX_LABELS_BYTES} bytes.")
    try:
        labels = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidAdapter("It is not valid JSON.") from error
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise InvalidAdapter("It is not a list of strings.")
    if len(labels) != size:
        raise InvalidAdapter(f"It names {len(labels)} labels; the head has {size} rows.")
    if len(set(labels)) < len(labels):
        raise InvalidAdapter("A label occurs twice.")
    if wrong := next(filter(None, map(wrong_label, labels)), None):
        raise InvalidAdapter(wrong)
    return tuple(labels) if size > 1 else ()


def wrong_label(label: str) -> str | None:
    """What is wrong with a label's name, as a sentence; None if nothing is."""
    if label.strip() and len(label) <= MAX_LETTERS and is_line(label):
        return None
    shown = label[:40].encode("unicode_escape").decode()
    return f"The label '{shown}' is not one line of 1 to {MAX_LETTERS} characters."
