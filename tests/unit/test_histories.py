"""Random histories of every command: what no order of them can break. Generated from the
definitions, so that a command which is new is driven, too."""

import json
import random
from functools import cache
from typing import get_args

import msgspec
import pytest

from adapters.fields import problem
from registry.audit import described
from registry.errors import Forbidden
from registry.http.views import commit_view
from registry.log.commits import Commit, Stored, decode, follow
from registry.maintain.auditing import audit
from registry.model.base import Entry
from registry.model.catalog import Catalog
from registry.model.creation import CreateRegistry
from registry.model.index import Index, Kind
from registry.model.machine import commands, decide, events
from tests.support.histories import History

LATER = "2099-01-01T00:00:00Z"
STEPS = 2000
SEEDS = range(4)
ENOUGH = 40
"""Histories in which even the rarest command is accepted, and the rarest fact is found, once."""


@cache
def grown(seed: int) -> History:
    """A history of some hundred accepted commands and many refused ones."""
    made = History(random.Random(seed))
    made.begin()
    for _ in range(STEPS):
        made.step()
    return made


@pytest.fixture(params=SEEDS)
def history(request: pytest.FixtureRequest) -> History:
    """One of the histories."""
    return grown(request.param)


def test_every_command_is_accepted_and_refused_somewhere_in_the_histories() -> None:
    accepted, refused = set[str](), {"CreateRegistry"}
    for seed in range(ENOUGH):
        made = grown(seed)
        accepted |= {type(step.command).__name__ for step in made.steps}
        refused |= {type(command).__name__ for command, _ in made.refused}
        if commands().keys() <= accepted & refused:
            break
    assert commands().keys() - accepted == set()
    assert commands().keys() - refused == set()
    assert {command.event.__name__ for command in commands().values()} == events().keys()


def test_what_is_accepted_is_within_the_limits_of_its_fields(history: History) -> None:
    for step in history.steps:
        assert problem(step.command) is None


def test_a_command_that_is_repeated_at_once_changes_nothing_more(history: History) -> None:
    again = History(random.Random(0))
    for step in history.steps:
        assert again.give(step.command, step.actor) is not None
        assert not again.give(step.command, step.actor), step.command


def test_the_log_holds_the_whole_state_and_each_event_would_be_decided_again(
    history: History,
) -> None:
    state = Catalog()
    for number, step in enumerate(history.steps, start=1):
        entries = tuple(Entry(step.actor, event, event.optional) for event in step.events)
        commit = Commit(
            sequence=number, id=str(number), time=step.time, previous=state.head, entries=entries
        )
        stored = decode(msgspec.json.encode(commit), number)
        assert stored.commit == commit
        assert audit(state, commit) == []
        state = follow(state, stored)
    for table in Catalog.__struct_fields__:
        if table in ("sequence", "head", "time"):
            continue
        assert getattr(state, table) == getattr(history.catalog, table), table


def test_the_index_that_grew_with_the_events_is_that_of_the_whole_state() -> None:
    kinds = set[str]()
    for seed in range(ENOUGH):
        catalog = grown(seed).catalog
        index: Index = catalog.__dict__["index"]
        assert dict(index.items()) == dict(Index.of(catalog).items())
        kinds |= {kind for _, entries in index.items() for kind, _ in entries}
        if seed >= max(SEEDS) and kinds == set(get_args(Kind)):
            break
    assert kinds == set(get_args(Kind))


def test_a_state_survives_its_checkpoint(history: History) -> None:
    kept = msgspec.json.decode(msgspec.json.encode(history.catalog), type=Catalog)
    assert kept == history.catalog


def test_the_audit_log_shows_every_event_and_no_secret(history: History) -> None:
    reader = history.catalog.keys["operator"]
    for number, step in enumerate(history.steps, start=1):
        entries = tuple(Entry(step.actor, event) for event in step.events)
        commit = Commit(sequence=number, id="x", time=step.time, previous=None, entries=entries)
        shown = commit_view(Stored(commit, "0" * 64), history.catalog, reader)
        json.dumps(shown)
        for entry in shown["entries"]:
            assert all(len(text) <= 300 for _, text in described(entry["event"]))
            assert "secret" not in json.dumps(entry)


def test_nobody_creates_a_registry_twice(history: History) -> None:
    with pytest.raises(Forbidden, match="holder of the store"):
        decide(history.catalog, CreateRegistry("r", "k", "k", "0" * 64), "operator", LATER)
