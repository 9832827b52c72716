"""Every field of what may enter the log has a bound, and so has a commit."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from annotated_types import Ge, Le, MaxLen

from adapters import fields
from adapters.fields import Count, Digest, Name, Share
from registry import errors
from registry.log.commits import MAX_COMMIT, CommitLog
from registry.model import suite_rules
from registry.model.base import Entry
from registry.model.catalog import Grant
from registry.model.evaluations import RecordEvaluation
from registry.model.evidence import Paired, SuiteResult, Tally
from registry.model.feedback import FeedbackGiven
from registry.model.keys import IssueKey
from registry.model.machine import commands, decide
from registry.registry import Registry
from registry.store import LocalStore
from registry.web.rendering import _interval
from tests.unit.test_gates import METER, NOW, digest, start

GRANTS = (Grant("infer", "medical"),)


@pytest.mark.parametrize("command", commands().values(), ids=lambda kind: kind.__name__)
def test_every_field_of_a_command_has_a_bound(command: type) -> None:
    fields._check_for(command)  # raises TypeError with the field's name


@pytest.mark.parametrize(
    "kind",
    [str, int, float, Annotated[str, Ge(0)], Annotated[int, Ge(0)], tuple[Count, ...],
     Annotated[dict[str, Count], MaxLen(1)], dict[Name, Count], list[Name], Any],
)  # fmt: skip
def test_a_field_without_a_bound_is_found(kind: Any) -> None:
    @dataclass
    class Made:
        field: kind  # a type of this test

    with pytest.raises(TypeError, match=r"Made\.field"):
        fields.problem(Made(None))


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Digest, "0" * 64, ["0" * 63, "0" * 65, "G" * 64, "\uff10" * 64, 1, None]),
        (Name, "a name", ["", "x" * 201, "a\nb", "\x1b[31m", "\ud800", b"x"]),
        (Count, 0, [-1, 10**400, 1.5, "1"]),
        (Share, 0.5, [float("nan"), float("inf"), -0.1, 1.1]),
        (Annotated[tuple[Count, ...], MaxLen(2)], (1, 2), [(1, 2, 3), (1, -1), [1]]),
        (Annotated[dict[Name, Count], MaxLen(1)], {"a": 1}, [{"": 1}, {"a": -1}, {"a": 1, "b": 2}]),
        (tuple[Count, Share], (1, 0.5), [(1,), (1, 2), (1, 0.5, 0.5)]),
        (Count | None, None, [-1]),
        (Annotated[int, Ge(1), Le(3)], 3, [0, 4]),
    ],
)
def test_a_value_keeps_its_bound_or_is_named(kind: Any, good: Any, bad: list[Any]) -> None:
    assert fields._check_for(kind)(good, "it") is None
    for value in bad:
        assert "it" in (fields._check_for(kind)(value, "it") or "")


def results(digest: str, counts: int = 1) -> tuple[SuiteResult, ...]:
    tallies = {f"{'measure' * 10} {i}": Tally(1, 2) for i in range(counts)}
    return tuple(
        SuiteResult(suite=f"s{i}", digest=digest, held_out="b" * 64, tallies=tallies)
        for i in range(100)
    )


def test_an_evaluation_of_many_megabytes_is_refused() -> None:
    catalog = start()
    for found, refusal in (
        (results("x" * 700_000), errors.BadRequest),
        (results("a" * 64, counts=100), errors.TooLarge),
    ):
        command = RecordEvaluation("medical", "coder", 1, digest(1), "c" * 64, found)
        with pytest.raises(refusal):
            decide(catalog, command, METER, NOW)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    store = LocalStore(tmp_path / "store")
    Registry.create(store, name="r", key_name="op")
    made = Registry(store)
    yield made
    made.close()


def test_a_commit_above_its_limit_is_not_written(registry: Registry) -> None:
    catalog = registry.refresh()
    opinion = FeedbackGiven(
        domain="d", adapter="a", version=1, response="x" * MAX_COMMIT, answered=0, asker="k",
        rating="positive",
    )  # fmt: skip
    log = CommitLog(registry.store)
    with pytest.raises(errors.TooLarge):
        log.append(catalog, [Entry("op", opinion)], catalog.time)
    assert log.read(catalog.sequence + 1) is None


def test_numbers_that_an_older_release_accepted_break_nothing() -> None:
    huge = 10**400
    assert "%" in _interval(Tally(huge, huge))
    assert "%" in _interval(Tally(huge, huge, design_effect=float("inf")))
    assert suite_rules._floor("s", "accuracy", 0.6, Tally(huge, huge), 0.05).met
    pair = Paired(other="0" * 64, gained=huge, lost=0, n=huge)
    assert suite_rules._against("s", pair, 0.0, 0.05).met


def test_names_with_control_characters_are_refused() -> None:
    for name in ("[/x] \x1b[31mred", "two\nlines", "\u202ereversed"):
        command = IssueKey("k", name, "0" * 64, GRANTS)
        assert "name" in (fields.problem(command) or "")
