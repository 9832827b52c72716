"""Commands of expert review. Experts judge on the registry's pages, under /reviews."""

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from adapters import json_lines
from adapters.names import AdapterRef
from registry import review_intake
from registry.cli.choosing import chosen
from registry.cli.output import AsJson, client, emit, say, table, warn
from registry.client import RegistryClient
from registry.errors import BadRequest
from registry.model.harm import RULINGS, DecideHarm
from registry.model.reviewing import SEVERITIES
from registry.model.reviews import CloseReview, EraseReview
from registry.review_export import from_label_studio

GROUP = "review"
Id = Annotated[str, typer.Argument(help="The review's id or title.")]
Title = Annotated[str | None, typer.Option(help="Shown to experts; do not name the version.")]
KeepDays = Annotated[
    int | None,
    typer.Option(min=0, help="Delete the texts so many days after the end; by default never."),
]


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    group = typer.Typer(no_args_is_help=True, help="Blind expert reviews of answers.")
    group.command("ls")(list_reviews)
    group.command("import")(import_tasks)
    group.command("complaints")(from_complaints)
    group.command("export")(export)
    group.command("show")(show)
    group.command("close")(close)
    group.command("decide")(decide)
    group.command("erase")(erase)
    app.add_typer(group, name=GROUP, rich_help_panel="Evaluate")


def list_reviews(as_json: AsJson = False) -> None:
    """List reviews and how many items wait for you.

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
        bool, typer.Option("--redact", help="Replace e-mail addresses, names, dates and numbers.")
    ] = False,
    title: Title = None,
    keep_days: KeepDays = None,
    as_json: AsJson = False,
) -> None:
    """Open a review of answers from a Label Studio file.

    Each task's `data` has prompt, answer_1 and, with --against, answer_2.

    Example: lorary review import medical/icd10-coder@8 tasks.json --against 7
    """
    try:
        items = from_label_studio(json_lines.parse(file.read_bytes()))
    except ValueError as error:
        raise BadRequest(f"{file} is not JSON: {error}. Export the project as JSON.") from error
    if redact:
        items, removed = review_intake.redacted(items)
        _show_removed(removed)
    opened = open_review(ref, against, [msgspec.to_builtins(item) for item in items], title,
                         keep_days)  # fmt: skip
    emit(opened, as_json, lambda: say(f"Review {opened['id']}: {opened['items']} items"))


def from_complaints(
    ref: Annotated[str, typer.Argument(help="DOMAIN/ADAPTER@VERSION that users complained about.")],
    file: Annotated[
        Path, typer.Argument(exists=True, help='Your log: JSON lines {"id", "prompt", "answer"}.')
    ],
    redact: Annotated[
        bool, typer.Option(help="Replace e-mail addresses, names, dates and numbers.")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option(help="Show what experts would see, and send nothing.")
    ] = False,
    title: Title = None,
    keep_days: KeepDays = None,
    as_json: AsJson = False,
) -> None:
    """Open a review of answers that users complained about, with texts from your own log.

    Lorary stores only the answer's id with a complaint, never its text. Redaction replaces e-mail
    and web addresses, long numbers, dates and names after titles. It misses other names: check
    with --dry-run first.

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
            f"{file} holds no answer of {version['ref']} that a user complained about. Send "
            "complaints with POST /v1/feedback."
        )
    if dry_run:
        shown: list[list[object]] = [[i.reason, i.prompt, i.answers[0]] for i in items]
        columns = ["reason", "prompt", "answer"]
        emit(msgspec.to_builtins(items), as_json, lambda: table(columns, shown))
        return
    listed = [msgspec.to_builtins(item) for item in items]
    opened = open_review(version["ref"], None, listed, title, keep_days)
    emit(opened, as_json, lambda: say(f"Review {opened['id']}: {opened['items']} items"))


def read_rows(file: Path) -> list[Any]:
    """The rows of a JSON Lines file; raises `BadRequest`."""
    try:
        return json_lines.rows(file.read_bytes())
    except ValueError as error:
        raise BadRequest(f"{file} is not JSON Lines: {error}. Write one object a line.") from error


