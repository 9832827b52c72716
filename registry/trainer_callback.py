"""Checkpoints of any transformers, TRL or PEFT training, published as versions with their lineage.

    with RegistryClient("http://127.0.0.1:8100", key) as registry:
        publish = PublishCheckpoints(registry, "medical/icd10-coder", base="smollm2-135m-instruct")
        SFTTrainer(..., peft_config=LoraConfig(...), callbacks=[publish]).train()
    print(publish.published)    # ["medical/icd10-coder@1", ...]

Whatever a `Trainer` saves a PEFT adapter in becomes a version: the adapter's two files, a card and
`provenance.json`. It does not publish full models, optimiser states or tokenizers.
"""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from adapters.admission import CARD, CONFIG, PROVENANCE, WEIGHTS
from adapters.errors import InvalidAdapter, InvalidName
from adapters.lineage import parse_lineage
from adapters.names import AdapterRef
from adapters.training.saving import Saved, save_as
from registry.client import RegistryClient
from registry.errors import OutcomeUnknown, StoreUnavailable
from registry.model.aliases import MoveAlias

LOG = logging.getLogger(__name__)
PACKAGES = ("torch", "transformers", "peft", "trl")
_LOCAL = ("output_dir", "logging_dir", "run_name", "hub_token", "push_to_hub_token")
"""Training arguments that name places or secrets, and change no weight."""
_CARD = """\
---
base_model: {base}
library_name: peft
---

# {path}, step {step}

A checkpoint of a training by {trainer}, published as it was saved.

## Intended use

Not stated. Replace this card before anybody relies on the adapter: `card=`.

## Training data

{data}

## Training

Step {step} of {steps}, epoch {epoch}. Last loss: {loss}. `provenance.json` holds the arguments and
versions.
"""


class PublishCheckpoints(TrainerCallback):  # type: ignore[misc] # transformers ships no types
    """Publishes each checkpoint that a `Trainer` saves, from the first process.

    registry: an open client whose key may publish.
    path: `domain/adapter`.
    base: the registered base model; by default the one that the adapter's configuration names.
    card: the model card's Markdown; by default a short one that says what is not stated.
    parent: the version that the training continues, `domain/adapter@number`. The parent of each
        later checkpoint is the one before it.
    data, recipe, code: what the training data, the settings and the code are, such as digests. By
        default the fingerprint of a `datasets` data set, and the digest of the training arguments
        and the adapter's configuration.
    reviews: ids of the expert reviews that the data hold judgements of.
    alias: moved to each version, such as `candidate`.
    saved_as: how the tensors are held; bfloat16 is half the bytes that a server loads.

    A registry that cannot be reached does not end a training: that is logged, the checkpoint is in
    `failed`, and the next one is published again. What the registry refuses is raised, from
    `registry.errors`: every later checkpoint would be refused, too.
    """

    def __init__(
        self,
        registry: RegistryClient,
        path: str,
        *,
        base: str | None = None,
        card: str | None = None,
        parent: str | None = None,
        data: str | None = None,
        recipe: str | None = None,
        code: str | None = None,
        reviews: Sequence[str] = (),
        alias: str | None = None,
        saved_as: Saved = "bfloat16",
    ) -> None:
        reference = AdapterRef.parse(path)
        if reference.adapter is None or reference.version or reference.alias:
            raise InvalidName(f"{path!r} does not name an adapter. Write DOMAIN/ADAPTER.")
        self.published: list[str] = []
        """The versions, in their order."""
        self.failed: list[Path] = []
        """Checkpoints that could not be sent."""
        self._registry, self._path, self._base, self._card = registry, path, base, card
        self._alias, self._saved_as = alias, saved_as
        self._stated = {"data": data, "recipe": recipe, "code": code, "reviews": list(reviews)}
        self._parent = parent

    def on_save(self, args: Any, state: Any, _control: Any, **event: Any) -> None:
        """Called by the trainer when a checkpoint is written."""
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        if not (folder / WEIGHTS).is_file() or not (folder / CONFIG).is_file():
            raise InvalidAdapter(
                f"{folder} holds no PEFT adapter in safetensors. Train one, as by peft_config."
            )
        with tempfile.TemporaryDirectory() as temporary:
            made = Path(temporary)
            self._write(made, folder, args, state, event)
            try:
                found = self._registry.push(made, self._path, base=self._base)
                if self._alias is not None:
                    domain, adapter, number = AdapterRef.parse_version(found["ref"])
                    self._registry.execute(MoveAlias(domain, adapter, self._alias, number))
            except (StoreUnavailable, OutcomeUnknown) as error:
                LOG.warning("%s was not published: %s", folder.name, error.message)
                self.failed.append(folder)
                return
        self._parent = found["ref"]
        self.published.append(found["ref"])

    def _write(
        self, made: Path, folder: Path, args: Any, state: Any, event: Mapping[str, Any]
    ) -> None:
        """What is published of the checkpoint in `folder`."""
        save_as(folder / WEIGHTS, made / WEIGHTS, self._saved_as)
        shutil.copy(folder / CONFIG, made / CONFIG)
        config = json.loads((folder / CONFIG).read_bytes())
        settings = {k: v for k, v in args.to_sanitized_dict().items() if k not in _LOCAL}
        both = json.dumps([settings, config], sort_keys=True, default=str).encode()
        lineage = {
            "parent": self._parent,
            **self._stated,
            "data": self._stated["data"] or _fingerprint(event),
            "recipe": self._stated["recipe"] or hashlib.sha256(both).hexdigest(),
        }
        losses = [record["loss"] for record in state.log_history if "loss" in record]
        provenance = {
            "lineage": {key: value for key, value in lineage.items() if value},
            "step": state.global_step,
            "steps": state.max_steps,
            "epoch": state.epoch,
            "final_loss": losses[-1] if losses else None,
            "arguments": settings,
            "versions": {name: _version(name) for name in PACKAGES},
        }
        encoded = json.dumps(provenance, indent=2, default=str).encode() + b"\n"
        parse_lineage(encoded)  # what the registry would refuse of it is refused here
        (made / PROVENANCE).write_bytes(encoded)
        card = self._card or _CARD.format(
            base=self._base or config.get("base_model_name_or_path"),
            path=self._path,
            step=state.global_step,
            steps=state.max_steps,
            epoch=state.epoch,
            trainer="transformers' Trainer",
            loss=provenance["final_loss"],
            data=f"`{lineage['data']}`" if lineage["data"] else "Not stated.",
        )
        (made / CARD).write_text(card)


def _fingerprint(event: Mapping[str, Any]) -> str | None:
    """What the `datasets` library calls the training data's content, where it was used."""
    data = getattr(event.get("train_dataloader"), "dataset", None)
    fingerprint = getattr(data, "_fingerprint", None)
    return f"datasets:{fingerprint}" if isinstance(fingerprint, str) else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ModuleNotFoundError:  # PackageNotFoundError is one
        return None
