"""The adapters that a training goes on from, and what is known of them."""

from pathlib import Path

from adapters.admission import WEIGHTS
from adapters.handover import Registry
from adapters.home import home
from adapters.recipe import BadRecipe, Dpo, Kto, Online, Recipe, Reward, Sft
from adapters.training.data import seen_before
from adapters.training.provenance import existing, weights_digest


def trained_before(named: str) -> Path | None:
    """The directory that `start` or `reward` names; raises `BadRecipe` if nothing is there."""
    if not named:
        return None
    places = (Path(named), home() / "adapters" / named)
    for place in places:
        if (place / WEIGHTS).is_file():
            return place
    raise BadRecipe(
        f"There is no trained adapter {named!r}, neither at that path nor at {places[1]}. "
        "Train it first, or name its directory."
    )


def reward_directory(recipe: Recipe) -> Path | None:
    """The reward model's directory; None where answers are verified, or none are sampled."""
    if not isinstance(recipe, Online) or recipe.reward == "verifiable":
        return None
    return trained_before(recipe.reward)


def parent_of(recipe: Recipe, registry: Registry) -> str | None:
    """The registry's version that `start` is, known by its weights; None if there is none."""
    start = trained_before(recipe.start)
    if start is None:
        return None
    made = existing(start)
    if made is None:
        return None  # from elsewhere: nothing says which adapter it is
    path = f"{made.plan.domain}/{made.plan.adapter}"
    return registry.version_with(path, weights_digest(start))


def answers_seen(recipe: Recipe) -> str | None:
    """A warning where `start` has learnt the answers that preferences or rewards are about."""
    start = trained_before(recipe.start)
    made = None if start is None else existing(start)
    if made is None or not isinstance(recipe, Reward | Dpo | Kto | Online):
        return None
    both = seen_before(recipe.data, made.plan.recipe.data)
    if not both or not isinstance(made.plan.recipe, Sft):
        return None
    return (
        f"{recipe.start} was trained on the answers of {', '.join(both)}: about those, "
        f"{recipe.stage} teaches little. Fine-tune on a part, such as NAME[:60%], and train this "
        "stage on the rest, NAME[60%:]."
    )
