"""The log against a model: several writers, lost replies, cuts, crashes, spoilt checkpoints.

The model knows three things of every command: acknowledged, refused, or nobody knows. The log must
hold all of the first, none of the second, and of the third each at most once.
"""

import contextlib
import itertools
import os
import shutil
import tempfile
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from registry.errors import Conflict, StoreError
from registry.log import checkpoints
from registry.log.commits import CommitLog
from registry.maintain.verify import verify
from registry.model.domains import CreateDomain, DomainCreated
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import LocalStore, ObjectStore, open_store
from tests.support.faults import FaultyStore
from tests.support.s3 import BUCKET, S3Server

WRITERS = 3
faults = st.lists(
    st.sampled_from(["none", "none", "lost before", "lost after", "refused", "cut"]), max_size=5
)
writers = st.integers(0, WRITERS - 1)


class LogMachine(RuleBasedStateMachine):
    """Commands given to any of several registries over one store."""

    def open_store(self) -> ObjectStore:
        self.folder = tempfile.mkdtemp(prefix="lorary-model-")
        return LocalStore(Path(self.folder))

    @initialize()
    def begin(self) -> None:
        self.store = self.open_store()
        self.operator = Registry.create(self.store, name="model", key_name="operator").id
        self.faulty = [FaultyStore(self.store) for _ in range(WRITERS)]
        self.registries = [self.open_registry(number) for number in range(WRITERS)]
        self.names = (f"d{number}" for number in itertools.count())
        self.acknowledged: set[str] = set()
        self.unknown: set[str] = set()
        self.spoilt: set[str] = set()
        """Keys of checkpoints that were changed behind the registry's back."""

    def open_registry(self, number: int) -> Registry:
        store: Any = self.faulty[number]
        return Registry(store)

    def give(self, number: int, name: str, policy: Policy) -> bool:
        """Whether the command was acknowledged as having caused something."""
        try:
            events = self.registries[number].execute(CreateDomain(name, policy), self.operator)
        except Conflict:
            return False
        except StoreError:
            self.unknown.add(name)
            return False
        self.acknowledged.add(name)
        return bool(events)

    @rule(writer=writers, plan=faults)
    def command(self, writer: int, plan: list[Any]) -> None:
        name = next(self.names)
        self.faulty[writer].plan(plan)
        self.give(writer, name, Policy())
        self.faulty[writer].plan([])

    @rule(plans=st.lists(faults, min_size=WRITERS, max_size=WRITERS))
    def race_for_one_name(self, plans: list[list[Any]]) -> None:
        name = next(self.names)
        for store, plan in zip(self.faulty, plans, strict=True):
            store.plan(plan)
        with ThreadPoolExecutor(WRITERS) as pool:
            won = list(pool.map(lambda n: self.give(n, name, Policy(approvals=n)), range(WRITERS)))
        for store in self.faulty:
            store.plan([])
        assert won.count(True) <= 1

    @rule(writer=writers)
    def crash_and_restart(self, writer: int) -> None:
        self.registries[writer] = self.open_registry(writer)

    @rule()
    def write_a_checkpoint_that_nothing_confirms(self) -> None:
        checkpoints.write(self.store, checkpoints.make(self.registries[0].refresh()))

    @rule()
    def spoil_every_checkpoint(self) -> None:
        for info in list(self.store.list("checkpoints/0")):
            data = self.store.get(info.key).replace(b'"keys":{', b'"keys":{},"x":{')
            self.store.put(info.key, data, "overwrite")
            self.spoilt.add(info.key)

    @rule(garbage=st.sampled_from([b"", b"7", b"999999", b"not a number"]))
    def spoil_the_checkpoint_hint(self, garbage: bytes) -> None:
        self.store.put(checkpoints.LATEST, garbage, "overwrite")

    @invariant()
    def everyone_sees_the_same_log_and_it_keeps_its_promises(self) -> None:
        log, created = CommitLog(self.store), Counter[str]()
        for sequence in itertools.count(1):
            stored = log.read(sequence)
            if stored is None:
                break
            for entry in stored.commit.entries:
                if isinstance(entry.event, DomainCreated):
                    created[entry.event.domain] += 1
        assert all(count == 1 for count in created.values()), "a command took effect twice"
        assert self.acknowledged <= created.keys(), "what was acknowledged is lost"
        assert created.keys() <= self.acknowledged | self.unknown, "what was refused is there"
        views = [registry.refresh() for registry in self.registries]
        assert all(view == views[0] for view in views)
        assert views[0] == checkpoints.load(self.store)

    def teardown(self) -> None:
        findings = verify(self.store).findings
        # Of a confirmed checkpoint `verify` says that it was changed, and of nothing else.
        assert all(any(key in finding for key in self.spoilt) for finding in findings), findings
        for registry in self.registries:
            registry.close()
        with contextlib.suppress(AttributeError):
            shutil.rmtree(self.folder)


@pytest.fixture(autouse=True)
def frequent_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "EVERY", 3)


def test_the_log_keeps_its_promises_whatever_the_store_does() -> None:
    run_state_machine_as_test(
        LogMachine, settings=settings(max_examples=30, stateful_step_count=20, deadline=None)
    )


@pytest.mark.usefixtures("s3")
def test_the_log_keeps_its_promises_on_s3(s3: S3Server) -> None:
    class OnS3(LogMachine):
        def open_store(self) -> ObjectStore:
            return open_store(
                f"s3://{BUCKET}/{uuid.uuid4().hex}", s3_endpoint=os.environ["LORARY_S3_ENDPOINT"]
            )

    run_state_machine_as_test(
        OnS3, settings=settings(max_examples=5, stateful_step_count=10, deadline=None)
    )
