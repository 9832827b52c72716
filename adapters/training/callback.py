"""Publishes what a trainer of transformers or TRL trains, wherever it runs.

A callback of the trainer: at the end of the training, and at every save if asked, the adapter
becomes the next version in a registry, with its lineage. What is published are the adapter's own
files; optimizer states and other parts of a checkpoint are left out.
"""

import dataclasses
import hashlib
import logging
import os
import shutil
import tempfile
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
from transformers import TrainerCallback

from adapters.admission import CARD, CONFIG, OPTIONAL, PROVENANCE, REQUIRED, WEIGHTS
from adapters.errors import InvalidName, LoraryError
from adapters.lineage import Lineage, parse_lineage
from adapters.names import AdapterRef

PACKAGES = ("torch", "transformers", "peft")
CHOICES = (
    "f_divergence_type", "importance_sampling_level", "loss_type", "loss_weights",
    "lr_scheduler_kwargs", "multi_objective_aggregation", "optim_args", "packing_strategy",
    "reward_clip_range", "reward_weights", "scale_rewards", "train_sampling_strategy",
    "truncation_mode", "vllm_importance_sampling_mode",
)  # fmt: skip
"""Arguments that are published besides numbers, truth values and enumerations. No others are: a
token, a host or a path may be in them."""
RECORD = "published.json"
"""In the output directory: step and reference of each version, for a training that is resumed."""
_log = logging.getLogger(__name__)


class Publisher(Protocol):
    """What publishes: `registry.client.RegistryClient`."""

    def domain(self, name: str) -> Any:
        """A domain; raises `LoraryError` if there is none, or none that the key may see."""

    def resolve(self, ref: str) -> Any:
        """A version; raises `LoraryError` if there is none, or none that the key may see."""

    def push(self, directory: Path, path: str, *, base: str | None = None) -> Any:
        """Publish a directory as the next version of `domain/adapter`; its view, with `ref`."""


class PublishCheckpoints(TrainerCallback):  # type: ignore[misc] # transformers ships no types
    """Publishes the adapter when its training ends and, with `when="save"`, at every save.

    `published` lists the versions in their order, with those of a training that is resumed. The
    first version's parent is `parent`; each later one's is the version of the step before it. A
    second `train()` continues what the first one published. The arguments of the trainer are
    written beside the weights (`provenance.json`), and their SHA-256 is the lineage's recipe.

    A save that cannot be published is logged, and the training goes on. If the end cannot be
    published, `train()` raises, and the files lie in `output_dir/unpublished`.
    """

    def __init__(
        self,
        registry: Publisher,
        path: str,
        *,
        base: str | None = None,
        when: Literal["end", "save"] = "end",
        parent: str | None = None,
        data: str | None = None,
        code: str | None = None,
        reviews: tuple[str, ...] = (),
        card: Path | None = None,
    ) -> None:
        """What is published where.

        path: `domain/adapter`. base: the registered base model; by default the one that the
        adapter's configuration names. parent: the version that the training continues. data: name
        and revision, or digest, of the training data; code: revision of the training code; reviews:
        ids of expert reviews that are in the data. card: the model card; by default what PEFT
        writes. Raises `InvalidName` for another path and `InvalidAdapter` for a lineage that no
        version may have.
        """
        ref = AdapterRef.parse(path)
        if ref.adapter is None or ref.version is not None or ref.alias is not None:
            raise InvalidName(f"{path!r} does not name an adapter. Write DOMAIN/ADAPTER.")
        self._registry, self._path, self._domain = registry, ref.path, ref.domain
        self._base, self._when, self._card = base, when, card
        self._lineage = Lineage(parent=parent, data=data, code=code, reviews=reviews)
        parse_lineage(msgspec.json.encode({"lineage": self._lineage}))
        self.published: list[str] = []
        self._start = parent
        """What this training continues."""
        self._at: list[tuple[int, str]] = []
        """Step and reference of what this training published, in that order."""

    def on_train_begin(self, args: Any, state: Any, _control: Any, **event: Any) -> None:
        """Check before anything is trained that it can be published.

        Raises `LoraryError` if there is no such domain or parent for the key, and `ValueError` for
        a sharded training that saves no checkpoint, for a model that does not train exactly one
        adapter, and for a card that is no file.
        """
        _trained(event["model"])
        if _is_sharded(args) and args.save_strategy == "no":
            raise ValueError("A sharded training is published from a checkpoint. Let it save one.")
        if not state.is_world_process_zero:
            return
        if self._card is not None and not self._card.is_file():
            raise ValueError(f"There is no card {self._card}. Write it, or leave it to PEFT.")
        self._registry.domain(self._domain)
        record = Path(args.output_dir, RECORD)
        if state.global_step:
            self._at = _recorded(record, state.global_step)
            self.published = [ref for _, ref in self._at]
        else:
            record.unlink(missing_ok=True)
            self._at = []
            self._start = self.published[-1] if self.published else self._start
        parent = self._parent(state.global_step + 1)
        if parent is not None:
            self._registry.resolve(parent)

    def on_save(self, args: Any, state: Any, _control: Any, **event: Any) -> None:
        """Publish the checkpoint that was written, if every save is to be published."""
        if self._when != "save" or not state.is_world_process_zero:
            return
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        try:
            with tempfile.TemporaryDirectory() as staged:
                _take(folder, Path(staged), _trained(event["model"]))
                self._publish(Path(staged), args, state.global_step)
        except (LoraryError, OSError) as error:
            _log.warning("%s was not published, training goes on: %s", folder, error)

    def on_train_end(self, args: Any, state: Any, _control: Any, **event: Any) -> None:
        """Publish the adapter as the training leaves it, unless the newest version is just that.

        With `load_best_model_at_end` that is the best checkpoint. Raises `LoraryError` if the
        registry refuses or cannot be reached.
        """
        if not state.is_world_process_zero:
            return
        best = state.best_model_checkpoint if args.load_best_model_at_end else None
        checkpoint = Path(best or Path(args.output_dir, f"checkpoint-{state.global_step}"))
        step = int(checkpoint.name.rpartition("-")[2])
        if self._at and self._at[-1][0] == step:
            return
        kept = Path(args.output_dir, "unpublished")
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        model = event["model"]
        if best or _is_sharded(args):
            _take(checkpoint, kept, _trained(model))
        else:
            with tempfile.TemporaryDirectory() as saved:
                model.save_pretrained(saved, safe_serialization=True)
                _take(Path(saved), kept, _trained(model))
        self._publish(kept, args, step)
        shutil.rmtree(kept)

    def _parent(self, step: int) -> str | None:
        """The version that training continued to reach `step`."""
        before = [(at, ref) for at, ref in self._at if at < step]
        return max(before, key=lambda entry: entry[0])[1] if before else self._start

    def _publish(self, folder: Path, args: Any, step: int) -> None:
        """Publish a folder that holds the adapter's files alone."""
        if self._card is not None:
            shutil.copyfile(self._card, folder / CARD)
        arguments = _arguments(args)
        recipe = hashlib.sha256(msgspec.json.encode(arguments, order="sorted")).hexdigest()
        lineage = msgspec.structs.replace(self._lineage, recipe=recipe, parent=self._parent(step))
        document = {
            "lineage": lineage,
            "step": step,
            "arguments": arguments,
            "versions": {name: version(name) for name in PACKAGES},
        }
        (folder / PROVENANCE).write_bytes(msgspec.json.encode(document))
        view = self._registry.push(folder, self._path, base=self._base)
        self.published.append(str(view["ref"]))
        self._at.append((step, self.published[-1]))
        try:
            _record(Path(args.output_dir, RECORD), self._at)
        except OSError as error:
            _log.warning("%s is not recorded for a resumed training: %s", view["ref"], error)


