"""Publishes what a trainer of transformers or TRL trains, wherever it runs.

A callback of the trainer: at the end of the training, and at every save if asked, the adapter
becomes the next version in a registry, with its lineage. What is published are the adapter's own
files; optimizer states and other parts of a checkpoint are left out.
"""

import hashlib
import json
import logging
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
from transformers import TrainerCallback

from adapters.admission import OPTIONAL, PROVENANCE, REQUIRED
from adapters.errors import InvalidName, LoraryError
from adapters.lineage import Lineage, parse_lineage
from adapters.names import AdapterRef

PACKAGES = ("torch", "transformers", "peft")
UNSAID = ("dir", "path", "hub", "run_name", "resume_from")
"""What is in the names of a trainer's arguments that tell of the machine, not of the training."""
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

    `published` lists the versions, in their order. The first version's parent is `parent`; each
    later one's is the one before. The arguments of the trainer are written beside the weights
    (`provenance.json`), and their SHA-256 is the lineage's recipe.

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
        self._newest = -1
        """The step that was published last."""

    def on_train_begin(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Find out before anything is trained whether the registry is there.

        Raises `LoraryError` if there is no such domain or parent for the key, and `ValueError` for
        a sharded training that saves no checkpoint.
        """
        if _is_sharded(args) and args.save_strategy == "no":
            raise ValueError("A sharded training is published from a checkpoint. Let it save one.")
        if state.is_world_process_zero:
            self._registry.domain(self._domain)
            if self._lineage.parent is not None:
                self._registry.resolve(self._lineage.parent)

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Publish the checkpoint that was written, if every save is to be published."""
        if self._when != "save" or not state.is_world_process_zero:
            return
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        with tempfile.TemporaryDirectory() as staged:
            _take(folder, Path(staged))
            try:
                self._publish(Path(staged), args, state)
            except LoraryError as error:
                _log.warning("%s was not published, training goes on: %s", folder, error)

    def on_train_end(self, args: Any, state: Any, _control: Any, **event: Any) -> None:
        """Publish the adapter as the training leaves it, unless the last save was just that.

        Raises `LoraryError` if the registry refuses or cannot be reached.
        """
        if not state.is_world_process_zero:
            return
        if self._newest == state.global_step and not args.load_best_model_at_end:
            return
        kept = Path(args.output_dir, "unpublished")
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        if _is_sharded(args):
            last = Path(args.output_dir, f"checkpoint-{state.global_step}")
            best = state.best_model_checkpoint if args.load_best_model_at_end else None
            _take(Path(best) if best else last, kept)
        else:
            event["model"].save_pretrained(kept, safe_serialization=True)
        self._publish(kept, args, state)
        shutil.rmtree(kept)

    def _publish(self, folder: Path, args: Any, state: Any) -> None:
        """Publish a folder that holds the adapter's files alone."""
        if self._card is not None:
            shutil.copyfile(self._card, folder / "README.md")
        said = {
            name: value
            for name, value in sorted(args.to_sanitized_dict().items())
            if not any(word in name for word in UNSAID)
        }
        recipe = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        parent = self.published[-1] if self.published else self._lineage.parent
        lineage = msgspec.structs.replace(self._lineage, recipe=recipe, parent=parent)
        document = {
            "lineage": lineage,
            "step": state.global_step,
            "arguments": said,
            "versions": {name: version(name) for name in PACKAGES},
        }
        (folder / PROVENANCE).write_bytes(msgspec.json.encode(document))
        view = self._registry.push(folder, self._path, base=self._base)
        self.published.append(str(view["ref"]))
        self._newest = state.global_step


def _is_sharded(args: Any) -> bool:
    """Whether no process holds the whole model."""
    return bool(args.fsdp or args.deepspeed)


def _take(checkpoint: Path, folder: Path) -> None:
    """Copy the adapter's own files, and nothing else of a checkpoint."""
    for name in (*REQUIRED, *OPTIONAL):
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, folder / name)
