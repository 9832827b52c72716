"""Hostile and broken uploads: each is refused by name, with what is wrong and what to do."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from adapters.admission import Limits, admit
from tests.support.adapters import CARD, TINY, tensors
from tests.support.uploads import CONFIG, README, WEIGHTS, Bytes, configured, files

Q = "base_model.model.model.layers.0.self_attn.q_proj"


@dataclass
class Case:
    """Files that differ from a valid adapter's, and what must be said of them."""

    title: str
    file: str
    says: str
    changes: dict[str, Any] = field(default_factory=dict)
    """Files by name: bytes, or None to remove."""


def weights(change: Callable[[dict[str, np.ndarray]], Any]) -> bytes:
    made = tensors()
    change(made)
    return save(made)


def header(entries: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(begin: int, end: int, shape: list[int]) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


def zip_bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (32 << 20))
    return out.getvalue()


def setting(name: str, array: Any) -> Callable[[dict[str, np.ndarray]], Any]:
    return lambda made: made.__setitem__(name, np.asarray(array, np.float32))


def poisoned(value: float, kind: type) -> bytes:
    made: dict[str, np.ndarray] = {name: array.astype(kind) for name, array in tensors().items()}
    made[f"{Q}.lora_A.weight"][1, 2] = value
    return save(made)


def renamed(old: str, new: str) -> bytes:
    return save({name.replace(old, new): array for name, array in tensors().items()})


PICKLE = pickle.dumps({"lora": [1, 2, 3]})
VALID = save(tensors())
CASES = [
    Case("pickle weights", "adapter_model.bin", "pickle",
         {"adapter_model.bin": PICKLE, WEIGHTS: None}),
    Case("weights missing", WEIGHTS, "missing", {WEIGHTS: None}),
    Case("configuration missing", CONFIG, "missing", {CONFIG: None}),
    Case("card missing", README, "missing", {README: None}),
    Case("pickle under the right name", WEIGHTS, "pickle", {WEIGHTS: PICKLE}),
    Case("training state", "training_args.bin", "pickle", {"training_args.bin": PICKLE}),
    Case("zip bomb under the right name", WEIGHTS, "zip archive", {WEIGHTS: zip_bomb()}),
    Case("zip bomb beside", "extra.zip", "archive", {"extra.zip": zip_bomb()}),
    Case("header longer than its file", WEIGHTS, "longer than its file",
         {WEIGHTS: struct.pack("<Q", 1 << 40) + b"{}"}),
    Case("header above the limit", WEIGHTS, "above the limit",
         {WEIGHTS: Bytes(struct.pack("<Q", 1 << 30), claimed=2 << 30)}),
    Case("header that is no JSON", WEIGHTS, "not valid JSON",
         {WEIGHTS: struct.pack("<Q", 5) + b"{no!}"}),
    Case("header nested without end", WEIGHTS, "not valid JSON",
         {WEIGHTS: struct.pack("<Q", 100_005) + b'{"a":' + b"[" * 100_000}),
    Case("tensor named twice", WEIGHTS, "not valid JSON",
         {WEIGHTS: struct.pack("<Q", 15) + b'{"a":{},"a":{}}'}),
    Case("overlapping tensors", WEIGHTS, "overlaps",
         {WEIGHTS: header({"a": tensor(0, 16, [4]), "b": tensor(8, 24, [4])}, b"\0" * 24)}),
    Case("hidden bytes between tensors", WEIGHTS, "unexplained bytes",
         {WEIGHTS: header({"a": tensor(4, 8, [1])}, b"\0" * 8)}),
    Case("hidden bytes at the end", WEIGHTS, "follow the last tensor", {WEIGHTS: VALID + b"x"}),
    Case("shape that overflows", WEIGHTS, "shape",
         {WEIGHTS: header({"a": tensor(0, 4, [2**40, 2**40])}, b"\0" * 4)}),
    Case("negative offsets", WEIGHTS, "malformed", {WEIGHTS: header({"a": tensor(-4, 0, [1])})}),
    Case("truncated upload", WEIGHTS, "truncated", {WEIGHTS: VALID[:-100]}),
    Case("upload cut inside the header", WEIGHTS, "longer than its file", {WEIGHTS: VALID[:50]}),
    Case("empty file", WEIGHTS, "too short", {WEIGHTS: b""}),
    Case("no tensors", WEIGHTS, "no LoRA tensors", {WEIGHTS: header({})}),
    Case("NaN", WEIGHTS, "NaN", {WEIGHTS: poisoned(float("nan"), np.float32)}),
    Case("infinity in half precision", WEIGHTS, "NaN",
         {WEIGHTS: poisoned(float("inf"), np.float16)}),
    Case("untrained: every B zero", WEIGHTS, "do nothing",
         {WEIGHTS: save({n: a * (".lora_B." not in n) for n, a in tensors().items()})}),
    Case("integer weights", WEIGHTS, "type I32",
         {WEIGHTS: save({n: a.astype(np.int32) for n, a in tensors().items()})}),
    Case("rank above the limit", CONFIG, "above the limit",
         {**configured(r=128), WEIGHTS: save(tensors(rank=128))}),
    Case("rank that the tensors do not have", WEIGHTS, "rank 8", configured(r=8)),
    Case("rank zero", CONFIG, "r is 0", configured(r=0)),
    Case("alpha that is no number", CONFIG, "lora_alpha", configured(lora_alpha="8")),
    Case("wrong base", CONFIG, "made for base model",
         configured(base_model_name_or_path="meta-llama/Llama-3-8B")),
    Case("wrong shapes", WEIGHTS, "needs [4, 16]",
         {WEIGHTS: weights(setting(f"{Q}.lora_A.weight", np.ones((4, 32))))}),
    Case("module that matches nothing", WEIGHTS, "matches no linear module",
         {WEIGHTS: renamed("self_attn", "attention")}),
    Case("names without PEFT's prefix", WEIGHTS, "lacks the prefix",
         {WEIGHTS: renamed("base_model.model.", "")}),
    Case("half a pair", WEIGHTS, "lacks its lora_B",
         {WEIGHTS: weights(lambda made: made.pop(f"{Q}.lora_B.weight"))}),
    Case("target of the base without tensors", WEIGHTS, "no tensors",
         {WEIGHTS: save({n: a for n, a in tensors().items() if "v_proj" not in n})}),
    Case("tensors without target", WEIGHTS, "does not name",
         configured(target_modules=["q_proj"])),
    Case("DoRA", CONFIG, "DoRA", configured(use_dora=True)),
    Case("DoRA's tensors", WEIGHTS, "DoRA",
         {WEIGHTS: weights(setting(f"{Q}.lora_magnitude_vector", np.ones(16)))}),
    Case("modules_to_save", CONFIG, "modules_to_save", configured(modules_to_save=["lm_head"])),
    Case("a fully trained module", WEIGHTS, "fully trained",
         {WEIGHTS: weights(setting("base_model.model.lm_head.weight", np.ones((4, 4))))}),
    Case("adapted embeddings", WEIGHTS, "embedding",
         {WEIGHTS: weights(setting("base_model.model.embed_tokens.lora_embedding_A", [[1]]))}),
    Case("trained bias", CONFIG, "biases", configured(bias="all")),
    Case("bias in LoRA", CONFIG, "bias", configured(lora_bias=True)),
    Case("another PEFT method", CONFIG, "IA3", configured(peft_type="IA3")),
    Case("an initialisation that changes the base", CONFIG, "changes the base",
         configured(init_lora_weights="pissa")),
    Case("an unknown key", CONFIG, "not understood", configured(topk=4)),
    Case("code to load", CONFIG, "auto_map", configured(auto_map={"AutoModel": "x.Y"})),
    Case("configuration that is no JSON", CONFIG, "not valid JSON", {CONFIG: b"{"}),
    Case("configuration with a key twice", CONFIG, "twice", {CONFIG: b'{"r": 1, "r": 64}'}),
    Case("path traversal", "../../etc/passwd", "leads out", {"../../etc/passwd": b"x"}),
    Case("absolute path", "/etc/cron.d/x", "leads out", {"/etc/cron.d/x": b"x"}),
    Case("Windows path", "..\\\\x", "leads out", {"..\\x": b"x"}),
    Case("code", "modeling.py", "code", {"modeling.py": b"import os"}),
    Case("a template", "chat_template.jinja", "code", {"chat_template.jinja": b"{{ x }}"}),
    Case("a tokenizer", "tokenizer.json", "tokenizer", {"tokenizer.json": b"{}"}),
    Case("a subdirectory", "checkpoint-5/state.json", "subdirectory",
         {"checkpoint-5/state.json": b"{}"}),
    Case("oversized weights", WEIGHTS, "above the limit of 1048576",
         {WEIGHTS: Bytes(VALID, claimed=5 << 20)}),
    Case("oversized card", README, "above the limit",
         {README: Bytes(CARD.encode(), claimed=5 << 20)}),
    Case("card without a required section", README, "Intended use", {README: b"# Tiny\n"}),
    Case("card with a YAML bomb", README, "anchors",
         {README: b"---\na: &a [x, x]\nb: [*a, *a]\n---\n## Intended use\n"}),
    Case("card that is no text", README, "UTF-8", {README: b"\xff\xfe## Intended use"}),
]  # fmt: skip


