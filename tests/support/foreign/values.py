"""Tensors and numbers that no trainer should write, and those that some do."""

import numpy as np

from tests.support.foreign.case import (
    BIGGER,
    EXPERTS,
    LLAMA,
    PHI,
    PREFIX,
    Case,
    Named,
    lora,
    pair,
    renamed,
    scaled,
    stored,
)
from tests.support.foreign.configs import PEFT_0_21, made_for
from tests.support.foreign.peft_writes import Q
from tests.support.foreign.reasons import (
    AMBIGUOUS,
    CONVERT,
    DIVERGED,
    FEW_BITS,
    INCONSISTENT,
    MISPLACED,
    NO_EFFECT,
    ONE_SIGN,
    TOO_LARGE,
)

TYPES = [
    Case(tool="types", shape=dtype, vllm="serves", says=says, why=why, config=PEFT_0_21,
         tensors=lora(), dtype=dtype)
    for dtype, says, why in (
        ("F32", "", ""), ("F16", "", ""), ("BF16", "", ""),
        ("F64", "type F64", CONVERT), ("F8_E4M3", "type F8_E4M3", FEW_BITS),
        ("I8", "type I8", FEW_BITS), ("I32", "type I32", FEW_BITS),
    )
]  # fmt: skip


def _poisoned(value: float) -> Named:
    made = lora()
    made[f"{Q}.lora_A.weight"][1, 2] = value
    return made


def _case(shape: str, vllm: object, says: str = "", why: str = "", **given: object) -> Case:
    return Case(**{
        "tool": "values", "shape": shape, "vllm": vllm, "says": says, "why": why,
        "config": PEFT_0_21, "tensors": lora(), **given})  # type: ignore[arg-type]  # fmt: skip


VALUES = [
    _case("NaN", "serves", "NaN", DIVERGED, tensors=_poisoned(np.nan)),
    _case("infinity", "serves", "NaN", DIVERGED, tensors=_poisoned(np.inf)),
    _case("B zero: saved before training", "serves", "do nothing", NO_EFFECT,
          tensors=scaled(lora(), "lora_B", 0)),
    _case("A zero", "serves", "do nothing", NO_EFFECT, tensors=scaled(lora(), "lora_A", 0)),
    _case("one module zero", "serves",
          tensors=lora("q_proj") | scaled(lora("v_proj"), "lora_B", 0)),
    _case("an update of 1,000 times the weights", "serves", "times the norm", TOO_LARGE,
          tensors=scaled(scaled(lora(), "lora_B", 100), "lora_A", 300)),
    _case("no tensors", "refuses", "no LoRA tensors", tensors={}),
    _case("half a pair", "refuses", "lacks its lora_B",
          tensors={n: a for n, a in lora().items() if n != f"{Q}.lora_B.weight"}),
    _case("flat tensors", "refuses", "has shapes", tensors={
        name: array.reshape(-1) for name, array in lora().items()}),
    _case("the start of a file", "refuses", "truncated", tensors=stored(lora())[:-64]),
    _case("a zip archive of torch", "refuses", "zip archive", tensors=b"PK\x03\x04" + b"\0" * 64),
    _case("of a bigger base", "refuses", "has shapes", tensors=lora(base=BIGGER)),
    _case("with layers of a deeper base", "ignores", "'model.layers.2.self_attn.q_proj' matches no",
          tensors=lora() | pair(f"{PREFIX}model.layers.2.self_attn.q_proj", 64, 64)),
    _case("of a narrower base", "serves", "has shapes", MISPLACED,
          tensors=lora("v_proj") | pair(Q, 32, 32),
          config=PEFT_0_21 | {"target_modules": ["q_proj", "v_proj"]}),
    _case("of a base with other modules", "refuses", "matches no linear module",
          tensors=renamed(lora("q_proj"), "self_attn.q_proj", "attn.Wqkv")),
    _case("query, key and value as one", "refuses", "matches no linear module",
          config=made_for(LLAMA, "qkv_proj"),
          tensors=pair(f"{PREFIX}model.layers.0.self_attn.qkv_proj", 128, 64)),
]  # fmt: skip

