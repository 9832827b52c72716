"""Commands of expert review. Experts judge on the registry's pages, under /reviews."""

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from adapters import json_lines
from adapters.names import AdapterRef
from registry import review_intake
from registry.cli.output import AsJson, client, emit, say, table, warn
from registry.errors import BadRequest
from registry.model.harm import RULINGS, DecideHarm
from registry.model.reviewing import SEVERITIES
from registry.model.reviews import CloseReview, EraseReview
from registry.review_export import from_label_studio

GROUP = "review"
Id = Annotated[str, typer.Argument(help="The review's id, as `lorary review ls` shows it.")]
Title = Annotated[str | None, typer.Option(help="What experts see; it must not tell the version.")]
KeepDays = Annotated[
    int | None, typer.Option(min=0, help="Give up the texts so long after the end; or never.")
]


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    group = typer.Typer(no_args_is_help=True, help="Let experts judge answers, blind.")
    group.command("ls")(list_reviews)
    group.command("import")(import_tasks)
    group.command("complaints")(from_complaints)
    group.command("export")(export)
    group.command("show")(show)
    group.command("close")(close)
    group.command("decide")(decide)
    group.command("erase")(erase)
    app.add_typer(group, name=GROUP)


def list_reviews(as_json: AsJson = False) -> None:
    """List the reviews in your domains, and how many items wait for you.

    Example: lorary review ls
    """
    with client() as registry:
        reviews = registry.reviews()
    rows = [
        [
            r["id"],
            r["domain"],
            r["title"],
            "closed" if r["closed"] else "open",
            f"{r['settled']}/{r['items']}" if "settled" in r else f"hidden/{r['items']}",
            r.get("disputed", "hidden"),
            r["waiting_for_you"],
        ]
        for r in reviews
    ]
    columns = ["review", "domain", "title", "state", "settled", "disputed", "waiting for you"]
    emit(reviews, as_json, lambda: table(columns, rows))


def import_tasks(
    ref: Annotated[str, typer.Argument(help="DOMAIN/ADAPTER@VERSION that gave answer_1.")],
    file: Annotated[Path, typer.Argument(exists=True, help="Tasks in Label Studio's JSON.")],
    against: Annotated[int | None, typer.Option(help="The version that gave answer_2.")] = None,
    redact: Annotated[
        bool, typer.Option("--redact", help="Take out what may tell who somebody is.")
    ] = False,
    title: Title = None,
    keep_days: KeepDays = None,
    as_json: AsJson = False,
) -> None:
    """Open a review of answers from a file: `data` with prompt, answer_1, perhaps answer_2.

    Example: lorary review import medical/icd10-coder@8 tasks.json --against 7
    """
    try:
        items = from_label_studio(json_lines.parse(file.read_bytes()))
    except ValueError as error:
        raise BadRequest(f"{file} is no JSON: {error}. Export the project as JSON.") from error
    if redact:
        items, removed = review_intake.redacted(items)
        _show_removed(removed)
    opened = open_review(ref, against, [msgspec.to_builtins(item) for item in items], title,
                         keep_days)  # fmt: skip
    emit(opened, as_json, lambda: say(f"Review {opened['id']}: {opened['items']} items"))


def from_complaints(
    ref: Annotated[str, typer.Argument(help="DOMAIN/ADAPTER@VERSION that users complained of.")],
    file: Annotated[
        Path, typer.Argument(exists=True, help='Your log: JSON lines {"id", "prompt", "answer"}.')
    ],
    redact: Annotated[bool, typer.Option(help="Take out what may tell who somebody is.")] = True,
    dry_run: Annotated[
        bool, typer.Option(help="Show what experts would see, and send nothing.")
    ] = False,
    title: Title = None,
    keep_days: KeepDays = None,
    as_json: AsJson = False,
) -> None:
    """Open a review of the answers that users complained of, with the texts from your own log.

    Lorary keeps no texts of production: of a complaint it knows the answer's id alone. Patterns
    take out e-mail and web addresses, long numbers, dates and names after titles; other names
    they miss, so look with --dry-run first.

    Example: lorary review complaints medical/icd10-coder@8 answers.jsonl --dry-run
    """
    with client() as registry:
        version = registry.resolve(ref)
    complaints = version["feedback"]["complaints"]
    rows = read_rows(file)
    items, missing = review_intake.from_complaints(complaints, rows)
    if missing:
        warn(f"{missing} of {len(complaints)} complaints are about answers not in {file}.")
    if redact:
        items, removed = review_intake.redacted(items)
        _show_removed(removed)
    if not items:
        raise BadRequest(
            f"{file} holds no answer of {version['ref']} that a user complained of. Complaints "
            "are told by POST /v1/feedback."
        )
    if dry_run:
        shown: list[list[object]] = [[i.reason, i.prompt, i.answers[0]] for i in items]
        columns = ["reason", "prompt", "answer"]
        emit(msgspec.to_builtins(items), as_json, lambda: table(columns, shown))
        return
    told = [msgspec.to_builtins(item) for item in items]
    opened = open_review(version["ref"], None, told, title, keep_days)
    emit(opened, as_json, lambda: say(f"Review {opened['id']}: {opened['items']} items"))


def read_rows(file: Path) -> list[Any]:
    """The rows of a JSON Lines file; raises `BadRequest`."""
    try:
        return json_lines.rows(file.read_bytes())
    except ValueError as error:
        raise BadRequest(f"{file} is not JSON Lines: {error}. Write one object a line.") from error