LIMITS = Limits(max_file_bytes=1 << 20, max_small_file_bytes=1 << 16)
SECTIONS = ("Intended use",)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_refused_with_file_problem_and_remedy(case: Case) -> None:
    limits = Limits() if case.title == "header above the limit" else LIMITS
    admission = admit(files(case.changes), TINY, limits=limits, card_sections=SECTIONS)
    assert admission.facts is None
    about = [p for p in admission.problems if p.file == case.file]
    assert any(case.says in p.problem for p in about), [str(p) for p in admission.problems]
    for problem in admission.problems:
        assert problem.remedy.endswith(".")
        assert len(str(problem)) < 600


def test_a_valid_adapter_is_admitted_with_its_facts() -> None:
    admission = admit(files({}), TINY, limits=LIMITS, card_sections=SECTIONS)
    assert admission.problems == ()
    assert admission.facts is not None
    assert admission.facts.rank == 4
    assert admission.facts.parameters == 4 * 2 * 4 * 16
    assert admission.facts.target_modules == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    "changes",
    [
        configured(use_rslora=True),
        configured(base_model_name_or_path="org/tiny"),
        configured(init_lora_weights="gaussian"),
        {**configured(r=2, rank_pattern={"q_proj": 4, "v_proj": 4})},
        {WEIGHTS: save({n: a.astype(np.float16) for n, a in tensors().items()})},
    ],
    ids=["rsLoRA", "base by another name", "gaussian start", "rank pattern", "half precision"],
)
def test_what_the_server_can_serve_is_admitted(changes: dict[str, Any]) -> None:
    assert admit(files(changes), TINY, limits=LIMITS).problems == ()


def test_every_problem_is_reported_at_once() -> None:
    spoilt = {**configured(use_dora=True, r=100), README: None, "x.py": b""}
    found = {p.file for p in admit(files(spoilt), TINY, limits=LIMITS).problems}
    assert found == {CONFIG, README, "x.py", WEIGHTS}