def _is_sharded(args: Any) -> bool:
    """Whether no process holds the whole model, by the arguments or by `accelerate launch`."""
    launched = (os.environ.get(f"ACCELERATE_USE_{kind}", "") for kind in ("FSDP", "DEEPSPEED"))
    return bool(args.fsdp or args.deepspeed) or any(value.lower() == "true" for value in launched)


def _arguments(args: Any) -> dict[str, Any]:
    """A trainer's arguments, as far as they are known to hold no secret and no path."""
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(args)}
    said = {
        name: value
        for name, value in sorted(given.items())
        if isinstance(value, bool | int | float | Enum) or (name in CHOICES and value is not None)
    }
    found: dict[str, Any] = msgspec.to_builtins(said, enc_hook=str)
    return found


def _record(record: Path, published: list[tuple[int, str]]) -> None:
    """Write what was published at which step; a process that is killed leaves the last record."""
    written = record.with_suffix(".partial")
    written.write_bytes(msgspec.json.encode(published))
    written.replace(record)


def _recorded(record: Path, step: int) -> list[tuple[int, str]]:
    """What a training that is resumed at `step` published until then."""
    if not record.is_file():
        return []
    found = msgspec.json.decode(record.read_bytes(), type=list[tuple[int, str]])
    return [(at, ref) for at, ref in found if at <= step]


def _trained(model: Any) -> str:
    """The name of the one adapter that is trained; raises `ValueError` for none and for several."""
    if not getattr(model, "peft_config", None):
        raise ValueError("The model has no adapter. Give the trainer a `peft_config`.")
    active = model.active_adapters
    names = active() if callable(active) else active
    if len(names) != 1:
        raise ValueError(f"{len(names)} adapters are trained at once. Activate one of them.")
    return str(names[0])


def _take(checkpoint: Path, folder: Path, adapter: str) -> None:
    """Copy the files of one adapter, and nothing else of a checkpoint.

    PEFT saves every adapter of a model, in folders of their names; only `default` lies above them.
    """
    own = checkpoint / adapter
    if adapter == "default" or not own.is_dir():  # a transformers model saves what is active
        own = checkpoint
    for name in (*REQUIRED, *OPTIONAL):
        source = (own if name in (CONFIG, WEIGHTS) else checkpoint) / name
        if source.is_file():
            shutil.copyfile(source, folder / name)
