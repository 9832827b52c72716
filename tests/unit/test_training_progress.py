"""The bar that a training shows."""

import pytest

from adapters import recipes
from adapters.training.progress import progress_bar


def test_the_bar_shows_a_loss_only_once_there_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipes.load("medical")
    with progress_bar(recipe, quiet=False):
        pass  # an adapter that is kept
    assert "loss" not in capsys.readouterr().err
    with progress_bar(recipe, quiet=False) as advance:
        advance(1, recipe.steps, 0.25)
    assert "loss 0.250" in capsys.readouterr().err