def _show_removed(removed: list[tuple[str, str]]) -> None:
    """List on standard error what was redacted, so that a person can see what was not."""
    for kind, words in removed:
        warn(f"redacted {kind}: {words}")


def open_review(
    ref: str,
    against: int | None,
    items: list[dict[str, Any]],
    title: str | None,
    keep_days: int | None,
) -> dict[str, Any]:
    """Open a review of a version's answers, beside another version's if there is one; warn an
    author of the weights, whose review counts for no promotion."""
    parsed = AdapterRef.parse(ref)
    if parsed.version is None or parsed.adapter is None:
        raise BadRequest(f"Specify a version: DOMAIN/ADAPTER@VERSION, not {ref!r}.")
    versions = [parsed.version] if against is None else [parsed.version, against]
    fields = ("prompt", "answers", "reference", "reason", "criteria", "passes")
    asked = [{k: item[k] for k in fields if k in item} for item in items]
    body = {
        "domain": parsed.domain,
        "adapter": parsed.adapter,
        "versions": versions,
        "title": title or f"{parsed.domain}: {len(items)} items",
        "items": asked,
        "keep_days": keep_days,
    }
    with client() as registry:
        opened = registry.open_review(body)
    if own := opened.get("published_by_you"):
        warn(
            f"You published the weights of {' and '.join(own)}: for their promotion this review is "
            f"no evidence but of harm. Close it (lorary review close {opened['id']}) and have a "
            "colleague open one, with the role evaluate."
        )
    return opened


def _chosen(registry: RegistryClient, review: str) -> str:
    return chosen("review", review, registry.reviews(), "title", "lorary review ls")


def export(
    review: Id,
    out: Annotated[Path, typer.Argument(help="A file; JSON lines, or .json for Label Studio.")],
    what: Annotated[
        str, typer.Option(help="preferences, sft, label-studio or judgements.")
    ] = "preferences",
    as_json: AsJson = False,
) -> None:
    """Export a review's results: preference pairs or examples to train on, in TRL's format.

    Example: lorary review export 1f2e3d4c5b6a pairs.jsonl --what preferences
    """
    with client() as registry:
        review = _chosen(registry, review)
        rows = registry.export_review(review, what)
    if what == "label-studio":
        out.write_text(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    written = {"file": str(out), "rows": len(rows)}
    emit(written, as_json, lambda: say(f"{out}: {len(rows)} rows"))


def show(review: Id, as_json: AsJson = False) -> None:
    """Show how far a review is; once it is closed, what was found and what was decided about harm.

    Example: lorary review show 1f2e3d4c5b6a
    """
    with client() as registry:
        shown = registry.review(_chosen(registry, review))
    emit(shown, as_json, lambda: _show(shown))


def close(review: Id, as_json: AsJson = False) -> None:
    """Close and unblind a review: accept no more judgements, show the results by version.

    Example: lorary review close 1f2e3d4c5b6a
    """
    with client() as registry:
        closed = registry.execute(CloseReview(_chosen(registry, review)))
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
        decided = registry.execute(
            DecideHarm(_chosen(registry, review), item, version, ruling, reason)
        )
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
    table(["item", "version", "experts", "harm", "state", "lifted by"], harm)
    for found in review["harm"]:
        for decision in found["decisions"]:
            say(
                f"{found['item']} of @{found['version']}: {RULINGS[decision['ruling']]}, by "
                f"{decision['name']} on {decision['time']}: {decision['reason'] or 'hidden'}"
            )


def erase(review: Id, as_json: AsJson = False) -> None:
    """Delete a closed review's texts. Verdicts stay. `lorary gc --apply` frees the space.

    Example: lorary review erase 1f2e3d4c5b6a
    """
    with client() as registry:
        erased = registry.execute(EraseReview(_chosen(registry, review)))
    emit(erased, as_json, lambda: say(f"The texts of review {review} are deleted."))