NUMBERS = [
    _case("a rank that the tensors do not have", "serves", "rank 8", INCONSISTENT,
          config=PEFT_0_21 | {"r": 8}),
    _case("tensors that target_modules does not name", "serves", "does not name", INCONSISTENT,
          config=PEFT_0_21 | {"target_modules": ["q_proj"]}),
    _case("a target without tensors", "serves", "there are no tensors", INCONSISTENT,
          config=PEFT_0_21 | {"target_modules": ["q_proj", "v_proj", "o_proj"]}),
    _case("rank 256", "refuses", "above the limit of 64", tensors=lora(rank=256),
          config=PEFT_0_21 | {"r": 256}),
    _case("rank 256 in rank_pattern", "refuses", "above the limit of 64",
          tensors=lora(ranks={"v_proj": 256}),
          config=PEFT_0_21 | {"rank_pattern": {"v_proj": 256}}),
    _case("rank 0", "refuses", "r is 0", config=PEFT_0_21 | {"r": 0}),
    _case("a rank as text", "refuses", "r is '4'", config=PEFT_0_21 | {"r": "4"}),
    _case("a rank as a fraction", "serves", "r is 4.0", INCONSISTENT,
          config=PEFT_0_21 | {"r": 4.0}),
    _case("a rank_pattern as a fraction", "refuses", "rank_pattern",
          config=PEFT_0_21 | {"rank_pattern": {"q_proj": 4.0}}),
    _case("alpha as a fraction", "serves", config=PEFT_0_21 | {"lora_alpha": 5.65685424949238}),
    _case("alpha null", "refuses", "lora_alpha is None", config=PEFT_0_21 | {"lora_alpha": None}),
    _case("alpha as text", "refuses", "lora_alpha is '8'", config=PEFT_0_21 | {"lora_alpha": "8"}),
    _case("alpha 0", "serves", "lora_alpha is 0", NO_EFFECT, config=PEFT_0_21 | {"lora_alpha": 0}),
    _case("alpha negative", "serves", "lora_alpha is -8", ONE_SIGN,
          config=PEFT_0_21 | {"lora_alpha": -8}),
    _case("NaN in the configuration", "serves", "NaN is not JSON", AMBIGUOUS,
          config=b'{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": NaN, '
                 b'"target_modules": ["q_proj", "v_proj"]}'),
    _case("a key twice", "serves", "twice", AMBIGUOUS,
          config=b'{"peft_type": "LORA", "r": 8, "r": 4, "lora_alpha": 8, '
                 b'"target_modules": ["q_proj", "v_proj"]}'),
    _case("a byte order mark", "refuses", "BOM", config=b"\xef\xbb\xbf{}"),
]  # fmt: skip

EXPERT_ENDS = ("w1", "w2", "w3")
FUSED = f"{PREFIX}model.layers.0.block_sparse_moe.experts"
MODELS = [
    Case(tool="Phi-3", shape="one matrix for query, key and value", vllm="serves", base=PHI,
         config=made_for(PHI, "qkv_proj", "gate_up_proj"),
         tensors=lora("qkv_proj", "gate_up_proj", base=PHI)),
    Case(tool="Phi-3", shape="query, key and value apart", vllm="refuses", base=PHI,
         says="matches no linear module", config=made_for(PHI, "q_proj"),
         tensors=pair(Q, 64, 64)),
    Case(tool="Mixtral", shape="attention and router", vllm="serves", base=EXPERTS,
         config=made_for(EXPERTS, "q_proj", "v_proj", "gate"),
         tensors=lora("q_proj", "v_proj", "gate", base=EXPERTS)),
    Case(tool="Mixtral", shape="each expert's matrices", vllm="serves", base=EXPERTS,
         config=made_for(EXPERTS, *EXPERT_ENDS), tensors=lora(*EXPERT_ENDS, base=EXPERTS)),
    Case(tool="Mixtral", shape="one expert only", vllm="serves", base=EXPERTS,
         config=made_for(EXPERTS, "experts.0.w1"), tensors=lora("experts.0.w1", base=EXPERTS)),
    Case(tool="Mixtral", shape="all experts as one (target_parameters)", vllm="refuses",
         base=EXPERTS, says="all experts of a layer at once",
         config=made_for(EXPERTS) | {"target_parameters": ["mlp.experts.gate_up_proj",
                                                           "mlp.experts.down_proj"]},
         tensors=pair(f"{FUSED}.base_layer", 256, 64, 8) | pair(FUSED, 64, 128, 8)),
]  # fmt: skip

CASES = [*TYPES, *VALUES, *NUMBERS, *MODELS]
