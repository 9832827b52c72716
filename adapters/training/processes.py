"""One training in several processes, as `accelerate launch` and `torchrun` start them.

The batch of a recipe is what all processes see together: each computes its share. The first
process alone writes results and speaks.
"""

import os

from adapters.recipe import BadRecipe, Ppo, Recipe


def count() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


def share(recipe: Recipe) -> int:
    """Examples that a process computes at once; raises `BadRecipe` if a batch has no such share."""
    if isinstance(recipe, Ppo) and count() > 1:
        raise BadRecipe("Stage ppo trains in one process. Use rloo or grpo on several.")
    parts = recipe.accumulate * count()
    if recipe.batch % parts:
        raise BadRecipe(
            f"A batch of {recipe.batch} cannot be shared by {count()} processes in "
            f"{recipe.accumulate} parts. Set batch to a multiple of {parts}."
        )
    return recipe.batch // parts
