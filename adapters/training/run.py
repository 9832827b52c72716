"""One training from a recipe to a directory that can be published, or is marked as not publishable.

The directory appears whole or stays as it was. Until then everything lies beside it, in a folder
named after the plan: the same command goes on there after a kill, and any other plan begins anew.
"""

import contextlib
import fcntl
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from adapters.admission import CARD, CONFIG, CURVE, PROVENANCE, WEIGHTS, admit, files_in
from adapters.base_model import BaseModel
from adapters.errors import InvalidAdapter
from adapters.heads import LABELS
from adapters.recipe import (
    AnyRecipe,
    Classify,
    DoesNotFit,
    Dpo,
    Online,
    Ppo,
    Recipe,
    Reward,
    Sft,
    TrainingRuns,
)
from adapters.training.card import render
from adapters.training.classification import card, rows
from adapters.training.continued import reward_directory, trained_before
from adapters.training.data import Corpus, corpus_of
from adapters.training.fits import Fit
from adapters.training.job import Job, Outcome, Progress
from adapters.training.processes import is_first
from adapters.training.provenance import (
    Provenance,
    existing,
    lineage_of,
    make_plan,
    thinned,
)
from adapters.training.quiet import be_quiet
from adapters.training.serving import not_served


def train(
    recipe: AnyRecipe,
    base_directory: Path,
    out: Path,
    *,
    reuse: bool = False,
    progress: Progress,
    report_to: tuple[str, ...] = (),
    on_fit: Callable[[Fit], None] | None = None,
    parent: str | None = None,
) -> tuple[Provenance, bool]:
    """Train into `out`, going on where a killed training of the same plan left off.

    on_fit: given what the largest step needs, before training begins; without it that is not
    measured. Raises `DoesNotFit` after it if the device has less. parent: the registry's version
    that `start` is, for the lineage.

    With `reuse`, an adapter that the same plan made before is kept; the second value says whether
    it was. Raises `InvalidAdapter` if the result should be servable and would not be admitted.
    """
    base = BaseModel.from_directory(base_directory, recipe.base)
    start, reward = trained_before(recipe.start), reward_directory(recipe)
    corpus = corpus_of(recipe)
    plan = make_plan(recipe, base, corpus.digest, corpus.packs, start, reward)
    before = existing(out)
    if reuse and before is not None and before.plan_digest == plan.digest:
        return before, True
    began = time.monotonic()
    corpus = _fitting(recipe, corpus, base_directory)
    if on_fit is not None:
        _check_memory(recipe, corpus, base_directory, on_fit)
    with contextlib.ExitStack() as stack:
        workspace = stack.enter_context(_workspace(out, plan.digest))
        saved, made = workspace / "saved", workspace / "made"
        if not is_first():
            saved = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if report_to:
            from adapters.training.trackers import check_installed

            check_installed(report_to)
        job = Job(
            recipe=recipe,
            base=base_directory,
            start=start,
            reward=reward,
            workspace=workspace,
            progress=progress,
            report_to=report_to,
        )
        outcome = run_stage(job, corpus, saved)
        provenance = Provenance(
            lineage=lineage_of(plan, corpus.reviews, parent),
            plan=plan,
            plan_digest=plan.digest,
            train_items=len(corpus.train),
            dropped_items=corpus.dropped,
            leaked_items=corpus.leaked,
            held_out_items=sum(len(pack.load().held_out) for pack in corpus.packs),
            final_loss=outcome.final_loss,
            seconds=round(time.monotonic() - began, 1),
            trainable=outcome.trainable,
            parameters=outcome.parameters,
            peak_bytes=peak_bytes(),
            forgetting=outcome.forgetting,
            history=thinned(outcome.history),
        )
        if not is_first():
            return provenance, False
        _take(saved, made, recipe, base_directory)
        encoded = msgspec.json.format(msgspec.json.encode(provenance), indent=2)
        (made / PROVENANCE).write_bytes(encoded + b"\n")
        _write_card(made, recipe, corpus, provenance)
        _draw(outcome, recipe, made / CURVE)
        if not_served(recipe) is None:
            problems = admit(files_in(made), base).problems
            if problems:
                raise InvalidAdapter(
                    f"The result would be refused: {problems[0]} Change the recipe."
                )
        if out.exists():
            shutil.rmtree(out)
        made.rename(out)
    shutil.rmtree(workspace.parent, ignore_errors=True)
    return provenance, False


def run_stage(job: Job, corpus: Corpus[Any], out: Path) -> Outcome:
    """Run the recipe's stage; its files are in `out`."""
    be_quiet()
    from adapters.training.device import make_repeatable

    make_repeatable()
    return _stage(job.recipe)(job, corpus, out)


def _stage(recipe: Recipe) -> Callable[[Job, Corpus[Any], Path], Outcome]:
    """The stage's function; torch and its kin, which it brings in, take seconds to import."""
    match recipe:
        case Classify():
            from adapters.training.classification import stage

            return stage.fine_tune
        case Sft():
            from adapters.training import sft

            return sft.fine_tune
        case Ppo():
            from adapters.training import ppo

            return ppo.train
        case Online():
            from adapters.training import online

            return online.group_relative
    from adapters.training import preferences

    match recipe:
        case Reward():
            return preferences.reward
        case Dpo():
            return preferences.dpo
        case _:
            return preferences.kto


