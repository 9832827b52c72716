"""Evidence may be recorded by whoever has the role; what counts is decided where it is weighed."""

import math

import msgspec

from adapters import confidence
from adapters.names import AdapterRef
from registry import errors, times
from registry.model.catalog import Catalog
from registry.model.commands import RecordEvaluation
from registry.model.events import AnyEvent, EvaluationRecorded
from registry.model.evidence import SuiteResult
from registry.model.rules.versions import spare

MAX_RESULTS = 100
"""Suites in one evaluation; and tallies, pairings or confidence levels in one suite."""
MAX_NAME = 100
MAX_BYTES = 128 << 10
"""Of the counts as JSON: whoever resolves the version gets them."""


def record(catalog: Catalog, command: RecordEvaluation) -> tuple[AnyEvent, ...]:
    """What was measured of these very bytes; the same report again changes nothing.

    The publisher's own word is recorded, too, and is a look at the held-out items; it satisfies
    no policy (`registry.model.gates`).
    """
    ref = AdapterRef(command.domain, command.adapter, version=command.version)
    version = catalog.resolve(ref)
    if version.digest != command.digest:
        raise errors.Conflict(
            f"{ref} has digest {version.digest[:12]}, and the report is about "
            f"{command.digest[:12]}. Evaluate the bytes that are published."
        )
    if not 1 <= len(command.results) <= MAX_RESULTS:
        raise errors.BadRequest(f"An evaluation has 1 to {MAX_RESULTS} suites. Split the report.")
    if len({result.suite for result in command.results}) < len(command.results):
        raise errors.BadRequest("A suite occurs twice in the report. Record each suite once.")
    for result in command.results:
        if problem := _fault(result):
            raise errors.BadRequest(f"Suite {result.suite[:MAX_NAME]!r}: {problem}. Count again.")
    if command.calibration is not None and (wrong := confidence.fault(command.calibration)):
        raise errors.BadRequest(f"The calibration is unusable: {wrong}. Fit it again.")
    if command.answered is not None:
        try:
            times.parse(command.answered)
        except ValueError as error:
            raise errors.BadRequest(f"answered: {error}") from error
    known = next((e for e in version.evaluations if e.report == command.report), None)
    if known is not None:
        if known.results == command.results:
            return ()
        raise errors.Conflict(
            f"Report {command.report[:12]} is recorded with other counts. Evaluate again."
        )
    if (size := len(msgspec.json.encode((command.results, command.calibration)))) > MAX_BYTES:
        raise errors.TooLarge(
            f"The counts of an evaluation have at most {MAX_BYTES} bytes, not {size}. Split it."
        )
    spare(catalog, {command.report}, command.read_at)
    return (
        EvaluationRecorded(
            domain=command.domain,
            adapter=command.adapter,
            version=command.version,
            digest=command.digest,
            report=command.report,
            results=command.results,
            calibration=command.calibration,
            engine=command.engine,
            answered=command.answered,
        ),
    )


def _fault(result: SuiteResult) -> str | None:
    """What is impossible about a suite's counts, or None."""
    names = [result.suite, *result.tallies]
    if not all(name and len(name) <= MAX_NAME and name.isprintable() for name in names):
        return f"names have 1 to {MAX_NAME} printable characters"
    if max(len(result.tallies), len(result.paired), len(result.confident)) > MAX_RESULTS:
        return f"it has more than {MAX_RESULTS} counts of a kind"
    parts = [
        *((tally.hits, 0, tally.n, tally.design_effect) for tally in result.tallies.values()),
        *((pair.gained, pair.lost, pair.n, pair.design_effect) for pair in result.paired),
        *((level.wrong, 0, level.n, level.design_effect) for level in result.confident),
    ]
    for one, other, n, effect in parts:
        if one < 0 or other < 0 or one + other > n:
            return f"{one} and {other} of {n} cannot be"
        if not (math.isfinite(effect) and effect >= 1):
            return f"a design effect of {effect} is below 1"
    levels = [level.at for level in result.confident]
    if not all(0 < at < 1 for at in levels) or len(set(levels)) < len(levels):
        return "levels of confidence lie between 0 and 1, each once"
    return None
