"""Updates that would blank or break a server's answers, or do nothing, are refused with figures."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save

from adapters.base_model import BaseModel
from adapters.magnitude import ASSUMED_RMS, MAX_RATIO
from tests.support.adapters import TINY, config, tensors
from tests.support.uploads import CONFIG, WEIGHTS, configured, files, refusals

MEASURED = msgspec.structs.replace(TINY, norms=dict.fromkeys(TINY.modules, 1.6))
"""Weights with a root mean square of 0.1."""
BASES = pytest.mark.parametrize("base", [TINY, MEASURED], ids=["norms assumed", "norms measured"])
Q = "base_model.model.model.layers.0.self_attn.q_proj"


def changed(change: Callable[[str, np.ndarray], Any]) -> dict[str, bytes]:
    """Weights of which each tensor is what `change` makes of it."""
    made = tensors()
    return {WEIGHTS: save({name: np.asarray(change(name, made[name])) for name in made})}


def constant(value: float) -> dict[str, bytes]:
    return changed(lambda _name, array: np.full_like(array, value))


def update_of(norm: float) -> dict[str, bytes]:
    """Every module's (alpha / r) B A has this Frobenius norm."""
    made = tensors()
    for module in TINY.modules:
        a, b = (made[f"base_model.model.{module}.lora_{factor}.weight"] for factor in "AB")
        b *= norm / (2 * np.linalg.norm(b @ a))  # alpha / r is 2
    return {WEIGHTS: save(made)}


@BASES
@pytest.mark.parametrize("value", [3e38, 1e30, 1e15, 1e4, 300, 3])
def test_absurd_finite_weights_are_refused(base: BaseModel, value: float) -> None:
    said = refusals(constant(value), base)
    assert "layers.0.self_attn.q_proj" in said
    assert "above the bound of 4" in said
    assert "lora_alpha" in said


@pytest.mark.parametrize(
    ("base", "norm"), [(MEASURED, 1.6), (TINY, 16 * ASSUMED_RMS)], ids=["measured", "assumed"]
)
def test_the_bound_is_a_multiple_of_the_norm_of_the_weights(base: BaseModel, norm: float) -> None:
    assert refusals(update_of(0.99 * MAX_RATIO * norm), base) == ""
    said = refusals(update_of(1.01 * MAX_RATIO * norm), base)
    assert "4.04 times" in said
    assert ("lorary base add" in said) == (base is TINY)


def test_one_absurd_module_among_ordinary_ones_is_named() -> None:
    loud = changed(lambda name, array: array * (1e4 if Q in name else 1))
    said = refusals(loud, MEASURED)
    assert "layers.0.self_attn.q_proj" in said
    assert "v_proj" not in said


@pytest.mark.parametrize(
    "config",
    [
        {"lora_alpha": 30_000},
        {"lora_alpha": 30_000, "use_rslora": True},
        {"alpha_pattern": {"q_proj": 30_000}},
        {"alpha_pattern": {"layers.0.self_attn.q_proj": 30_000}},
        {"alpha_pattern": {"^model.layers.0.self_attn.q_proj": 30_000}},
        {"alpha_pattern": {"v_proj": 8, "q_proj": 30_000}},
    ],
    ids=str,
)
def test_the_scale_counts_however_it_is_written(config: dict[str, Any]) -> None:
    assert "above the bound of 4" in refusals(configured(**config), MEASURED)


def test_a_pattern_whose_dot_fits_another_character_is_refused() -> None:
    """PEFT and vLLM read names as regular expressions: there, q.proj is q_proj, too."""
    assert "names 'q.proj'" in refusals(configured(alpha_pattern={"q.proj": 9e5}), MEASURED)


def test_rslora_divides_by_the_root_of_the_rank() -> None:
    norm = 1.6 * MAX_RATIO / 2  # twice as much under rsLoRA: sqrt(4) instead of 4
    assert refusals({**update_of(0.99 * norm), **configured(use_rslora=True)}, MEASURED) == ""
    assert "times" in refusals({**update_of(1.01 * norm), **configured(use_rslora=True)}, MEASURED)


