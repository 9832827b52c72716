"""Evaluations: anybody with the role may record one; what counts is decided where it is weighed."""

from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec
from annotated_types import MaxLen, MinLen

from adapters import confidence
from adapters.confidence import Calibration
from adapters.fields import Count, Digest, Name, Number, ShortText
from adapters.names import AdapterRef
from registry import errors, times
from registry.model.base import Command, Draft, Event, Route, made_of
from registry.model.catalog import Catalog, Key, Version, person
from registry.model.collection import spare
from registry.model.evidence import Engine, SuiteResult, impossible
from registry.model.recorded import Begun, Calibrated, Evaluation
from registry.model.standing import authors

MAX_BYTES = 128 << 10
"""Of the counts as JSON: whoever resolves the version gets them."""
MAX_BEGUN = 100
"""Evaluations of one version that one person began and did not record: nobody keeps others out."""
MAX_HELD_OUT = 100
"""Held-out sets that one run asks."""


class EvaluationBegun(Event, frozen=True):
    """Somebody is about to ask a version held-out items: that is a look, recorded or not."""

    optional = True
    domain: str
    adapter: str
    version: int
    digest: str
    run: str
    held_out: tuple[str, ...]

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Count a look at each held-out set that the run did not name yet, and remember them for
        when it is recorded."""
        path = f"{self.domain}/{self.adapter}"
        old = draft.version(path, self.version)
        pending = _pending(old, self.run, by, draft.keys)
        before = pending.looks if pending else {}
        looks = {**before, **_counted(draft, self.domain, set(self.held_out) - before.keys())}
        begun = Begun(run=self.run, evaluator=by, time=at, looks=looks)
        others = tuple(one for one in old.begun if one is not pending)
        draft.change_version(path, self.version, begun=(*others, begun))


def _counted(draft: Draft, domain: str, held_out: Iterable[str]) -> dict[str, int]:
    """Count one more look at each of the held-out sets; returns the new count of each."""
    looks = dict(draft.domains[domain].looks)
    for items in set(held_out):
        looks[items] = looks.get(items, 0) + 1
    draft.change_domain(domain, looks=looks)
    return {items: looks[items] for items in held_out}


class EvaluationRecorded(Event, frozen=True):
    """What an evaluation of exactly these bytes found; the actor is who measured it."""

    domain: str
    adapter: str
    version: int
    digest: str
    report: str
    """Digest of the blob that holds the whole report, as JSON."""
    results: tuple[SuiteResult, ...]
    calibration: Calibration | None = None
    """Fitted on items that no suite counts."""
    engine: Engine | None = None
    """What answered; None in evaluations recorded before the engine was."""
    answered: str | None = None
    """When the oldest of the answers was given; None as above."""
    by_author: bool = False
    """Whether the evaluator had published these weights, under whatever name."""
    run: str | None = None
    """The run that `EvaluationBegun` names, whose looks are counted; None where none was begun."""

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Add the evaluation to its version, and count a look at each held-out set that was not
        counted when the run was begun."""
        path = f"{self.domain}/{self.adapter}"
        old = draft.version(path, self.version)
        pending = _pending(old, self.run, by, draft.keys)
        looks = dict(pending.looks) if pending else {}
        asked = {result.held_out for result in self.results}
        looks |= _counted(draft, self.domain, asked - looks.keys())
        counted = tuple(looks[result.held_out] for result in self.results)
        evaluation = made_of(Evaluation, self, evaluator=by, time=at, looks=counted)
        calibrations = old.calibrations
        if self.calibration is not None:
            fitted = msgspec.structs.replace(self.calibration, report=self.report)
            publishes = person(draft.keys, by) == person(draft.keys, old.publisher)
            new = Calibrated(
                evaluator=by,
                calibration=fitted,
                engine=self.engine,
                by_author=self.by_author or publishes,
            )
            calibrations = (*(c for c in calibrations if c.evaluator != by), new)
        draft.change_version(
            path,
            self.version,
            begun=tuple(begun for begun in old.begun if begun is not pending),
            evaluations=(*old.evaluations, evaluation),
            calibrations=calibrations,
        )
        draft.learn(("report", self.report, str(old.ref)))


def _pending(version: Version, run: str | None, by: str, keys: Mapping[str, Key]) -> Begun | None:
    """The run that the person who holds the key `by` began and has not recorded, if there is."""
    if run is None:
        return None
    who = person(keys, by)
    mine = (b for b in version.begun if b.run == run and person(keys, b.evaluator) == who)
    return next(mine, None)