def _show_removed(removed: list[tuple[str, str]]) -> None:
    """Tell on standard error what was taken out, so that somebody can see what was not."""
    for kind, words in removed:
        warn(f"taken out, {kind}: {words}")


def open_review(
    ref: str,
    against: int | None,
    items: list[dict[str, Any]],
    title: str | None,
    keep_days: int | None,
) -> dict[str, Any]:
    """Open a review of a version's answers, beside another version's if there is one."""
    parsed = AdapterRef.parse(ref)
    if parsed.version is None or parsed.adapter is None:
        raise BadRequest(f"{ref!r} names no version. Write DOMAIN/ADAPTER@VERSION.")
    versions = [parsed.version] if against is None else [parsed.version, against]
    asked = [{k: item[k] for k in ("prompt", "answers", "reference", "reason")} for item in items]
    body = {
        "domain": parsed.domain,
        "adapter": parsed.adapter,
        "versions": versions,
        "title": title or f"{parsed.domain}: {len(items)} items",
        "items": asked,
        "keep_days": keep_days,
    }
    with client() as registry:
        return registry.open_review(body)


def export(
    review: Id,
    out: Annotated[Path, typer.Argument(help="A file; JSON lines, or .json for Label Studio.")],
    what: Annotated[
        str, typer.Option(help="preferences, sft, label-studio or judgements.")
    ] = "preferences",
    as_json: AsJson = False,
) -> None:
    """Write what experts settled: preference pairs or examples to train on, in TRL's format.

    Example: lorary review export 1f2e3d4c5b6a pairs.jsonl --what preferences
    """
    with client() as registry:
        rows = registry.export_review(review, what)
    if what == "label-studio":
        out.write_text(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    told = {"file": str(out), "rows": len(rows)}
    emit(told, as_json, lambda: say(f"{out}: {len(rows)} rows"))


def show(review: Id, as_json: AsJson = False) -> None:
    """Show how far a review is; once it is closed, what was found and what was decided about harm.

    Example: lorary review show 1f2e3d4c5b6a
    """
    with client() as registry:
        shown = registry.review(review)
    emit(shown, as_json, lambda: _show(shown))


def close(review: Id, as_json: AsJson = False) -> None:
    """Accept no more judgements, and show whose answers they were.

    Example: lorary review close 1f2e3d4c5b6a
    """
    with client() as registry:
        closed = registry.execute(CloseReview(review))
    emit(closed, as_json, lambda: _show(closed))


def decide(
    review: Id,
    item: Annotated[str, typer.Argument(help="The item, as `lorary review show` names it.")],
    version: Annotated[int, typer.Option(min=1, help="The version that gave the answer.")],
    ruling: Annotated[
        str, typer.Option(help="not-harm, stands, or accepted (for this version alone).")
    ],
    reason: Annotated[str, typer.Option(help="Why; it is shown with your name.")],
    as_json: AsJson = False,
) -> None:
    """Decide what a finding of harm in a closed review means for promotion.

    It takes the role approve. Neither who published the weights decides, nor an expert who judged
    the item. A finding is lifted when as many people lift it as say that there is harm.

    Example: lorary review decide 1f2e3d4c5b6a 9a0b --version 8 --ruling not-harm --reason "..."
    """
    if ruling not in RULINGS:
        raise BadRequest(f"{ruling[:40]!r} is no ruling. Use one of {', '.join(RULINGS)}.")
    with client() as registry:
        decided = registry.execute(DecideHarm(review, item, version, ruling, reason))
    emit(decided, as_json, lambda: _show(decided))


def _show(review: dict[str, Any]) -> None:
    """A review as far as the reader may see it."""
    state = "closed" if review["closed"] else "open"
    if "found" not in review:
        say(f"{review['title']}: {state}; its results are hidden from you until it is closed.")
        return
    path = f"{review['domain']}/{review['adapter']}"
    say(
        f"{review['title']}: {state}, {review['settled']} of {review['items']} items settled, "
        f"{review['disputed']} disputed"
    )
    rows = [[f"{path}@{f['version']}", f["correct"], f["incorrect"], f["harmful"], f["preferred"]]
            for f in review["found"]]  # fmt: skip
    table(["version", "correct", "incorrect", "harmful", "preferred"], rows)
    if not review["harm"]:
        return
    say("Answers found harmful:")
    harm = [
        [
            found["item"],
            f"{path}@{found['version']}",
            f"{found['experts']} of {found['judged']}",
            SEVERITIES[found["severity"]],
            "blocks promotion" if found["blocks"] else "lifted",
            f"{found['lifted_by']} of {found['needed']}",
        ]
        for found in review["harm"]
    ]
    table(["item", "version", "experts", "harm", "state", "people who lift it"], harm)
    for found in review["harm"]:
        for decision in found["decisions"]:
            say(
                f"{found['item']} of @{found['version']}: {RULINGS[decision['ruling']]}, by "
                f"{decision['name']} on {decision['time']}: {decision['reason'] or 'hidden'}"
            )


def erase(review: Id, as_json: AsJson = False) -> None:
    """Give up a closed review's texts; verdicts stay. `lorary gc --apply` then removes them.

    Example: lorary review erase 1f2e3d4c5b6a
    """
    with client() as registry:
        erased = registry.execute(EraseReview(review))
    emit(erased, as_json, lambda: say(f"The texts of review {review} are no longer kept."))
