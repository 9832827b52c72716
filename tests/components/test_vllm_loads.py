"""vLLM's own loader beside admission: whatever is admitted loads, with the scale that was counted.

No engine is started: the configuration is read and checked, and the tensors are loaded, by the
functions that vLLM's worker calls for each adapter.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.numpy import save

from adapters.admission import admit, files_in
from adapters.peft_config import parse_config
from tests.support.adapters import TINY, config, tensors, write_adapter

torch.set_num_threads(1)
LoRAModel = pytest.importorskip("vllm.lora.lora_model").LoRAModel
PEFTHelper = pytest.importorskip("vllm.lora.peft_helper").PEFTHelper
CONFIG = "adapter_config.json"


def load(directory: Path) -> Any:
    """The adapter as vLLM's worker holds it; raises for whatever the worker would refuse."""
    helper = PEFTHelper.from_local_dir(str(directory), 2048)
    helper.validate_legal(SimpleNamespace(max_lora_rank=64))
    return LoRAModel.from_local_checkpoint(
        str(directory),
        {"q_proj", "v_proj"},
        helper,
        lora_model_id=1,
        device="cpu",
        dtype=torch.bfloat16,
    )


TEXTS = {
    "UTF-16": json.dumps(config()).encode("utf-16"),
    "byte order mark": json.dumps(config()).encode("utf-8-sig"),
    "bias null": json.dumps(config(bias=None)).encode(),
    "bias empty": json.dumps(config(bias=[])).encode(),
    "no targets": json.dumps({k: v for k, v in config().items() if k != "target_modules"}).encode(),
    "rank as text": json.dumps(config(r="4")).encode(),
    "alpha as text": json.dumps(config(lora_alpha="8")).encode(),
    "rank in a pattern": json.dumps(config(rank_pattern={"q_proj": 256})).encode(),
    "rank of a fraction": json.dumps(config(rank_pattern={"q_proj": 4.5})).encode(),
    "DoRA": json.dumps(config(use_dora=True)).encode(),
    "PiSSA": json.dumps(config(init_lora_weights="pissa_niter_4")).encode(),
    "saved modules": json.dumps(config(modules_to_save=["lm_head"])).encode(),
    "replicated layers": json.dumps(config(layer_replication=[[0, 1]])).encode(),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_vllm_refuses_is_refused(text: bytes, tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "adapter")
    (directory / CONFIG).write_bytes(text)
    with pytest.raises((ValueError, TypeError)):
        load(directory)
    assert admit(files_in(directory), TINY).problems


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_rslora": True},
        {"use_rslora": None, "rank_pattern": None, "alpha_pattern": None},
        {"init_lora_weights": "EVA", "eva_config": {"rho": 2.0}},
        {"enable_lora": None, "merge_weights": False},
        {"target_modules": r"(?:.*?(?:language|text).*?\.(?:q_proj|v_proj))"},
        {"target_modules": None},
        {"target_modules": ["q_proj", "v_proj", "of_another_model"]},
        {"alpha_pattern": {"q_proj": 20}},
        {"alpha_pattern": {"layers.1.self_attn.q_proj": 12, "q_proj": 20}},
        {"alpha_pattern": {"q_proj": 20, "layers.1.self_attn.q_proj": 12}},
        {"alpha_pattern": {"^model.layers.1.self_attn.q_proj": 12}},
        {"alpha_pattern": {"^layers.1.self_attn.q_proj": 12}},
        {"alpha_pattern": {"_proj": 12}},
        {"r": 2, "rank_pattern": {"q_proj": 4, "v_proj": 4}},
        {"r": 2, "rank_pattern": dict.fromkeys(TINY.modules, 4), "use_rslora": True},
        {"lora_alpha": 0.125},
        {"base_model_name_or_path": None},
    ],
    ids=lambda changes: json.dumps(changes)[:70],
)
def test_what_is_admitted_loads_in_vllm_with_the_scale_that_was_counted(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    directory = write_adapter(tmp_path / "adapter")
    (directory / CONFIG).write_text(json.dumps(config(**changes)))
    assert admit(files_in(directory), TINY).problems == ()
    parsed, _ = parse_config((directory / CONFIG).read_bytes())
    assert parsed is not None
    loaded = load(directory)
    assert loaded.loras.keys() == TINY.modules.keys()
    for module, weights in loaded.loras.items():
        assert weights.scaling == pytest.approx(parsed.scale_of(module)), module
        assert weights.rank == parsed.rank_of(module)


def test_a_dot_that_vllm_reads_as_any_character_is_refused(tmp_path: Path) -> None:
    """Else an alpha of any size would be applied that admission did not count."""
    directory = write_adapter(tmp_path / "adapter")
    (directory / CONFIG).write_text(json.dumps(config(alpha_pattern={"q.proj": 9e5})))
    assert load(directory).loras["model.layers.0.self_attn.q_proj"].scaling == 9e5 / 4
    assert admit(files_in(directory), TINY).problems


def test_names_inside_peft_are_refused_by_both(tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "adapter")
    raw = {name.replace(".weight", ".default.weight"): a for name, a in tensors().items()}
    (directory / "adapter_model.safetensors").write_bytes(save(raw))
    with pytest.raises(ValueError, match="unsupported LoRA weight"):
        load(directory)
    assert admit(files_in(directory), TINY).problems