class BeginEvaluation(Command, frozen=True):
    """Count a look at held-out items before a version is asked them.

    `run` names the evaluation. Until it is recorded, beginning the same run again is the same
    look, so that an interrupted evaluation can resume. The look is counted whether or not the
    evaluation is ever recorded, so that trying versions until one passes is visible.
    """

    event = EvaluationBegun
    role = "evaluate"
    route = Route("POST", "/adapters/{domain}/{adapter}/versions/{version}/runs", 201)
    domain: Name
    adapter: Name
    version: Number
    digest: Digest
    run: Name
    held_out: Annotated[tuple[Digest, ...], MinLen(1), MaxLen(MAX_HELD_OUT)]

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Count it; again, before the run is recorded, changes nothing but for other items."""
        ref = AdapterRef(self.domain, self.adapter, version=self.version)
        version = catalog.resolve(ref)
        if version.digest != self.digest:
            raise errors.Conflict(
                f"{ref} has digest {version.digest[:12]}, not {self.digest[:12]}. Evaluate the "
                "bytes that are published."
            )
        who = person(catalog.keys, by)
        pending = _pending(version, self.run, by, catalog.keys)
        if pending is None:
            mine = sum(person(catalog.keys, begun.evaluator) == who for begun in version.begun)
            if mine >= MAX_BEGUN:
                raise errors.Conflict(
                    f"You began {MAX_BEGUN} evaluations of {ref} and did not record them. Record "
                    "one: run lorary eval again as it was run"
                )
        elif set(self.held_out) <= pending.looks.keys():
            return
        elif len(pending.looks.keys() | set(self.held_out)) > MAX_HELD_OUT:
            raise errors.Conflict(
                f"The run {self.run!r} asks more than {MAX_HELD_OUT} sets of items. Begin another."
            )
        yield self.caused()


class RecordEvaluation(Command, frozen=True):
    """Record what an evaluation of exactly the bytes with `digest` found.

    Its report is stored already. Recording the same report again changes nothing. The publisher's
    own evaluation is recorded, too, and is a look at the held-out items; it satisfies no policy
    (`registry.model.gates`).
    """

    event = EvaluationRecorded
    role = "evaluate"
    domain: Name
    adapter: Name
    version: Number
    digest: Digest
    report: Digest
    results: Annotated[tuple[SuiteResult, ...], MinLen(1), MaxLen(100)]
    calibration: Calibration | None = None
    read_at: Count = 0
    """As for `PublishVersion`."""
    engine: Engine | None = None
    answered: ShortText | None = None
    run: Name | None = None
    """The run that was begun for it, if one was."""

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Record it, if its counts are possible and are about the published bytes."""
        ref = AdapterRef(self.domain, self.adapter, version=self.version)
        version = catalog.resolve(ref)
        if version.digest != self.digest:
            raise errors.Conflict(
                f"{ref} has digest {version.digest[:12]}, and the report is about "
                f"{self.digest[:12]}. Evaluate the bytes that are published."
            )
        self._check()
        known = next((e for e in version.evaluations if e.report == self.report), None)
        if known is not None:
            if known.results == self.results:
                return
            raise errors.Conflict(
                f"Report {self.report[:12]} is recorded with other counts. Evaluate again."
            )
        if (size := len(msgspec.json.encode((self.results, self.calibration)))) > MAX_BYTES:
            raise errors.TooLarge(
                f"The counts of an evaluation have at most {MAX_BYTES} bytes, not {size}. Split it."
            )
        spare(catalog, {self.report}, self.read_at)
        yield self.caused(by_author=person(catalog.keys, by) in authors(catalog, version))

    def _check(self) -> None:
        """Raises `BadRequest` for counts that cannot be."""
        if len({result.suite for result in self.results}) < len(self.results):
            raise errors.BadRequest("A suite occurs twice in the report. Record each suite once.")
        for result in self.results:
            if wrong := impossible(result):
                raise errors.BadRequest(f"Suite {result.suite[:100]!r}: {wrong}. Count again.")
        if self.calibration is not None and (wrong := confidence.fault(self.calibration)):
            raise errors.BadRequest(f"The calibration is unusable: {wrong}. Fit it again.")
        if self.answered is not None:
            try:
                times.parse(self.answered)
            except ValueError as error:
                raise errors.BadRequest(f"answered: {error}") from error
