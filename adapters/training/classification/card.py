"""The model card of an adapter with a classification head."""

from collections.abc import Sequence

from adapters.training.data import Corpus
from adapters.training.provenance import Provenance
from adapters.training.rows import Turn

SHOWN = 40
"""Labels that the card lists."""
_CARD = """\
---
base_model: {base}
library_name: peft
pipeline_tag: text-classification
license: apache-2.0
tags:
  - {method}
  - {domain}
---

# {title}

A LoRA for `{base}` with a linear classification head: it gives a text one of {count} labels, and a
probability for each.

## Intended use

{use}

## Out of scope

{limits} It gives every text one of its labels, also a text that fits none.

## Labels

{labels}

## Training data

{train} texts, split by unit; {held_out} more items of the same tasks are held out.{dropped} Data
digest `{data_digest}`. Sources:

{sources}

## Training

Cross entropy on the label, {method} of rank {rank}, alpha {alpha}, and the head in full; {steps}
steps of {batch}, learning rate {rate}, seed {seed}. {trainable:,} of {parameters:,} parameters
trained. Final loss {loss:.3f}, {seconds:.0f} s, at most {gigabytes:.1f} GB of memory.
`provenance.json` holds every digest and version.

![Learning curve](training.png)

## Serving

`POST /classify` with the text alone as `input`, to a server started with
`lorary serve --task classify`. Head and LoRA are applied per request, beside other adapters.

## Evaluation

`lorary eval` measures its accuracy on the held-out items, beside a plain text classifier. No expert
has reviewed its answers.

## Limitations

The probabilities are the model's own and are not calibrated. Confident errors occur.

## Licence

Apache-2.0 for the weights; the sources keep their own{licences}.
"""


def render(corpus: Corpus[Turn], labels: Sequence[str], provenance: Provenance) -> str:
    """The card's Markdown."""
    plan, recipe = provenance.plan, provenance.plan.recipe
    pack = corpus.packs[0] if corpus.packs else None
    licences = sorted({f"{s.package}: {s.licence}" for p in corpus.packs for s in p.sources})
    more = f"\n- and {len(labels) - SHOWN} more: `labels.json`" if len(labels) > SHOWN else ""
    dropped = f" {provenance.dropped_items} longer texts were left out."
    return _CARD.format(
        base=plan.base,
        method=recipe.method,
        domain=plan.domain,
        title=f"{pack.title}, with a head" if pack else recipe.adapter,
        count=len(labels),
        use=f"The question is always: {pack.instruction}"
        if pack
        else f"What its training data show: {', '.join(recipe.data)}.",
        limits=pack.limits if pack else "Not for decisions without an expert's check.",
        labels="\n".join(f"- {label}" for label in labels[:SHOWN]) + more,
        train=provenance.train_items,
        held_out=provenance.held_out_items,
        dropped=dropped if provenance.dropped_items else "",
        data_digest=plan.data_digest,
        sources="\n".join(f"- `{name}`: {whence}" for name, whence in corpus.origin.items()),
        rank=recipe.rank,
        alpha=recipe.alpha,
        steps=recipe.steps,
        batch=recipe.batch,
        rate=recipe.learning_rate,
        seed=recipe.seed,
        trainable=provenance.trainable,
        parameters=provenance.parameters,
        loss=provenance.final_loss,
        seconds=provenance.seconds,
        gigabytes=provenance.peak_bytes / 1e9,
        licences="".join(f"; {licence}" for licence in licences),
    )
