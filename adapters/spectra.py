"""What the spectrum of a LoRA update looks like, and whether it is unusual among its peers.

The statistics (leading singular value, Frobenius norm, energy concentration, spectral entropy,
kurtosis) are those of Puertolas Merenciano et al., "Weight Space Detection of Backdoors in LoRA
Adapters" (arXiv:2602.15195), which reports 97 % accuracy on 500 adapters of one base model.

It can catch an update whose energy sits in fewer directions, or is much larger or smaller, than in
other adapters of the same base. It cannot catch poison that was trained to look ordinary, says
nothing about what an adapter answers, and flags honest adapters that are merely unlike the others:
a flag asks a reviewer to look, and is no verdict.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import log
from statistics import median
from typing import IO

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapters.fields import Finite
from adapters.peft_config import LoraConfig
from adapters.safetensors_header import TensorInfo
from adapters.tensor_values import Array, columns, rows

MIN_PEERS = 8
"""Fewer peers than this say nothing about what is usual."""
UNUSUAL = 5.0
"""How many robust standard deviations from the peers' median count as unusual."""


class Spectrum(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of one update, (alpha / r) B A; of a whole adapter, their means over modules."""

    norm: Finite
    """Frobenius norm."""
    top: Finite
    """Largest singular value."""
    concentration: Finite
    """Share of the energy (squared singular values) in the largest one, 1/rank to 1."""
    entropy: Finite
    """Shannon entropy of the energy's distribution over its singular values, 0 to 1."""
    kurtosis: Finite
    """Excess kurtosis of the entries of both factors."""


def spectra(
    file: IO[bytes], pairs: Mapping[str, tuple[TensorInfo, TensorInfo]], config: LoraConfig
) -> dict[str, Spectrum]:
    """The spectrum of every module's update in a weights file.

    pairs: each module's A (r, d_in) and B (d_out, r), of finite values. Reads in pieces: memory
    does not grow with the tensors.
    """
    return {
        module: spectrum(
            columns(file, a), (piece.T for piece in rows(file, b)), config.scale_of(module)
        )
        for module, (a, b) in pairs.items()
    }


def spectrum(a: Iterable[Array], b: Iterable[Array], scale: float) -> Spectrum:
    """The spectrum of `scale` B A, in O(r² (d_in + d_out)).

    a: A as pieces (r, some of d_in); b: Bᵀ as pieces (r, some of d_out). The squares of the
    singular values of B A are the eigenvalues of (BᵀB)(AAᵀ), both of which are only r by r. In
    float64 no finite float32 factors overflow it: 1e77 per product, 1e170 for both.
    """
    first, second = _Moments(), _Moments()
    for piece in a:
        first.add(piece)
    for piece in b:
        second.add(piece)
    values, vectors = np.linalg.eigh(second.gram)
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    energy = np.clip(np.linalg.eigvalsh(root @ first.gram @ root)[::-1], 0, None) * scale**2
    total = float(energy.sum())
    share = energy / total if total > 0 else np.full(len(energy), 1 / len(energy))
    positive = share[share > 0]
    entropy = -float((positive * np.log(positive)).sum()) / max(log(len(share)), 1e-12)
    return Spectrum(
        norm=total**0.5,
        top=float(energy[0]) ** 0.5,
        concentration=float(share[0]),
        entropy=entropy if len(share) > 1 else 0.0,
        kurtosis=(first.kurtosis + second.kurtosis) / 2,
    )


class _Moments:
    """Sums over a factor's pieces, of which its Gram matrix and its kurtosis follow."""

    def __init__(self) -> None:
        self.gram: NDArray[np.float64] = np.zeros(())
        self._count = 0
        self._sums = np.zeros(4)

    def add(self, piece: Array) -> None:
        """piece: (r, any number of columns)."""
        values = piece.astype(np.float64)
        self.gram = self.gram + values @ values.T
        self._count += values.size
        squares = values * values
        sums = values.sum(), squares.sum(), (squares * values).sum(), (squares * squares).sum()
        self._sums += np.array(sums)

    @property
    def kurtosis(self) -> float:
        """Excess kurtosis of all entries; 0 if they are all alike."""
        m1, m2, m3, m4 = (float(value) for value in self._sums / max(self._count, 1))
        variance = m2 - m1**2
        if variance <= 1e-30:
            return 0.0
        return (m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4) / variance**2 - 3


def summary(modules: Mapping[str, Spectrum]) -> Spectrum:
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
