"""The model card that goes with a trained adapter."""

from adapters.packs import DomainPack
from adapters.training.provenance import Provenance

_CARD = """\
---
base_model: {base}
library_name: peft
pipeline_tag: text-generation
license: apache-2.0
tags:
  - lora
  - {domain}
---

# {title}

A LoRA adapter of `{base}` for one task of the {domain} domain: "{instruction}"

## Intended use

It answers the task's question with one of {labels} labels. It shows how a specialist is made,
published and served with Lorary.

## Out of scope

{limits} It knows nothing beyond its one task.

## Training data

{train} items, balanced by label and split by unit; {held_out} items are held out. Data set digest
`{data_digest}`. Sources: {sources}.

## Training

{method}, rank {rank}, alpha {alpha}, {steps} steps of {batch}, learning rate {rate}, seed {seed}.
Final loss {loss:.3f}, {seconds:.0f} s. `provenance.json` holds every digest and version.

## Evaluation

`lorary matrix` measures it through a running server, beside the base model and a plain text
classifier. No expert has reviewed its answers.

## Limitations

The base model has 135 million parameters and was quantised to 4 bits. Confident errors occur.

## Licence

Apache-2.0 for the weights; the sources keep their own: {licences}.
"""


def render(pack: DomainPack, provenance: Provenance) -> str:
    """The card's Markdown."""
    plan = provenance.plan
    return _CARD.format(
        base=plan.base,
        domain=pack.domain,
        title=pack.title,
        instruction=pack.instruction,
        labels=len(pack.labels),
        limits=pack.limits,
        train=provenance.train_items,
        held_out=provenance.held_out_items,
        data_digest=plan.data_digest,
        sources=", ".join(plan.sources),
        method=plan.recipe.method.upper(),
        rank=plan.recipe.rank,
        alpha=plan.recipe.alpha,
        steps=plan.recipe.steps,
        batch=plan.recipe.batch,
        rate=plan.recipe.learning_rate,
        seed=plan.recipe.seed,
        loss=provenance.final_loss,
        seconds=provenance.seconds,
        licences="; ".join(f"{s.package}: {s.licence}" for s in pack.sources),
    )
