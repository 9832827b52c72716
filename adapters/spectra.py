"""What the spectrum of a LoRA update looks like, and whether it is unusual among its peers.

The statistics (leading singular value, Frobenius norm, energy concentration, spectral entropy,
kurtosis) are those of Puertolas Merenciano et al., "Weight Space Detection of Backdoors in LoRA
Adapters" (arXiv:2602.15195), which reports 97 % accuracy on 500 adapters of one base model.

It can catch an update whose energy sits in fewer directions, or is much larger or smaller, than in
other adapters of the same base. It cannot catch poison that was trained to look ordinary, says
nothing about what an adapter answers, and flags honest adapters that are merely unlike the others:
a flag asks a reviewer to look, and is no verdict.
"""

from collections.abc import Iterator, Sequence
from math import log
from statistics import median
from typing import IO

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapters.peft_config import LoraConfig
from adapters.safetensors_header import TensorInfo, read_header
from adapters.weights import PREFIX

Array = NDArray[np.float32]
MIN_PEERS = 8
"""Fewer peers than this say nothing about what is usual."""
UNUSUAL = 5.0
"""How many robust standard deviations from the peers' median count as unusual."""


class Spectrum(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of one update, (alpha / r) B A; of a whole adapter, their means over modules."""

    norm: float
    """Frobenius norm."""
    top: float
    """Largest singular value."""
    concentration: float
    """Share of the energy (squared singular values) in the largest one, 1/rank to 1."""
    entropy: float
    """Shannon entropy of the energy's distribution over its singular values, 0 to 1."""
    kurtosis: float
    """Excess kurtosis of the entries of both factors."""


def spectra(file: IO[bytes], size: int, config: LoraConfig) -> dict[str, Spectrum]:
    """The spectrum of every module's update in an admitted weights file, one module at a time."""
    infos = {info.name: info for info in read_header(file, size)}
    found = {}
    for name, info in infos.items():
        if not name.endswith(".lora_A.weight"):
            continue
        module = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        a = _load(file, info)
        b = _load(file, infos[name.replace(".lora_A.", ".lora_B.")])
        found[module] = spectrum(a, b, config.scale_of(module))
    return found


def spectrum(a: Array, b: Array, scale: float) -> Spectrum:
    """The spectrum of `scale` B A, in O(r² (d_in + d_out)).

    a: (r, d_in), b: (d_out, r). With B = Q_b R_b and Aᵀ = Q_a R_a, the singular values of B A are
    those of the small R_b R_aᵀ.
    """
    r_a = np.linalg.qr(a.T.astype(np.float64)).R
    r_b = np.linalg.qr(b.astype(np.float64)).R
    singular = abs(scale) * np.linalg.svd(r_b @ r_a.T, compute_uv=False)
    energy = singular**2
    total = float(energy.sum())
    share = energy / total if total > 0 else np.full(len(energy), 1 / len(energy))
    positive = share[share > 0]
    entropy = -float((positive * np.log(positive)).sum()) / max(log(len(share)), 1e-12)
    return Spectrum(
        norm=total**0.5,
        top=float(singular[0]),
        concentration=float(share[0]),
        entropy=entropy if len(share) > 1 else 0.0,
        kurtosis=(_kurtosis(a) + _kurtosis(b)) / 2,
    )


def summary(modules: dict[str, Spectrum]) -> Spectrum:
    """The means over all modules."""
    values = list(modules.values())
    return Spectrum(
        **{
            name: float(np.mean([getattr(value, name) for value in values]))
            for name in Spectrum.__struct_fields__
        }
    )


def screen(subject: Spectrum, peers: Sequence[Spectrum]) -> tuple[str, ...]:
    """What is unusual about `subject` among adapters of the same base model, in sentences.

    Robust z-scores: distance from the median in units of 1.4826 times the median absolute
    deviation (Leys et al. 2013, doi:10.1016/j.jesp.2013.03.013).
    """
    if len(peers) < MIN_PEERS:
        return ()
    return tuple(_unusual(subject, peers))


def _unusual(subject: Spectrum, peers: Sequence[Spectrum]) -> Iterator[str]:
    for name in Spectrum.__struct_fields__:
        values = [float(getattr(peer, name)) for peer in peers]
        middle = median(values)
        spread = 1.4826 * median(abs(value - middle) for value in values)
        value = float(getattr(subject, name))
        distance = abs(value - middle) / max(spread, 1e-3 * abs(middle), 1e-12)
        if distance > UNUSUAL:
            yield (
                f"{name} {value:.3g} is {distance:.0f} robust deviations from the median "
                f"{middle:.3g} of {len(peers)} adapters of this base"
            )


def _kurtosis(values: Array) -> float:
    centred = values.astype(np.float64).ravel()
    centred = centred - centred.mean()
    variance = float((centred**2).mean())
    return float((centred**4).mean()) / variance**2 - 3 if variance > 0 else 0.0


def _load(file: IO[bytes], info: TensorInfo) -> Array:
    """One factor as float32."""
    file.seek(info.begin)
    data = file.read(info.end - info.begin)
    if info.dtype == "BF16":
        bits = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return bits.view(np.float32).reshape(info.shape)
    kind = {"F32": "<f4", "F16": "<f2"}[info.dtype]
    return np.frombuffer(data, kind).astype(np.float32).reshape(info.shape)
