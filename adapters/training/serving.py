"""Which results vLLM can serve per request, and what to do with the others."""

from adapters.recipe import Recipe, Reward

_BY_METHOD = {
    "dora": (
        "DoRA also rescales the base's weights, which the server cannot do per request. "
        "`lorary convert` makes the closest plain LoRA of it and says how close; "
        "`lorary merge` makes it a model of its own, exactly."
    ),
    "ia3": (
        "IA3 scales the base's activations, which the server cannot do per request. "
        "`lorary convert` makes the closest plain LoRA of it and says how close; "
        "`lorary merge` makes it a model of its own, exactly."
    ),
    "prefix": (
        "Prefix tuning adds virtual tokens inside every layer, which the server does not take, and "
        "which cannot be merged into weights. It runs in PEFT itself."
    ),
    "prompt": (
        "Prompt tuning adds virtual tokens before the text, which the server does not take, and "
        "which cannot be merged into weights. It runs in PEFT itself."
    ),
    "full": (
        "Full fine-tuning makes a model of its own, to be served as a base model: "
        "`lorary base add`."
    ),
}


def not_served(recipe: Recipe) -> str | None:
    """Why the recipe's result is not served per request, and what to do; None if it is."""
    if isinstance(recipe, Reward):
        return (
            "A reward model scores answers and writes none, so a server that writes refuses it. "
            "`lorary serve --task classify` serves its scores; a ppo, rloo or grpo recipe names it "
            "as `reward`."
        )
    return _BY_METHOD.get(recipe.method)
