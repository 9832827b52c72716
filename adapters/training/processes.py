"""One training in several processes, as `accelerate launch` and `torchrun` start them.

The batch of a recipe is what all processes see together: each computes its share. The first
process alone writes results and speaks.
"""

import os

from adapters.recipe import BadRecipe, Ppo, Recipe

_SHARDING = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
"""What `accelerate launch` sets for each."""


def count() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


def share(recipe: Recipe) -> int:
    """Examples that a process computes at once; raises `BadRecipe` if a batch has no such share."""
    if any(os.environ.get(name) == "true" for name in _SHARDING):
        raise BadRecipe(
            "lorary train does not shard a base among processes (FSDP, DeepSpeed): each holds it "
            "whole. Start it without, or with method=qlora for a base that is too large."
        )
    if isinstance(recipe, Ppo) and count() > 1:
        raise BadRecipe("Stage ppo trains in one process. Use rloo or grpo on several.")
    parts = recipe.accumulate * count()
    if recipe.batch % parts:
        raise BadRecipe(
            f"A batch of {recipe.batch} cannot be shared by {count()} processes in "
            f"{recipe.accumulate} parts. Set batch to a multiple of {parts}."
        )
    return recipe.batch // parts
