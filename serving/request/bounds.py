"""Kinds of bound on a field of a request body. Pure.

A bound checks a parsed JSON value and raises `InvalidField`, which names the field and the bound.
`str(bound)` is the bound in words; the documentation's table of bounds consists of these.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from registry.errors import BadRequest


class InvalidField(BadRequest):
    """A field of the body that is not within its bound."""

    def __init__(self, name: str, bound: object, remedy: str = "Send that.") -> None:
        super().__init__(f"`{name}` must be {bound}. {remedy}")
        self.param = name.partition(".")[0].partition("[")[0]


class Bound(Protocol):
    """What a field may hold."""

    def check(self, name: str, value: Any) -> None:
        """Raise `InvalidField` unless `value` is within the bound."""


@dataclass(frozen=True, slots=True)
class Text:
    """A string of at most `most` characters."""

    most: int

    def check(self, name: str, value: Any) -> None:
        """As `Bound`."""
        if not isinstance(value, str) or len(value) > self.most:
            raise InvalidField(name, self)

    def __str__(self) -> str:
        return f"a string of at most {self.most:,} characters"


@dataclass(frozen=True, slots=True)
class AnyText:
    """A string that only the size of the body and the model's context bound."""

    def check(self, name: str, value: Any) -> None:
        """As `Bound`."""
        if not isinstance(value, str):
            raise InvalidField(name, self)

    def __str__(self) -> str:
        return "a string"


@dataclass(frozen=True, slots=True)
class Whole:
    """An integer."""

    least: int
    most: int

    def check(self, name: str, value: Any) -> None:
        """As `Bound`; a boolean is no integer."""
        if type(value) is not int or not self.least <= value <= self.most:
            raise InvalidField(name, self)

    def __str__(self) -> str:
        return f"an integer from {self.least:,} to {self.most:,}"


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number."""

    least: float
    most: float

    def check(self, name: str, value: Any) -> None:
        """As `Bound`; a boolean is no number."""
        number = type(value) is int or (type(value) is float and math.isfinite(value))
        if not number or not self.least <= value <= self.most:
            raise InvalidField(name, self)

    def __str__(self) -> str:
        return f"a number from {self.least:g} to {self.most:g}"


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def check(self, name: str, value: Any) -> None:
        """As `Bound`."""
        if type(value) is not bool:
            raise InvalidField(name, self)

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of a few strings."""

    values: tuple[str, ...]

    def check(self, name: str, value: Any) -> None:
        """As `Bound`."""
        if not isinstance(value, str) or value not in self.values:
            raise InvalidField(name, self)

    def __str__(self) -> str:
        return " or ".join(f'"{value}"' for value in self.values)


@dataclass(frozen=True, slots=True)
class ListOf:
    """At most `most` values of one kind."""

    item: Bound
    most: int
    least: int = 0

    def check(self, name: str, value: Any) -> None:
        """As `Bound`."""
        if not isinstance(value, list) or not self.least <= len(value) <= self.most:
            raise InvalidField(name, self)
        for index, item in enumerate(value):
            self.item.check(f"{name}[{index}]", item)

    def __str__(self) -> str:
        count = f"{self.least} to {self.most:,}" if self.least else f"at most {self.most:,}"
        return f"a list of {count}, each {self.item}"


@dataclass(frozen=True, slots=True)
class MapOf:
    """An object of at most `most` members of one kind."""

    key: Callable[[str], bool]
    key_words: str
    value: Bound
    most: int

    def check(self, name: str, value: Any) -> None:
        """As `Bound`."""
        if not isinstance(value, dict) or len(value) > self.most:
            raise InvalidField(name, self)
        for key, item in value.items():
            if not self.key(key):
                raise InvalidField(name, self)
            self.value.check(f"{name}.{key[:60]}", item)

    def __str__(self) -> str:
        return f"an object of at most {self.most:,} members, {self.key_words}, each {self.value}"


@dataclass(frozen=True, slots=True)
class Shape:
    """An object with these members and no others; those in `needs` must be there."""

    members: Mapping[str, Bound]
    needs: tuple[str, ...] = ()

    def check(self, name: str, value: Any) -> None:
        """As `Bound`; a member that is null counts as absent."""
        if not isinstance(value, dict):
            raise InvalidField(name, self)
        for key, item in value.items():
            bound = self.members.get(key)
            if bound is None:
                raise InvalidField(f"{name}.{key[:60]}", "left out", "Leave it out.")
            if item is not None:
                bound.check(f"{name}.{key}", item)
        for key in self.needs:
            if value.get(key) is None:
                raise InvalidField(f"{name}.{key}", self.members[key])

    def __str__(self) -> str:
        members = "; ".join(f"`{name}`: {bound}" for name, bound in self.members.items())
        return f"an object ({members})"


@dataclass(frozen=True, slots=True)
class Either:
    """A value within one of several bounds; the first whose kind it has is the one that counts."""

    bounds: tuple[Bound, ...]

    def check(self, name: str, value: Any) -> None:
        """As `Bound`."""
        failures = []
        for bound in self.bounds:
            try:
                bound.check(name, value)
            except InvalidField as error:
                failures.append(error)
            else:
                return
        inside = next((error for error in failures if f"`{name}`" not in error.message), None)
        raise inside or InvalidField(name, self)

    def __str__(self) -> str:
        return ", or ".join(map(str, self.bounds))


@dataclass(frozen=True, slots=True)
class Checked:
    """A value that a function of its own checks."""

    words: str
    function: Callable[[str, Any], None] = field(repr=False)

    def check(self, name: str, value: Any) -> None:
        """As `Bound`."""
        self.function(name, value)

    def __str__(self) -> str:
        return self.words
