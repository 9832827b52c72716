"""The README's quick start, in a fresh clone: `make demo`, an evaluation, a gated promotion."""

from collections.abc import Callable

import pytest

from tests.walkthroughs.conftest import Newcomer

pytestmark = pytest.mark.timeout(3600)


def test_the_quick_start_ends_with_a_version_that_was_promoted_and_may_not_be_rolled_back(
    newcomer: Newcomer, document: Callable[..., list[str]]
) -> None:
    clone = newcomer.clone()
    newcomer.demo(clone)
    terminal = newcomer.terminal(clone)
    two_commands, evaluation, promotion = document("README.md", "Quick start")
    assert two_commands.split()[:2] == ["make", "demo"]
    evaluated = terminal.follow(evaluation)
    assert "medical/icd10-coder" in evaluated
    assert "accuracy" in evaluated
    log = terminal.follow(promotion).split("not refused")[0]
    assert "production" in log
    assert terminal.in_production("medical/icd10-coder") == "2"
