"""Random histories of a registry, generated from the definitions of its commands.

A field gets a value of its type or, mostly, one that an earlier event holds under the same name:
so that versions, digests and reviews which exist are named often, and a new command is covered
without being named here.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from annotated_types import MaxLen, MinLen

from adapters.errors import LoraryError
from registry import times
from registry.model.access import ANY_DOMAIN, BOOTSTRAP, ROLES
from registry.model.base import Command, Entry, Event
from registry.model.bases import RegisterBase
from registry.model.catalog import Catalog, Grant
from registry.model.comparisons import Comparison
from registry.model.creation import CreateRegistry
from registry.model.evidence import TaskSuite
from registry.model.keys import IssueKey, permanent_operators
from registry.model.machine import commands, decide, fold
from registry.model.trials import Arm, Bounds, Evidence

WORDS: dict[str, Sequence[Any]] = {"domain": ("medical", "legal"), "adapter": ("coder", "other"),
         "alias": ("production", "beta"), "base": ("tiny",), "expires": (None,),
         "answered": ("2026-11-24T00:00:00Z", 1_780_000_000), "guarded_role": ("publish",),
         "role": ROLES, "guarded": (("production",), ()), "signers": ((),),
         "signature_required": (False,), "approvers": ({},), "card_sections": ((),),
         "held_out": ("a" * 64,), "suites": ((), (TaskSuite("s", "a" * 64, "b" * 64, 1),)),
         "approvals": (0, 1), "reviewed_items": (0,), "bounds": (Bounds(min_requests=1), None),
         "evidence": (Evidence(candidate=Arm(requests=90, errors=80), stable=Arm(requests=90)),),
         "split": range(1, 6), "share": (0.1, 1.0),
         "seen": (Comparison(dropped=1), Comparison(compared=2, texts=2, same_first=1)),
         "url": ("https://hooks.example/a", "https://hooks.example/b"),
         "after": (None, 0), "through": (1, 2, 3, 1_000_000)}  # fmt: skip
"""What fields hold whose meaning their type does not tell, by name."""
SEEN = {"item": "items", "candidate": "version", "name": "base", "report": "content",
        "versions": "version", "asker": "key"}  # fmt: skip
"""Under which name of an earlier event a field's value is looked for, if not its own."""


@dataclass
class Step:
    """A command that was carried out."""

    command: Command
    actor: str
    time: str
    events: tuple[Event, ...]


