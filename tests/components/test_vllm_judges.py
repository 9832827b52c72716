"""vLLM's own worker loads every folder of the table of trainers' folders."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from adapters.admission import admit
from adapters.base_model import BaseModel
from adapters.peft_config import parse_config
from tests.support.foreign import CASES, Case
from tests.support.foreign.case import CONFIG, EXPERTS, LLAMA, PHI, PREFIX, WEIGHTS, Answer, lora
from tests.support.foreign.configs import PEFT_0_2, PEFT_0_21
from tests.support.foreign.models import write_models
from tests.support.tiny_model import one_thread
from tests.support.uploads import Bytes

pytest.importorskip("vllm.lora.worker_manager")
from tests.support.vllm_worker import Judge

ADMITTED = [case for case in CASES if not case.says and case.base is not EXPERTS]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def judges(models: dict[str, Path]) -> dict[tuple[str, bool], Judge]:
    """By the base's name, and whether the engine classifies."""
    with one_thread():
        writing = {(name, False): Judge(path) for name, path in models.items()}
        return writing | {(LLAMA.name, True): Judge(models[LLAMA.name], classifies=True)}


def asked(judge: Judge, directory: Path) -> tuple[Answer, object]:
    """vLLM's answer, and what it refuses or ignores."""
    try:
        loaded = judge.load(directory)
    except Exception as refusal:  # vLLM raises errors of many classes
        return "refuses", refusal
    return ("ignores" if loaded.ignored else "serves"), loaded.ignored


@pytest.mark.parametrize("base", [LLAMA, PHI, EXPERTS], ids=lambda base: base.name)
def test_a_base_of_the_table_is_what_base_add_finds_in_its_model(
    base: BaseModel, models: dict[str, Path]
) -> None:
    assert BaseModel.from_directory(models[base.name], base.name).modules == base.modules


@pytest.mark.parametrize("case", CASES, ids=str)
def test_vllm_answers_as_the_table_says(
    case: Case, judges: dict[tuple[str, bool], Judge], tmp_path: Path
) -> None:
    answer, said = asked(judges[case.base.name, case.classifies], case.write(tmp_path))
    assert answer == case.vllm, said


@pytest.mark.parametrize("case", ADMITTED, ids=str)
def test_what_is_admitted_is_applied_with_the_scale_that_was_counted(
    case: Case, judges: dict[tuple[str, bool], Judge], tmp_path: Path
) -> None:
    parsed, _ = parse_config(case.files()[CONFIG])
    assert parsed is not None
    tensors = {}
    if case.dtype != "BF16":  # which numpy does not read
        tensors = load(case.files()[WEIGHTS])
    updates = judges[case.base.name, case.classifies].load(case.write(tmp_path)).updates
    for name, a in tensors.items():
        module = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        if module == name.removeprefix(PREFIX):
            continue
        b = tensors[name.replace("lora_A", "lora_B")].astype(np.float32)
        wanted = parsed.scale_of(module) * (b @ a.astype(np.float32))
        found = updates.pop(module)
        np.testing.assert_allclose(found, wanted, atol=0.02 * np.abs(wanted).max() + 1e-9)
    if tensors:
        assert not any(update.any() for update in updates.values())


VALUES: tuple[object, ...] = (
    None, False, True, 0, 1, 4, -1, 2.5, 10**400, "", "x", "none", "LORA", "gaussian", "PiSSA", "[",
    [], ["q_proj"], ["score"], [1, 2], [[0, 1]], {}, {"q_proj": 4}, {"q_proj": True}, {"(": 4},
)  # fmt: skip


@pytest.mark.parametrize("key", sorted({*PEFT_0_21, *PEFT_0_2, "topk", "vllm_lora_scaling_factor"}))
def test_no_value_of_a_key_is_admitted_that_vllm_refuses(
    key: str, judges: dict[tuple[str, bool], Judge], tmp_path: Path
) -> None:
    for number, value in enumerate(VALUES):
        case = Case(
            tool="any", shape=key, vllm="serves", config=PEFT_0_21 | {key: value}, tensors=lora()
        )
        if admit({name: Bytes(data) for name, data in case.files().items()}, LLAMA).problems:
            continue
        answer, said = asked(judges[LLAMA.name, False], case.write(tmp_path / str(number)))
        assert answer == "serves", (value, said)


def test_the_newest_configuration_is_that_of_the_installed_peft() -> None:
    from peft import LoraConfig

    written = LoraConfig(
        r=4,
        lora_alpha=8,
        lora_dropout=0.05,
        target_modules=["q_proj", "v_proj"],
        task_type="CAUSAL_LM",
        base_model_name_or_path="tiny",
        inference_mode=True,
    ).to_dict()
    assert {**written, "target_modules": sorted(written["target_modules"])} == PEFT_0_21
