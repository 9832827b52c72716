"""One training from a domain pack to a publishable directory."""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from adapters.admission import CARD, CONFIG, PROVENANCE, WEIGHTS, admit, files_in
from adapters.base_model import BaseModel
from adapters.errors import InvalidAdapter
from adapters.packs import DomainPack
from adapters.recipe import Recipe
from adapters.training.card import render
from adapters.training.provenance import Provenance, lineage_of, make_plan

Progress = Callable[[int, int, float], None]


def existing(out: Path) -> Provenance | None:
    """The provenance of the adapter in `out`, or None if there is none."""
    try:
        return msgspec.json.decode((out / PROVENANCE).read_bytes(), type=Provenance)
    except (OSError, msgspec.MsgspecError):
        return None


def train(
    pack: DomainPack,
    recipe: Recipe,
    base_directory: Path,
    base_name: str,
    out: Path,
    *,
    reuse: bool,
    progress: Progress,
) -> tuple[Provenance, bool]:
    """Train into `out`, which appears whole or stays as it was.

    With `reuse`, an adapter that the same plan made before is kept; the second value says whether
    it was. Raises `InvalidAdapter` if the result would not be admitted.
    """
    base = BaseModel.from_directory(base_directory, base_name)
    data = pack.load()
    plan = make_plan(pack, data, base, recipe)
    before = existing(out)
    if reuse and before is not None and before.plan_digest == plan.digest:
        return before, True
    from adapters.training.sft import fine_tune  # torch and its kin take seconds to import

    began = time.monotonic()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        saved, made = Path(folder, "saved"), Path(folder, "made")
        loss = fine_tune(pack, data.train, recipe, base_directory, saved, progress)
        made.mkdir()
        shutil.copy(saved / WEIGHTS, made / WEIGHTS)
        _write_config(saved / CONFIG, made / CONFIG, base_name)
        provenance = Provenance(
            lineage=lineage_of(plan),
            plan=plan,
            plan_digest=plan.digest,
            train_items=len(data.train),
            held_out_items=len(data.held_out),
            final_loss=loss,
            seconds=round(time.monotonic() - began, 1),
        )
        encoded = msgspec.json.format(msgspec.json.encode(provenance), indent=2)
        (made / PROVENANCE).write_bytes(encoded + b"\n")
        (made / CARD).write_text(render(pack, provenance))
        problems = admit(files_in(made), base).problems
        if problems:
            raise InvalidAdapter(f"The result would be refused: {problems[0]} Change the recipe.")
        if out.exists():
            shutil.rmtree(out)
        made.rename(out)
    return provenance, False


def _write_config(saved: Path, out: Path, base_name: str) -> None:
    """The saved configuration with the base's name in place of this machine's path."""
    config = msgspec.json.decode(saved.read_bytes())
    config["base_model_name_or_path"] = base_name
    config["target_modules"] = sorted(config["target_modules"])
    out.write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n")
