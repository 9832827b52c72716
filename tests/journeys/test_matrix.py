"""The proof that the right adapter answers: each is clearly best on its own domain."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from adapters.home import SMALL_MODEL
from adapters.packs import PACKS
from eval.matrix import column, measure
from eval.report import TFIDF_ROW
from eval.statistics import paired_difference
from eval.suites.shipped import specialists
from tests.journeys.conftest import Site, run_lorary

# A question takes a fraction of a second on two cores, and there are 240 of them at least.
pytestmark = pytest.mark.timeout(2400)

LOOKS = (20, 40, 100)
"""Items of a domain after which it is asked whether they show a difference; the rest are asked
only where the first do not."""
CONFIDENCE = 1 - 2 * 0.05 / len(LOOKS)
"""Of each look's interval; a claim is wrong at one end of it, so all looks err in 5 % at most."""
OVER_BASE = 0.25
OVER_OTHERS = 0.10
"""What the whole interval of the difference in accuracy must exceed. The difference itself, of few
items, says too little: of the first 40 financial ones the base model gets a third right, of 100 a
fifth."""


class Matrix:
    """What each model answered, by model and domain; it asks on where it must."""

    def __init__(self, site: Site) -> None:
        self._site = site
        url = f"{site.api}/v1"
        self.rows = run_lorary("matrix", "--url", url, "--key", site.app, "--n", str(LOOKS[0]))
        self._right = {(row["model"], row["domain"]): list(row["right"]) for row in self.rows}
        self._columns = {one.domain: one for one in (column(t, LOOKS[-1]) for t in specialists())}

    def right(self, model: str, domain: str, n: int) -> Sequence[bool]:
        """Which of the first `n` items the model gets right."""
        known = self._right[model, domain]
        if n > len(known):
            known += asyncio.run(self._ask(model, domain, len(known), n))
        return known[:n]

    async def _ask(self, model: str, domain: str, first: int, last: int) -> Sequence[bool]:
        whole = self._columns[domain]
        part = replace(
            whole, questions=whole.questions[first:last], held_out=whole.held_out[first:last]
        )
        async with self._site.async_client() as client:
            trained_for = model if model in PACKS else ""
            (cell,) = await measure(client, {model: trained_for}, [part])
        return cell.right

    def least_gain(self, domain: str, other: str, over: float) -> float:
        """By how much the domain's specialist is more accurate than another model, at least."""
        units = [item.unit for item in self._columns[domain].held_out]
        low = -1.0
        for n in LOOKS:
            own, others = self.right(domain, domain, n), self.right(other, domain, n)
            low = paired_difference(own, others, units[:n], CONFIDENCE).low
            if low > over:
                break
        return low


@pytest.fixture(scope="module")
def matrix(site: Site) -> Matrix:
    return Matrix(site)


def test_every_cell_was_measured_with_its_interval(matrix: Matrix) -> None:
    models = [SMALL_MODEL, *PACKS, TFIDF_ROW]
    cells = {(row["model"], row["domain"]) for row in matrix.rows}
    assert cells == {(model, domain) for model in models for domain in PACKS}
    for row in matrix.rows:
        assert row["n"] == LOOKS[0]
        assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1


@pytest.mark.parametrize("domain", PACKS)
def test_a_specialist_beats_base_and_every_other_specialist_on_its_domain(
    domain: str, matrix: Matrix
) -> None:
    assert matrix.least_gain(domain, SMALL_MODEL, OVER_BASE) > OVER_BASE
    for other in set(PACKS) - {domain}:
        assert matrix.least_gain(domain, other, OVER_OTHERS) > OVER_OTHERS
