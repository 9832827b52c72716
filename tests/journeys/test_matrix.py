"""The proof that the right adapter answers: each is clearly best on its own domain."""

import pytest

from adapters.home import SMALL_MODEL
from adapters.packs import PACKS
from eval.report import TFIDF_ROW
from tests.journeys.conftest import Site, run_lorary

# A question takes a fraction of a second on two cores, and there are 480 of them.
pytestmark = pytest.mark.timeout(2400)

N = 40
POINTS = 0.40


@pytest.fixture(scope="module")
def cells(site: Site) -> dict[tuple[str, str], dict[str, float]]:
    rows = run_lorary("matrix", "--url", f"{site.api}/v1", "--key", site.app, "--n", str(N))
    return {(row["model"], row["domain"]): row for row in rows}


def test_every_cell_was_measured_with_its_interval(
    cells: dict[tuple[str, str], dict[str, float]],
) -> None:
    models = [SMALL_MODEL, *PACKS, TFIDF_ROW]
    assert set(cells) == {(model, domain) for model in models for domain in PACKS}
    for cell in cells.values():
        assert cell["n"] == N
        assert 0 <= cell["low"] <= cell["accuracy"] <= cell["high"] <= 1


@pytest.mark.parametrize("domain", PACKS)
def test_a_specialist_beats_base_and_every_other_specialist_on_its_domain(
    domain: str, cells: dict[tuple[str, str], dict[str, float]]
) -> None:
    own = cells[domain, domain]
    assert own["accuracy"] - cells[SMALL_MODEL, domain]["accuracy"] >= POINTS
    for other in set(PACKS) - {domain}:
        assert own["low"] > cells[other, domain]["high"]
