"""One training of stage `classify`, from a recipe to a directory that can be published.

As `adapters.training.run` does it for the other stages: the directory appears whole or stays as it
was, and a training that was killed goes on when the same command is repeated.
"""

import contextlib
import hashlib
import shutil
import tempfile
import time
from pathlib import Path

import msgspec

from adapters.admission import CARD, CURVE, PROVENANCE, admit, files_in
from adapters.base_model import BaseModel
from adapters.errors import InvalidAdapter
from adapters.heads import LABELS
from adapters.recipe import Classify
from adapters.training.classification.card import render
from adapters.training.classification.rows import corpus_of, fitting
from adapters.training.job import Job, Outcome, Progress
from adapters.training.processes import is_first
from adapters.training.provenance import Plan, Provenance, lineage_of, make_plan, thinned
from adapters.training.quiet import be_quiet
from adapters.training.run import _draw, _take, _trained_before, _workspace, existing, peak_bytes


def train(
    recipe: Classify,
    base_directory: Path,
    out: Path,
    *,
    reuse: bool = False,
    progress: Progress,
    report_to: tuple[str, ...] = (),
) -> tuple[Provenance, bool]:
    """Train into `out`; arguments and result as for `adapters.training.run.train`."""
    base = BaseModel.from_directory(base_directory, recipe.base)
    start = _trained_before(recipe.start)
    corpus, labels = corpus_of(recipe)
    plan = _with_own_code(make_plan(recipe, base, corpus.digest, corpus.packs, start, None))
    before = existing(out)
    if reuse and before is not None and before.plan_digest == plan.digest:
        return before, True
    began = time.monotonic()
    be_quiet()
    from adapters.training.classification.stage import fine_tune
    from adapters.training.models import tokenizer_of

    corpus = fitting(recipe, corpus, tokenizer_of(base_directory))
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
            reward=None,
            workspace=workspace,
            progress=progress,
            report_to=report_to,
        )
        outcome = fine_tune(job, corpus, labels, saved)
        provenance = Provenance(
            lineage=lineage_of(plan, corpus.reviews),
            plan=plan,
            plan_digest=plan.digest,
            train_items=len(corpus.train),
            dropped_items=corpus.dropped,
            held_out_items=sum(len(pack.load().held_out) for pack in corpus.packs),
            final_loss=outcome.final_loss,
            seconds=round(time.monotonic() - began, 1),
            trainable=outcome.trainable,
            parameters=outcome.parameters,
            peak_bytes=peak_bytes(),
            history=thinned(outcome.history),
        )
        if not is_first():
            return provenance, False
        _take(saved, made, recipe, base_directory)
        (made / LABELS).write_bytes(msgspec.json.format(msgspec.json.encode(labels)) + b"\n")
        encoded = msgspec.json.format(msgspec.json.encode(provenance), indent=2)
        (made / PROVENANCE).write_bytes(encoded + b"\n")
        (made / CARD).write_text(render(corpus, labels, provenance))
        _draw(outcome, recipe, made / CURVE)
        if problems := admit(files_in(made), base).problems:
            raise InvalidAdapter(f"The result would be refused: {problems[0]} Change the recipe.")
        if out.exists():
            shutil.rmtree(out)
        made.rename(out)
    shutil.rmtree(workspace.parent, ignore_errors=True)
    return provenance, False


def rehearse(recipe: Classify, base_directory: Path, *, steps: int = 3) -> dict[str, float]:
    """Run a few real steps and say what the whole would need, as `adapters.training.run.rehearse`;
    nothing is kept."""
    changes = [f"steps={steps}", "evaluate_every=0", "patience=0", "validation=0"]
    short = recipe.changed(changes)
    assert isinstance(short, Classify)  # noqa: S101 - a change keeps the stage
    be_quiet()
    from adapters.training.classification.stage import fine_tune
    from adapters.training.models import tokenizer_of

    began = time.monotonic()
    ends: list[float] = []
    corpus, labels = corpus_of(short)
    corpus = fitting(short, corpus, tokenizer_of(base_directory))
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            recipe=short,
            base=base_directory,
            start=_trained_before(recipe.start),
            reward=None,
            workspace=Path(folder, "work"),
            progress=lambda *_: ends.append(time.monotonic()),
        )
        outcome: Outcome = fine_tune(job, corpus, labels, Path(folder, "saved"))
    # The first step allocates; the others tell what a step takes.
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
    }


def _with_own_code(plan: Plan) -> Plan:
    """The plan with a digest of the code that covers this folder, too."""
    hashing = hashlib.sha256(plan.code.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        hashing.update(f"{path.name} {path.stat().st_size}\n".encode())
        hashing.update(path.read_bytes())
    return msgspec.structs.replace(plan, code=hashing.hexdigest())
