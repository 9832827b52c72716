"""An evaluation for people: printed, and as a file."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.names import DEFAULT_ALIAS
from adapters.terminal import working
from eval.errors import NotEvaluated
from registry.cli.output import AsJson, client, emit, say, table
from registry.errors import BadRequest
from registry.model.requirement import verdict_of

FORMATS = (".html", ".pdf", ".yaml", ".yml", ".json")
"""Suffixes of the files that a report can be written to."""


def report_file(path: Path | None) -> Path | None:
    """The path, if a report can be written as its suffix says; raises `BadRequest`."""
    if path is not None and path.suffix not in FORMATS:
        raise BadRequest(f"Invalid report file {path.name[:80]!r}. Use {', '.join(FORMATS)}.")
    return path


def report(
    ref: Annotated[str, typer.Argument(help="DOMAIN/ADAPTER@VERSION")],
    out: Annotated[
        Path,
        typer.Argument(
            help="A file: .html or .pdf to read, .yaml for the card, .json.", callback=report_file
        ),
    ],
    alias: Annotated[str, typer.Option(help="The alias to promote it to.")] = DEFAULT_ALIAS,
    as_json: AsJson = False,
) -> None:
    """Write a version's newest evaluation as a page, a PDF, a model index or JSON.

    Example: lorary report medical/icd10-coder@7 icd10-coder-7.html
    """
    with client() as registry:
        version = registry.resolve(ref)
        if not version["evaluations"]:
            raise NotEvaluated(
                f"No evaluation of {version['ref']} is recorded. Record one: "
                f"lorary eval {version['ref']}"
            )
        recorded = version["evaluations"][-1]
        newest = recorded["report"]
        recorded = named(version, recorded)
        found = registry.report(version["ref"], newest)
        asked = registry.requirements(version["ref"], alias)
    with working("writing the report", quiet=as_json):
        write_report(out, found, asked, recorded)
    emit({"report": newest, "file": str(out)}, as_json, lambda: say(f"{out}: report {newest[:12]}"))


def write_report(
    out: Path,
    report: dict[str, Any],
    asked: dict[str, Any] | None,
    recorded: dict[str, Any] | None,
) -> None:
    """Write a report as its file's name says: .html or .pdf, .yaml for a card, else JSON.

    asked: what the registry requires of the version now. recorded: as for `eval.reports.page`.
    """
    from eval.reports import model_index, page, to_pdf

    if out.suffix in (".html", ".pdf"):
        text = page(report, asked, recorded)
        if out.suffix == ".pdf":
            to_pdf(text, out)
            return
    elif out.suffix in (".yaml", ".yml"):
        import yaml

        text = yaml.safe_dump({"model-index": model_index(report)}, sort_keys=False)
    else:
        text = json.dumps(report, indent=1, ensure_ascii=False)
    out.write_text(text)


def named(version: dict[str, Any], recorded: dict[str, Any]) -> dict[str, Any]:
    """A version's recorded evaluation with the name of its evaluator, beside the key's id."""
    name = version.get("evaluators", {}).get(recorded["evaluator"], "")
    return recorded | {"evaluator": f"{name} {recorded['evaluator']}".strip()}


def show(ref: str, found: Any, asked: dict[str, Any] | None = None) -> None:
    """Print an evaluation: the verdict, what was found, by which engine, and the calibration.

    asked: what the registry requires of the version now.
    """
    if asked is not None:
        shown = verdict_of(asked)
        say(shown.sentence)
        for item in shown.lacking:
            say(f"  {item}")
    from eval.statistics import Discordance, Proportion, mcnemar
    from registry.model.evidence import interval

    said = [found.report["base"], found.report["production"]]
    names = {model["digest"]: model["name"] for model in said if model}
    rows: list[list[object]] = []
    for result in found.results:
        for name, tally in result.tallies.items():
            share = Proportion(tally.hits, tally.n, *interval(tally))
            rows.append([result.suite, name, str(share), tally.n])
        for level in result.confident:
            if level.n:
                name = f"errors at confidence ≥ {level.at:.0%}"
                share = Proportion(level.wrong, level.n, *interval(level))
                rows.append([result.suite, name, str(share), level.n])
        for pair in result.paired:
            p = mcnemar(Discordance(pair.gained, pair.lost, pair.n))
            compared = f"+{pair.gained} -{pair.lost}, exact McNemar p = {p:.2g}"
            rows.append([result.suite, f"against {names[pair.other]}", compared, pair.n])
    for suite in found.report["suites"]:
        if (plain := suite.get("plain")) is not None:
            compared = f"+{plain['gained']} -{plain['lost']}, exact McNemar p = {plain['p']:.2g}"
            name = suite["result"]["suite"]
            rows.append([name, "against the plain classifier", compared, plain["n"]])
    engine = found.engine
    of = f", base {engine.base[:12]}" if engine.base else ", its base model not verified"
    say(
        f"{ref}, answered since {found.answered} by {engine.name} on {engine.device}: "
        f"{engine.dtype}, {engine.quantization or 'not quantised'}{of}, engine "
        f"{engine.fingerprint[:12]}"
    )
    table(["suite", "measure", "found (95 % interval)", "n"], rows)
    if found.calibration is not None:
        fitted = found.calibration
        say(f"{fitted.method} calibration on {fitted.n}, withhold below {fitted.threshold:g}")
