"""`lorary harness`: runs tasks of lm-evaluation-harness on a version."""

from pathlib import Path
from typing import Annotated

import typer

from adapters.terminal import working
from eval.cli.options import API_URL, Url
from registry.cli.output import AsJson, client, emit, table, warn
from registry.errors import BadRequest


def harness(
    ref: Annotated[str, typer.Argument(help="DOMAIN/ADAPTER@VERSION")],
    names: Annotated[
        list[str], typer.Argument(help="Tasks of lm-evaluation-harness, by name.")
    ] = [],  # noqa: B006 - typer copies it
    task: Annotated[list[str], typer.Option(hidden=True, help="As NAMES.")] = [],  # noqa: B006 - typer copies it
    include: Annotated[
        Path | None,
        typer.Option(exists=True, help="A folder with your own tasks in the harness's YAML."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Items of each task.")] = None,
    fresh: Annotated[bool, typer.Option(help="Ignore cached answers.")] = False,
    url: Url = API_URL,
    as_json: AsJson = False,
) -> None:
    """Run tasks of lm-evaluation-harness on a version. Nothing is recorded.

    Only tasks that generate an answer work: prompt log-probabilities, which the others need, are
    not supported for adapters. The harness's own tasks load their data from the Hugging Face Hub.

    To evaluate a task's folder in Lorary's format, use lorary eval --task FOLDER.

    Example: lorary harness medical/icd10-coder@7 gsm8k --limit 50
    """
    if task:
        now = f"lorary harness {ref} {' '.join(task)}"
        warn(f"lorary: `lorary harness {ref} --task ...` is now `{now}`.")
    if not (asked := [*names, *task]):
        raise BadRequest(f"Name a task of lm-evaluation-harness: lorary harness {ref} gsm8k")
    from eval.quiet import quiet_libraries

    quiet_libraries()
    from adapters.home import cache
    from eval.harness import ServedModel, run
    from eval.served import Answers, Asking, Model, engine_of
    from registry.settings import ClientSettings

    key = ClientSettings().key.get_secret_value()
    with client() as registry:
        version = registry.resolve(ref)
    engine = engine_of(url, key, version["base"]).fingerprint
    kept = cache("evaluations", version["digest"], f"harness-{engine[:16]}.jsonl")
    model = Model(version["ref"], version["digest"])
    served = ServedModel(Asking(url, key, model, Answers(kept, fresh=fresh), engine=engine))
    with working("running the tasks", quiet=as_json):
        found = run(served, asked, include, limit=limit)["results"]
    rows = [
        [name, measure.partition(",")[0], value]
        for name, measures in found.items()
        for measure, value in measures.items()
        if isinstance(value, float) and "stderr" not in measure
    ]
    emit(found, as_json, lambda: table(["task", "measure", "value"], rows))