def rehearse(recipe: AnyRecipe, base_directory: Path, *, steps: int = 3) -> dict[str, float]:
    """Run a few real steps and say what the whole would need; nothing is kept.

    `seconds` of the whole, of which `setup_seconds` before the first step; `step_seconds`;
    `peak_bytes`; `trainable` and all `parameters`; rows `dropped` as too long. Evaluations are not
    counted. `needed_bytes` of the largest step and `free_bytes` of its device (memory.py).
    """
    without = ["evaluate_every=0", "patience=0", "validation=0", "forgetting=false"]
    short = recipe.changed([f"steps={steps}", *without])
    began = time.monotonic()
    ends: list[float] = []
    corpus = _fitting(short, corpus_of(short), base_directory)
    from adapters.training.memory import fit_of

    measuring = time.monotonic()
    fit = fit_of(recipe, corpus, base_directory)
    began += time.monotonic() - measuring
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            recipe=short,
            base=base_directory,
            start=trained_before(recipe.start),
            reward=reward_directory(recipe),
            workspace=Path(folder, "work"),
            progress=lambda *_: ends.append(time.monotonic()),
        )
        outcome = run_stage(job, corpus, Path(folder, "saved"))
    # The first step allocates and compiles; the others tell what a step takes.
    each = (ends[-1] - ends[0]) / (len(ends) - 1)
    setup = ends[0] - began - each
    return {
        "steps": recipe.steps,
        "step_seconds": each,
        "setup_seconds": setup,
        "seconds": setup + each * recipe.steps,
        "peak_bytes": peak_bytes(),
        "trainable": outcome.trainable,
        "parameters": outcome.parameters,
        "dropped": corpus.dropped,
        "leaked": corpus.leaked,
        "needed_bytes": fit.needed,
        "free_bytes": fit.free,
    }


def _check_memory(
    recipe: AnyRecipe, corpus: Corpus[Any], base_directory: Path, on_fit: Callable[[Fit], None]
) -> None:
    from adapters.training.memory import fit_of

    fit = fit_of(recipe, corpus, base_directory)
    on_fit(fit)
    if not fit.fits:
        raise DoesNotFit(f"{fit.said} {_smaller(recipe)}")


def _smaller(recipe: Recipe) -> str:
    """What would need less memory."""
    ways = [] if recipe.gradient_checkpointing else ["gradient_checkpointing=true"]
    if recipe.accumulate < recipe.batch:
        ways.append(f"accumulate={recipe.batch}")
    if recipe.method in ("full", "lora") and "qlora" in recipe.methods:
        ways.append("method=qlora")
    ways.append("a lower max_tokens")
    return f"Set {', '.join(ways)}; or train anyway with --no-memory-check."


def _fitting(recipe: AnyRecipe, corpus: Corpus[Any], base_directory: Path) -> Corpus[Any]:
    """See lengths.py; the tokenizer's library takes seconds to import."""
    be_quiet()
    if isinstance(recipe, Classify):
        from adapters.training.models import tokenizer_of

        return rows.fitting(recipe, corpus, tokenizer_of(base_directory))
    from adapters.training.lengths import fitting

    return fitting(recipe, corpus, base_directory)


def peak_bytes() -> int:
    """The most memory this process has held, on its GPU if it has one."""
    from adapters.training.device import peak_device_bytes

    there = peak_device_bytes()
    if there is not None:
        return there
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def _workspace(out: Path, plan: str) -> Iterator[Path]:
    """The plan's folder beside `out`, for one training at a time; other plans' are removed."""
    folder = out.absolute().with_name(f".{out.name}.training")
    ours = folder / plan[:16]
    ours.mkdir(parents=True, exist_ok=True)
    if not is_first():
        yield ours
        return
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TrainingRuns(
                f"Another process trains into {out}. Wait for it, or choose another --out."
            ) from error
        for other in folder.iterdir():
            if other.is_dir() and other != ours:
                shutil.rmtree(other)
        for left_over in ("saved", "made"):
            shutil.rmtree(ours / left_over, ignore_errors=True)
        yield ours


def _take(saved: Path, made: Path, recipe: Recipe, base_directory: Path) -> None:
    """What belongs to the result: of an adapter two files, of a full fine-tuning the model."""
    if recipe.method == "full":
        saved.rename(made)
        for file in base_directory.glob("*token*"):
            shutil.copy(file, made)
        for file in base_directory.glob("chat_template*"):
            shutil.copy(file, made)
        return
    made.mkdir()
    shutil.copy(saved / WEIGHTS, made / WEIGHTS)
    config = msgspec.json.decode((saved / CONFIG).read_bytes())
    config["base_model_name_or_path"] = recipe.base  # in place of this machine's path
    for key in ("target_modules", "feedforward_modules"):
        if isinstance(config.get(key), list):
            config[key].sort()
    encoded = msgspec.json.format(msgspec.json.encode(config), indent=2)
    (made / CONFIG).write_bytes(encoded + b"\n")


def _write_card(
    folder: Path, recipe: AnyRecipe, corpus: Corpus[Any], provenance: Provenance
) -> None:
    """The model card; and the labels of a classification head."""
    if not isinstance(recipe, Classify):
        (folder / CARD).write_text(render(corpus, provenance))
        return
    labels = rows.labels_of(recipe, corpus)
    (folder / LABELS).write_bytes(msgspec.json.format(msgspec.json.encode(labels)) + b"\n")
    (folder / CARD).write_text(card.render(corpus, labels, provenance))


def _draw(outcome: Outcome, recipe: Recipe, path: Path) -> None:
    from adapters.training.curve import draw

    draw(outcome.history, f"{recipe.adapter}: {recipe.stage}, {recipe.method}", path)
