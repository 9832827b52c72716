"""Routes about evidence: record an evaluation, read its report, see what a version still lacks."""

from typing import Any

import msgspec
from fastapi import APIRouter, Response

from adapters.confidence import Calibration
from adapters.names import DEFAULT_ALIAS, AdapterRef, check_alias, check_name
from registry.errors import BadRequest, Conflict, TooLarge, UnknownFile
from registry.http.access import CallerDep
from registry.http.reviews import requirements_view
from registry.http.schemas import EvaluationBody
from registry.http.views import plain, version_view
from registry.model.access import may_audit
from registry.model.blinding import are_texts_hidden
from registry.model.evaluations import RecordEvaluation
from registry.model.evidence import Engine, SuiteResult
from registry.model.gates import in_use
from registry.model.standing import calibrated
from registry.store.blobs import Blobs

router = APIRouter(tags=["evidence"])
MAX_REPORT_BYTES = 32 << 20


@router.get("/adapters/{domain}/{adapter}/versions/{version}/requirements")
def show_requirements(
    caller: CallerDep, domain: str, adapter: str, version: int, alias: str = DEFAULT_ALIAS
) -> dict[str, Any]:
    """What the domain's policy asks before the alias may name this version, item by item."""
    ref = caller.looks_at(AdapterRef.parse(f"{domain}/{adapter}@{version}"))
    check_alias(alias)
    guarded = alias in caller.catalog.domain(domain).policy.guarded
    found = caller.catalog.find(ref)
    asked = requirements_view(caller, found, alias) if guarded else tuple(in_use(found))
    return {
        "ref": str(ref),
        "digest": found.digest,
        "alias": alias,
        "guarded": guarded,
        "met": all(requirement.met for requirement in asked),
        "requirements": msgspec.to_builtins(asked),
    }


@router.post("/adapters/{domain}/{adapter}/versions/{version}/evaluations", status_code=201)
def record(
    caller: CallerDep, domain: str, adapter: str, version: int, body: EvaluationBody
) -> dict[str, Any]:
    """Record what an evaluation found; its report is stored, and can be read by its digest."""
    caller.require("evaluate", check_name(domain, "domain"))
    try:
        results = msgspec.convert(body.results, tuple[SuiteResult, ...])
        calibration = msgspec.convert(body.calibration, Calibration | None)
        engine = msgspec.convert(body.engine, Engine | None)
    except ValueError as error:  # lone surrogates in place of a number, too
        raise BadRequest(f"The evaluation cannot be read: {error}. Write it anew.") from error
    try:
        report = msgspec.json.encode(body.report)
    except ValueError as error:  # lone surrogates, or more digits than any number has
        raise BadRequest(f"The report cannot be stored: {error}. Correct it.") from error
    if len(report) > MAX_REPORT_BYTES:
        raise TooLarge(f"The report is above {MAX_REPORT_BYTES} bytes. Keep fewer items in it.")
    before = caller.registry.catalog.sequence
    digest = Blobs(caller.registry.store).put_bytes(report)
    command = RecordEvaluation(
        domain, adapter, version, body.digest, digest, results, calibration, before, engine,
        body.answered, body.run,
    )  # fmt: skip
    caller.registry.execute(command, caller.key.id)
    catalog = caller.registry.catalog
    found = catalog.find(AdapterRef(domain, adapter, version))
    return plain(version_view(found, calibrated(catalog.keys, found), catalog.keys))


@router.get(
    "/adapters/{domain}/{adapter}/versions/{version}/evaluations/{report}",
    response_model=dict[str, Any],
)
def read_report(
    caller: CallerDep, domain: str, adapter: str, version: int, report: str
) -> Response:
    """A recorded evaluation's whole report: the held-out questions, and which version gave each
    answer.

    It takes the role evaluate, audit or operate. While a review in the domain is open, its experts
    read no report of the domain: reviews are made from reports.
    """
    ref = AdapterRef.parse(f"{domain}/{adapter}@{version}")
    if not may_audit(caller.key, ref.domain):
        caller.require("evaluate", ref.domain)
    if are_texts_hidden(caller.catalog, caller.key, ref.domain):
        raise Conflict(
            f"Reports of {ref.domain!r} are hidden from you while a review there is open, because "
            "they say which version gave each answer. Close the review first, or ask an evaluator "
            "who has no key with the role review."
        )
    recorded = caller.catalog.find(ref).evaluations
    if report not in {evaluation.report for evaluation in recorded}:
        raise UnknownFile(f"{ref} has no evaluation {report[:64]!r}. See `lorary show {ref}`.")
    data = Blobs(caller.registry.store).get(report)
    return Response(data, media_type="application/json")