@dataclass
class History:
    """A registry that grows by random commands."""

    chance: random.Random
    catalog: Catalog = field(default_factory=Catalog)
    steps: list[Step] = field(default_factory=list)
    refused: list[tuple[Command, LoraryError]] = field(default_factory=list)
    seen: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    accepted: Counter[type[Command]] = field(default_factory=Counter)
    hired: list[str] = field(default_factory=list)
    hours: int = 0

    def begin(self) -> None:
        """A registry with keys of a few people."""
        self.give(CreateRegistry("r", "operator", "op", "0" * 64), BOOTSTRAP)
        self.give(RegisterBase("tiny", "0" * 64, "1" * 64), "operator")
        self._hire()

    def step(self) -> None:
        """A random command by a random actor, mostly one whose key is not revoked."""
        if self.chance.random() < 0.03:
            self._hire()
        kinds = [kind for kind in commands().values() if kind is not CreateRegistry]
        rarely = [(1 + self.accepted[kind]) ** -0.5 for kind in kinds]
        (kind,) = self.chance.choices(kinds, rarely)
        hired = [key for key in self.hired[-4:] if self.catalog.keys[key].revoked is None]
        operators = permanent_operators(self.catalog)[:1] * 2
        anybody = [*self.catalog.keys]
        actor = self.chance.choice(hired + operators if self.chance.random() < 0.8 else anybody)
        if kind.given_by is not None and self.chance.random() < 0.5:
            actor = kind.given_by
        command, before = self.command(kind)
        # What somebody did, they alone may undo.
        self.give(command, before if before and self.chance.random() < 0.5 else actor)

    def _hire(self) -> None:
        """Somebody new, who may do all but operate."""
        name = f"person {self.hours}"
        grants = tuple(Grant(role, ANY_DOMAIN) for role in ROLES if role != "operate")
        self.hired.append(f"k{self.hours}")
        operator = permanent_operators(self.catalog)[0]
        self.give(IssueKey(self.hired[-1], name, "0" * 64, grants), operator)

    def give(self, command: Command, actor: str) -> tuple[Event, ...] | None:
        """Carry out a command; None if it was refused, by an error of ours and no other."""
        self.hours += 1
        now = times.write(datetime(2026, 11, 24, tzinfo=UTC) + timedelta(hours=self.hours))
        try:
            events = decide(self.catalog, command, actor, now)
        except LoraryError as refusal:
            self.refused.append((command, refusal))
            return None
        if not events:
            return events
        entries = [Entry(actor, event) for event in events]
        self.catalog = fold(self.catalog, entries, now).changed(
            sequence=self.catalog.sequence + 1,
            time=now,
        )
        self.steps.append(Step(command, actor, now, events))
        self.accepted[type(command)] += 1
        for event in events:
            for name, value in _values(event):
                if value is not None and value not in self.seen[name]:
                    self.seen[name].append(value)
        return events

    def command(self, kind: type[Command]) -> tuple[Command, str | None]:
        """A command of that kind, often about what one earlier event is about; and who caused
        that."""
        fields = self._fields(kind)
        earlier = [(event, step.actor) for step in self.steps[-200:] for event in step.events]
        like, before = None, None
        if earlier and self.chance.random() < 0.6:
            like, before = self.chance.choice(earlier)
        for name, hint in _hints(kind).items():
            value = getattr(like, name, None)
            usual = name not in WORDS or value in WORDS[name]
            if name in fields and value is not None and usual and _is(hint, value):
                fields[name] = value
        for running in (self._running_split, self._known_shadow):
            if fields.keys() & {"split", "shadow"} and self.chance.random() < 0.5:
                fields |= running(fields)
        return kind(**fields), before

    def _running_split(self, names: Iterable[str]) -> dict[str, Any]:
        """Those fields of a running split, if there is one: by chance they rarely agree."""
        running = [
            {"domain": adapter.domain, "adapter": adapter.name, "alias": alias,
             "candidate": split.candidate, "split": split.number}
            for adapter in self.catalog.adapters.values()
            for alias, split in adapter.splits.items()
        ]  # fmt: skip
        one = self.chance.choice(running) if running else {}
        return {name: value for name, value in one.items() if name in names}

    def _known_shadow(self, names: Iterable[str]) -> dict[str, Any]:
        """The same of a shadow."""
        known = [
            {"domain": adapter.domain, "adapter": adapter.name, "alias": shadow.alias,
             "shadow": shadow.number}
            for adapter in self.catalog.adapters.values()
            for shadow in adapter.shadows
        ]  # fmt: skip
        one = self.chance.choice(known) if known else {}
        return {name: value for name, value in one.items() if name in names}

    def _fields(self, kind: type) -> dict[str, Any]:
        return {
            name: self._value(name, hint)
            for name, hint in _hints(kind).items()
            if get_origin(hint) is not ClassVar
            and (name in _required(kind) or self.chance.random() < 0.7)
        }

    def _value(self, name: str, hint: Any) -> Any:
        if name == "read_at":
            return self.catalog.sequence
        if name in WORDS and _fits(hint, WORDS[name]):
            return self.chance.choice([w for w in WORDS[name] if _is(hint, w)])
        known = self.seen.get(SEEN.get(name, name), ())
        if name == "versions" and known:
            return tuple(self.chance.sample(known, min(len(known), self.chance.choice((1, 2)))))
        known = [value for value in known if _is(hint, value)]
        if known and self.chance.random() < 0.85:
            return self.chance.choice(known)
        return self._made(name, hint)

    def _made(self, name: str, hint: Any) -> Any:
        """A value of a type, within its limits."""
        chance, origin, parts = self.chance, get_origin(hint), get_args(hint)
        if origin is Annotated:
            return self._bounded(name, parts[0], parts[1:])
        if origin is Literal:
            return chance.choice(parts)
        if origin in (Union, UnionType):
            some = [part for part in parts if part is not type(None)]
            return self._value(name, some[0]) if chance.random() < 0.7 else None
        if hint is bool:
            return chance.random() < 0.5
        if origin is tuple:
            return tuple(self._value(name, part) for part in parts)
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            return hint(**self._fields(hint))
        raise TypeError(f"{name}: {hint}")

    def _bounded(self, name: str, kind: Any, bounds: tuple[Any, ...]) -> Any:
        chance = self.chance
        limits: dict[str, Any] = {
            name: getattr(bound, name)
            for bound in bounds
            for name in ("ge", "gt", "le", "lt")
            if hasattr(bound, name)
        }
        low = float(limits.get("ge", limits.get("gt", 0) + 1e-9))
        high = float(limits.get("le", limits.get("lt", 1) - 1e-9))
        least = next((b.min_length for b in bounds if isinstance(b, MinLen)), 0)
        most = next((b.max_length for b in bounds if isinstance(b, MaxLen)), 0)
        origin, parts = get_origin(kind) or kind, get_args(kind)
        if origin is int:
            return chance.randint(int(low), int(min(high, low + chance.choice((2, 30)))))
        if origin is float:
            return chance.uniform(low, min(high, 1e6))
        if origin is str:
            digits = "0123456789abcdef"
            return "".join(chance.choice(digits) for _ in range(max(least, min(12, most))))
        count = chance.randint(least, min(most, least + 2))
        if origin is tuple:
            made = [self._value(name.removesuffix("s"), parts[0]) for _ in range(count)]
            return tuple(m for place, m in enumerate(made) if m not in made[:place])
        assert origin is dict
        return {self._value(name, parts[0]): self._value(name, parts[1]) for _ in range(count)}


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


@cache
def _required(kind: type) -> set[str]:
    return {f.name for f in msgspec.structs.fields(kind) if f.required}


def _values(event: Event) -> Iterator[tuple[str, Any]]:
    """Names and values of an event's fields; of a tuple its members, too."""
    for name in event.__struct_fields__:
        value = getattr(event, name)
        yield name, value
        if isinstance(value, tuple):
            for member in value:
                yield name, member


def _fits(hint: Any, words: Iterable[Any]) -> bool:
    return any(_is(hint, word) for word in words)


def _is(hint: Any, value: Any) -> bool:
    """Whether a value is of a type; limits are left to the command's own check."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _is(parts[0], value)
    if origin is Literal:
        return value in parts
    if origin in (Union, UnionType):
        return any(_is(part, value) for part in parts)
    if origin in (tuple, dict):
        return isinstance(value, origin) and (
            origin is dict or all(_is(parts[0], member) for member in value)
        )
    if hint is type(None):
        return value is None
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(hint, type) and isinstance(value, hint)
