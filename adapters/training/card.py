"""The model card that goes with a trained adapter."""

from typing import Any

from adapters.recipe import Dpo, Kto, Online, Recipe, Reward
from adapters.training.data import Corpus
from adapters.training.provenance import Provenance
from adapters.training.serving import not_served

_CARD = """\
---
base_model: {base}
library_name: peft
pipeline_tag: {pipeline}
license: apache-2.0
tags:
  - {method}
  - {domain}
---

# {title}

{what}

## Intended use

{use}

## Out of scope

{limits} It knows nothing beyond its task.

## Training data

{train} items, split by unit; {held_out} more items of the same tasks are held out.{dropped} Data
digest `{data_digest}`.{preferences} Sources:

{sources}

## Training

{stage}, {how}, {steps} steps of {batch}, learning rate {rate}, seed {seed}. {trainable:,} of
{parameters:,} parameters trained. Final loss {loss:.3f}, {seconds:.0f} s, at most
{gigabytes:.1f} GB of memory. `provenance.json` holds every digest and version.

![Learning curve](training.png)

## Serving

{serving}

## Evaluation

{evaluation}

## Limitations

{forgetting}{base_limits} Confident errors occur.

## Licence

Apache-2.0 for the weights; the sources keep their own{licences}.
"""

_STAGES = {
    "sft": "Supervised fine-tuning",
    "reward": "Reward model on preference pairs",
    "dpo": "Direct preference optimisation",
    "kto": "Kahneman-Tversky optimisation",
    "ppo": "PPO-clip against a reward, with a KL penalty",
    "rloo": "REINFORCE leave-one-out against a reward",
    "grpo": "Group-relative policy optimisation against a reward",
}
_SMALL = "The base model has 135 million parameters and was quantised to 4 bits."


def render(corpus: Corpus[Any], provenance: Provenance) -> str:
    """The card's Markdown."""
    plan, recipe = provenance.plan, provenance.plan.recipe
    pack = corpus.packs[0] if corpus.packs else None
    scores = isinstance(recipe, Reward)
    licences = {f"{s.package}: {s.licence}" for p in corpus.packs for s in p.sources}
    return _CARD.format(
        base=plan.base,
        pipeline="text-classification" if scores else "text-generation",
        method=recipe.method,
        domain=plan.domain,
        title=pack.title if pack else recipe.adapter,
        what=_what(recipe, pack.instruction if pack else None),
        use=f"It answers with one of {len(pack.labels) or 'many'} labels. It shows how a "
        "specialist is made, published and served with Lorary."
        if pack
        else f"What its training data show: {', '.join(recipe.data)}.",
        limits=pack.limits if pack else "Not for decisions without an expert's check.",
        train=provenance.train_items,
        held_out=provenance.held_out_items,
        dropped=_dropped(provenance),
        data_digest=plan.data_digest,
        preferences=_preferences(recipe, bool(corpus.packs)),
        sources="\n".join(f"- `{name}`: {whence}" for name, whence in corpus.origin.items()),
        stage=_STAGES[recipe.stage],
        how=_how(recipe),
        steps=recipe.steps,
        batch=recipe.batch,
        rate=recipe.learning_rate,
        seed=recipe.seed,
        trainable=provenance.trainable,
        parameters=provenance.parameters,
        loss=provenance.final_loss,
        seconds=provenance.seconds,
        gigabytes=provenance.peak_bytes / 1e9,
        serving=not_served(recipe) or "vLLM serves it per request, beside other adapters.",
        evaluation="Its training record has the share of pairs ranked right."
        if scores
        else "`lorary matrix` measures the demonstration's adapters through a running server, "
        "beside the base model and a plain text classifier. No expert has reviewed its answers.",
        forgetting=_forgetting(provenance),
        base_limits=_SMALL if "135m" in plan.base else f"Those of `{plan.base}`.",
        licences="".join(f"; {licence}" for licence in sorted(licences)),
    )


def _what(recipe: Recipe, instruction: str | None) -> str:
    kind = "A reward model on" if isinstance(recipe, Reward) else "An adapter of"
    task = f' for one task of the {recipe.domain} domain: "{instruction}"' if instruction else "."
    return f"{kind} `{recipe.base}`{task}"


def _preferences(recipe: Recipe, from_packs: bool) -> str:
    """A note about preferences that no person stated."""
    if from_packs and isinstance(recipe, Reward | Dpo | Kto):
        return " Preferences were made from verifiable answers (right before wrong), not by people."
    if isinstance(recipe, Online) and recipe.reward == "verifiable":
        return " The reward is 1 for exactly the reference answer: no person and no model judged."
    return ""


def _dropped(provenance: Provenance) -> str:
    """What of the data was left out."""
    said = ""
    if provenance.leaked_items:
        said += f" {provenance.leaked_items} items were left out because another task of the data"
        said += " holds them out."
    if provenance.dropped_items:
        most = provenance.plan.recipe.max_tokens
        said += f" {provenance.dropped_items} items longer than {most} tokens were left out."
    return said


def _forgetting(provenance: Provenance) -> str:
    """What training cost beside the task, where it was asked."""
    asked = provenance.forgetting
    if asked is None:
        return ""
    return (
        f"Of {asked.of} questions of general knowledge {asked.before} were right before this "
        f"training and {asked.after} after it; {asked.lost} of the former were lost. "
    )


def _how(recipe: Recipe) -> str:
    """The method with the numbers that belong to it."""
    if recipe.start:
        return f"continuing the LoRA `{recipe.start}`"
    match recipe.method:
        case "full" | "ia3":
            return recipe.method
        case "prefix" | "prompt":
            return f"{recipe.method} tuning with {recipe.virtual_tokens} virtual tokens"
        case _:
            return f"{recipe.method} of rank {recipe.rank}, alpha {recipe.alpha}"
