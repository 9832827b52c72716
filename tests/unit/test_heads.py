"""An adapter's classification head: admitted if vLLM would apply it, else refused and told why."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from adapters.admission import Limits, admit
from adapters.heads import LABELS, MAX_LABELS_BYTES, Head, hidden_size
from tests.support.adapters import TINY, head_tensors, tensors
from tests.support.uploads import CONFIG, WEIGHTS, Bytes, configured, files, refusals

NAMES = ["low", "middle", "high"]
SEQ_CLS = configured(task_type="SEQ_CLS", modules_to_save=["classifier", "score"])
HEAD = "base_model.model.score"


def with_head(head: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """An upload with a head of three labels, changed."""
    made = save({**tensors(), **(head_tensors(3) if head is None else head)})
    return {**SEQ_CLS, WEIGHTS: made, LABELS: json.dumps(NAMES).encode(), **changes}


def weight(rows: int = 3, width: int = 16, value: float = 0.1) -> np.ndarray:
    return np.full((rows, width), value, np.float32)


def test_a_head_is_admitted_with_its_labels_in_the_order_of_its_rows() -> None:
    facts = admit(files(with_head()), TINY).facts
    assert facts is not None
    assert facts.head == Head(size=3, labels=("low", "middle", "high"))
    assert facts.parameters == 4 * 2 * 4 * 16 + 3 * 16


def test_an_adapter_without_a_head_has_none_in_its_facts() -> None:
    facts = admit(files({}), TINY).facts
    assert facts is not None
    assert facts.head is None


def test_a_head_that_scores_has_one_row_and_needs_no_labels() -> None:
    facts = admit(files(with_head({f"{HEAD}.weight": weight(1)}, **{LABELS: None})), TINY).facts
    assert facts is not None
    assert facts.head == Head(size=1)


def test_a_bias_and_half_precision_are_admitted() -> None:
    head = {**head_tensors(3), f"{HEAD}.bias": np.zeros(3, np.float32)}
    assert refusals(with_head({n: a.astype(np.float16) for n, a in head.items()})) == ""


@pytest.mark.parametrize(
    ("told", "changes"),
    [
        ("labels.json: The head has 3 rows, and nothing names", {LABELS: None}),
        ("It names 2 labels; the head has 3 rows", {LABELS: b'["a", "b"]'}),
        ("A label occurs twice", {LABELS: b'["a", "b", "a"]'}),
        ("is not one line of 1 to 200", {LABELS: b'["a", "b", " "]'}),
        ("is not one line of 1 to 200", {LABELS: b'["a", "b", "c\\nd"]'}),
        ("is not one line of 1 to 200", {LABELS: b'["a", "b", "\\ud800"]'}),
        ("is not one line of 1 to 200", {LABELS: json.dumps(["a", "b", "x" * 201]).encode()}),
        ("not a list of strings", {LABELS: b'{"0": "a"}'}),
        ("not a list of strings", {LABELS: b'["a", "b", 3]'}),
        ("not valid JSON", {LABELS: b"[" * 100_000}),
        ("not valid JSON", {LABELS: b"\xff"}),
        ("It is larger than", {LABELS: b'["' + b"a" * MAX_LABELS_BYTES + b'"]'}),
        ("above the limit of 4194304", {LABELS: Bytes(b"[]", claimed=5 << 20)}),
        ("no tensors", {WEIGHTS: save(tensors()), LABELS: None}),
        ("The adapter has no classification head", {WEIGHTS: save(tensors())}),
        ("modules_to_save does not name it", configured(task_type="SEQ_CLS")),
        ("only a classification head called score", configured(modules_to_save=["lm_head"])),
        ("only a classification head", configured(modules_to_save=["score", "embed_tokens"])),
        ("only a classification head", configured(modules_to_save="score")),
        ("only a classification head", configured(modules_to_save=[["score"]])),
        ("task_type is 'TOKEN_CLS'",
         configured(modules_to_save=["score"], task_type="TOKEN_CLS")),
    ],
)  # fmt: skip
def test_files_beside_a_head_that_do_not_fit_it_are_refused(
    told: str, changes: dict[str, Any]
) -> None:
    assert told in refusals(with_head(**changes))


@pytest.mark.parametrize(
    ("told", "head"),
    [
        ("the base needs [labels, 16]", {f"{HEAD}.weight": weight(width=17)}),
        ("the base needs [labels, 16]", {f"{HEAD}.weight": weight().T.copy()}),
        ("the base needs [labels, 16]", {f"{HEAD}.weight": weight()[None]}),
        ("the base needs [labels, 16]", {f"{HEAD}.weight": weight(rows=0)}),
        ("NaN or infinity", {f"{HEAD}.weight": weight(value=np.nan)}),
        ("NaN or infinity", {f"{HEAD}.weight": weight(value=-np.inf)}),
        ("NaN or infinity", {**head_tensors(3), f"{HEAD}.bias": np.full(3, np.nan, np.float32)}),
        ("values above 10000", {f"{HEAD}.weight": weight(value=2e4)}),
        ("same answer", {f"{HEAD}.weight": weight(value=0)}),
        ("has type I32", {f"{HEAD}.weight": weight().astype(np.int32)}),
        ("its weight needs [3]", {**head_tensors(3), f"{HEAD}.bias": np.ones(4, np.float32)}),
        ("a bias and no weight", {f"{HEAD}.bias": np.ones(3, np.float32)}),
        ("The head is called 'classifier'", {"base_model.model.classifier.weight": weight()}),
        ("The head is called 'classifier'",
         {**head_tensors(3), "base_model.model.classifier.weight": weight()}),
        ("fully trained module", {"base_model.model.model.layers.0.score.weight": weight()}),
        ("fully trained module", {"base_model.model.score.dense.weight": weight()}),
        ("lacks the prefix", {"score.lora_A.weight": weight()}),
        ("above the limit of 1000", {f"{HEAD}.weight": weight(rows=1001)}),
    ],
)  # fmt: skip
def test_a_head_that_vllm_would_refuse_or_misread_is_refused(
    told: str, head: Mapping[str, Any]
) -> None:
    admission = admit(files(with_head(head)), TINY)
    assert told in "\n".join(map(str, admission.problems))
    assert all(len(str(problem)) < 600 for problem in admission.problems)


def test_a_head_alone_is_refused_since_vllm_loads_none_without_lora() -> None:
    told = refusals(with_head(None, **{WEIGHTS: save(head_tensors(3))}))
    assert "It holds no LoRA tensors." in told


def test_the_limit_on_labels_is_the_sites() -> None:
    assert admit(files(with_head()), TINY, limits=Limits(max_labels=3)).problems == ()
    (problem,) = admit(files(with_head()), TINY, limits=Limits(max_labels=2)).problems
    assert "3 labels, above the limit of 2" in problem.problem


def test_the_hidden_size_is_what_most_linear_modules_read() -> None:
    llama = {"q_proj": (8, 16), "k_proj": (4, 16), "o_proj": (16, 8), "up_proj": (64, 16),
             "gate_proj": (64, 16), "down_proj": (16, 64)}  # fmt: skip
    assert hidden_size(llama) == 16
    assert hidden_size({}) == 0


def test_the_configuration_of_a_written_answer_is_refused_as_before() -> None:
    assert "modules_to_save" in refusals(configured(modules_to_save=["embed_tokens"]))
    assert CONFIG in refusals(configured(modules_to_save={"score": True}))
