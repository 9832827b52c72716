"""What the spectrum of a LoRA update looks like, and whether it is unusual among its peers.

The statistics (leading singular value, Frobenius norm, energy concentration, spectral entropy,
kurtosis) are those of Puertolas Merenciano et al., "Weight Space Detection of Backdoors in LoRA
Adapters" (arXiv:2602.15195), which reports 97 % accuracy on 500 adapters of one base model.

It can catch an update whose energy sits in fewer directions, or is much larger or smaller, than in
other adapters of the same base. It cannot catch poison that was trained to look ordinary, says
nothing about what an adapter answers, and flags honest adapters that are merely unlike the others:
a flag asks a reviewer to look, and is no verdict.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, median

import msgspec

from adapters.fields import Finite

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


def summary(modules: Mapping[str, Spectrum]) -> Spectrum:
    """The means over all modules."""
    values = list(modules.values())
    return Spectrum(
        **{
            name: fmean(getattr(value, name) for value in values)
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