@pytest.mark.parametrize("factors", [(1e6, 1e-7), (1e-7, 1e6)], ids=["A", "B"])
def test_factors_beyond_float16_are_refused_even_where_their_product_is_small(
    factors: tuple[float, float],
) -> None:
    scaled = changed(lambda name, array: array * np.float32(factors[".lora_B." in name]) / 0.05)
    assert "above 65504" in refusals(scaled, MEASURED)


@BASES
@pytest.mark.parametrize(
    "change",
    [
        lambda name, array: array * (".lora_B." not in name),
        lambda name, array: array * (".lora_A." not in name),
        lambda name, array: -0.0 * array,
        lambda name, array: np.full_like(array, 1e-42) if ".lora_B." in name else array,
        lambda name, array: array * 1e-12 if ".lora_A." in name else array * 1e3,
        lambda name, array: array * np.float32(1e-4),
        lambda name, array: np.ones_like(array) * ([[1, -1, 1, -1]] if "lora_B" in name else 1),
    ],
    ids=["B zero", "A zero", "minus zero", "B denormal", "A below float16", "tiny", "B A cancels"],
)
def test_an_update_without_effect_is_refused(
    base: BaseModel, change: Callable[[str, np.ndarray], Any]
) -> None:
    assert "do nothing" in refusals(changed(lambda n, a: change(n, a).astype(np.float32)), base)


def test_an_update_of_some_modules_only_is_admitted() -> None:
    assert refusals(changed(lambda name, array: array * (Q in name)), MEASURED) == ""


@pytest.mark.parametrize(
    ("alpha", "says"),
    [
        ("1e-320", "do nothing"),
        ("1e300", "lora_alpha is 1e+300"),
        ("1e400", "lora_alpha is inf"),
        ("1" + "0" * 400, "lora_alpha is 1000"),
        ("1" + "0" * 5000, "not valid JSON"),
        ("NaN", "not valid JSON"),
        ("-Infinity", "not valid JSON"),
        ("-16", "lora_alpha is -16"),
        ("0", "lora_alpha is 0"),
        ("true", "lora_alpha is True"),
        ('"16"', "lora_alpha is '16'"),
        ("null", "lora_alpha is None"),
    ],
)
def test_an_alpha_that_is_no_ordinary_number_is_refused(alpha: str, says: str) -> None:
    text = json.dumps(config(lora_alpha=123456)).replace("123456", alpha)
    assert says in refusals({CONFIG: text.encode()}, MEASURED)


def test_a_rank_far_above_the_limit_is_refused_without_being_measured() -> None:
    """Measuring it would take a matrix of rank by rank: 80 GB here."""
    rank = 100_000
    base = BaseModel("thin", "0" * 64, {"q_proj": (1, 1)})
    factors = {
        "base_model.model.q_proj.lora_A.weight": np.ones((rank, 1), np.float32),
        "base_model.model.q_proj.lora_B.weight": np.ones((1, rank), np.float32),
    }
    named = configured(base_model_name_or_path="thin", r=rank, target_modules=["q_proj"])
    assert "above the limit of 64" in refusals({**named, WEIGHTS: save(factors)}, base)


def test_nan_is_seen_wherever_it_lies_in_a_long_tensor() -> None:
    width = 3_000_000  # 12 MB in A: more than is read at once
    base = BaseModel("wide", "0" * 64, {"q_proj": (1, width)})
    named = configured(base_model_name_or_path="wide", r=1, target_modules=["q_proj"])
    for place in (0, width // 2, width - 1):
        a = np.full((1, width), 0.01, np.float32)
        a[0, place] = np.nan
        factors = {
            "base_model.model.q_proj.lora_A.weight": a,
            "base_model.model.q_proj.lora_B.weight": np.ones((1, 1), np.float32),
        }
        assert "NaN" in refusals({**named, WEIGHTS: save(factors)}, base)


def test_the_measured_spectra_come_with_the_admission() -> None:
    from adapters.admission import admit

    admission = admit(files({}), MEASURED)
    assert admission.modules.keys() == TINY.modules.keys()
