"""Whether a LoRA update has a size that can be served: neither absurd nor without effect.

An update that is many times the weights it is added to leaves nothing of the base model, and one
near the limits of floating-point numbers turns into infinities and NaN inside the engine, where
they reach other requests. Trained updates are small: 0.06 to 0.11 of the norm of GPT-3's weights
(Hu et al. 2021, arXiv:2106.09685, section 7.3), 0.003 to 0.03 of SmolLM2's for the demonstration's
adapters.
"""

from collections.abc import Iterator, Mapping

from adapters.base_model import BaseModel
from adapters.peft_config import Finding, LoraConfig
from adapters.spectra import Spectrum

MAX_RATIO = 4.0
"""Highest ratio of an update's Frobenius norm to that of its module's weights."""
MIN_RATIO = 1e-6
"""Below it, an update is lost in the rounding of bfloat16 and float16."""
ASSUMED_RMS = 0.5
"""Root mean square of a module's weights where the base was registered without norms: above that
of trained models (0.05 to 0.4 in SmolLM2), so that no trained adapter is refused for it."""
FLOAT16_MAX = 65504.0
FLOAT16_MIN = 2.0**-24
"""The largest and the smallest positive float16, the narrowest type that servers compute in."""

_SMALLER = (
    "Check lora_alpha and the learning rate: trained adapters change a module by far less than its "
    "own norm."
)


def check_magnitude(
    modules: Mapping[str, Spectrum],
    factors: Mapping[str, tuple[float, float]],
    base: BaseModel,
    config: LoraConfig,
) -> list[Finding]:
    """What is wrong with the size of an adapter's updates.

    modules: the spectrum of each module's (alpha / r) B A; factors: the largest magnitude in each
    module's A and B.
    """
    findings = list(_too_large(modules, factors, base, config))
    if modules and not any(
        _has_effect(module, spectrum, factors[module], base, config)
        for module, spectrum in modules.items()
    ):
        findings.append(
            Finding(
                "The adapter would load and do nothing: in every module, (alpha / r) B A is zero "
                f"or below {MIN_RATIO:g} times the norm of the base model's weights.",
                "Save the adapter after training, not before; check lora_alpha.",
            )
        )
    return findings


def _too_large(
    modules: Mapping[str, Spectrum],
    factors: Mapping[str, tuple[float, float]],
    base: BaseModel,
    config: LoraConfig,
) -> Iterator[Finding]:
    for module, spectrum in modules.items():
        value = max(factors[module][0], _scaled(module, factors, config))
        if value > FLOAT16_MAX:
            yield Finding(
                f"Module {module!r} has factors up to {value:.3g}, above {FLOAT16_MAX:g}, the "
                "largest number of float16.",
                _SMALLER,
            )
        norm, measured = reference_norm(module, base)
        ratio = spectrum.norm / norm
        if ratio > MAX_RATIO:
            of = "the norm of its weights" if measured else "the norm assumed for its weights"
            yield Finding(
                f"The update of module {module!r} is {ratio:.3g} times {of} ({norm:.3g}), above "
                f"the bound of {MAX_RATIO:g}.",
                _SMALLER
                if measured
                else f"{_SMALLER} The base was registered without its weights' norms; an operator "
                "adds them with lorary base add.",
            )


def _has_effect(
    module: str,
    spectrum: Spectrum,
    factor: tuple[float, float],
    base: BaseModel,
    config: LoraConfig,
) -> bool:
    smallest = min(factor[0], factor[1] * config.scale_of(module))
    norm, _ = reference_norm(module, base)
    return smallest >= FLOAT16_MIN and spectrum.norm >= MIN_RATIO * norm


def _scaled(module: str, factors: Mapping[str, tuple[float, float]], config: LoraConfig) -> float:
    """The largest magnitude of B before and after vLLM multiplies the scale into it."""
    return factors[module][1] * max(1.0, config.scale_of(module))


def reference_norm(module: str, base: BaseModel) -> tuple[float, bool]:
    """The Frobenius norm that an update is compared with, and whether it was measured."""
    measured = base.norms.get(module, 0.0)
    if measured > 0:
        return measured, True
    out_features, in_features = base.modules[module]
    return ASSUMED_RMS * float(out_features * in_features) ** 0.5, False
