"""The spectrum of a LoRA update, computed from its two factors without multiplying them out."""

from collections.abc import Iterable, Mapping
from math import log
from typing import IO

import numpy as np
from numpy.typing import NDArray

from adapters.peft_config import LoraConfig
from adapters.safetensors_header import TensorInfo
from adapters.spectra import Spectrum
from adapters.tensor_values import Array, columns, rows


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
