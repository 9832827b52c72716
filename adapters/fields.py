"""Field types with bounds, and one check of any value against the bounds of its fields. Pure.

The types annotate the fields of commands, of what events are made of, and of request bodies. They
are enforced by pydantic on a body, and by `problem` on any value that is about to become an event.
msgspec ignores them, so events that an earlier release wrote with laxer bounds can still be read.
"""

import dataclasses
import types
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeAlias,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen, Predicate

DIGEST_PATTERN = "^[0-9a-f]{64}$"
"""`Digest` as a regular expression, for OpenAPI."""
MAX_COUNT = 1 << 53
"""The highest count. Above it, JSON's readers round numbers, as doubles."""


def is_hexadecimal(text: str) -> bool:
    """Whether `text` holds lower-case hexadecimal digits only."""
    return set(text) <= set("0123456789abcdef")


def is_text(text: str) -> bool:
    """Whether `text` can be encoded: it holds no lone surrogates."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def is_line(text: str) -> bool:
    """Whether `text` is one line without control or other invisible characters but spaces."""
    return text.isprintable() or all(
        letter.isprintable() or unicodedata.category(letter) == "Zs" for letter in text
    )


PREDICATES: dict[Callable[[Any], bool], str] = {
    is_hexadecimal: "hold lower-case hexadecimal digits only",
    is_line: "be one line without control characters",
    is_text: "hold no lone surrogates",
}
"""What each predicate requires, to be read after "must"."""

Digest = Annotated[str, MinLen(64), MaxLen(64), Predicate(is_hexadecimal)]
"""A SHA-256 in lower-case hexadecimal."""
Name = Annotated[str, MinLen(1), MaxLen(200), Predicate(is_line)]
"""A name of one line. Commands check further rules, such as those of adapters' names."""
ShortText = Annotated[str, MaxLen(200), Predicate(is_text)]
"""A short text that may be empty."""
FilePath = Annotated[str, MinLen(1), MaxLen(500), Predicate(is_text)]
"""A file's path in a version or a task. What paths are accepted is checked where files are."""
Url = Annotated[str, MinLen(1), MaxLen(500), Predicate(is_text)]
"""An address; the command that takes it checks its form."""
Reason = Annotated[str, MinLen(1), MaxLen(1000), Predicate(is_text)]
"""A sentence or two that must be given."""
Comment = Annotated[str, MaxLen(2000), Predicate(is_text)]
"""A longer text that may be empty."""
Pem = Annotated[str, MaxLen(4000), Predicate(is_text)]
"""A public key in PEM."""
Count = Annotated[int, Ge(0), Le(MAX_COUNT)]
"""How many, or how many bytes."""
Number = Annotated[int, Ge(1), Le(MAX_COUNT)]
"""The number of a version or a split, or a size of at least one."""
Share = Annotated[float, Ge(0), Le(1)]
"""A share or a probability."""
Finite = Annotated[float, Ge(-1e300), Le(1e300)]
"""Any number but NaN and the infinities."""
DesignEffect = Annotated[float, Ge(1), Le(1e9)]
"""A design effect: by how much grouped items inflate a variance (Kish, Survey Sampling, 1965)."""

_TYPES: dict[type, str] = {
    bool: "true or false",
    dict: "a map",
    float: "a number",
    int: "an integer",
    str: "text",
    tuple: "a list",
    type(None): "null",
}
"""What each type is called in a message."""

Check: TypeAlias = Callable[[Any, str], "str | None"]
"""Checks a value; its second argument is the value's path, for the message. Returns what is wrong
with it, or None."""


def problem(value: Any) -> str | None:
    """What is wrong with the first field of `value` that is out of bounds; None if none is.

    value: a dataclass or a msgspec struct. Raises `TypeError` if its class has a field without a
    bound.
    """
    kind: Any = type(value)
    return _check_for(kind)(value, "")


@cache
def _check_for(kind: Any) -> Check:
    """The check for values of a type. Raises `TypeError` if the type has no bound."""
    if kind in (bool, type(None)):
        return _instance((kind,))
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _annotated(parts[0], parts[1:])
    if origin is Literal:
        return lambda value, at: None if value in parts else f"{at} must be one of {parts}"
    if origin in (Union, types.UnionType):
        return _optional(parts)
    if origin is tuple and Ellipsis not in parts:
        return _pair(parts)
    if isinstance(kind, type) and (
        dataclasses.is_dataclass(kind) or issubclass(kind, msgspec.Struct)
    ):
        return _record(kind)
    raise TypeError(f"a field of type {kind} has no bound")


def _instance(kinds: tuple[type, ...]) -> Check:
    wanted = _TYPES.get(kinds[-1], kinds[-1].__name__)

    def check(value: Any, at: str) -> str | None:
        return None if isinstance(value, kinds) else f"{at} must be {wanted}"

    return check


def _annotated(kind: Any, bounds: tuple[Any, ...]) -> Check:
    """The check for a text, number, list or table with its bounds."""
    given = {type(bound) for bound in bounds}
    origin, parts = get_origin(kind) or kind, get_args(kind)
    sized = origin in (str, tuple, dict)
    if not (MaxLen in given if sized else given & {Ge, Gt} and given & {Le, Lt}):
        raise TypeError(f"a field of type {kind} has no bound")
    of_type = _instance((int, float) if origin is float else (origin,))
    inner = [_check_for(part) for part in parts if part is not Ellipsis]

    def check(value: Any, at: str) -> str | None:
        if wrong := of_type(value, at):
            return wrong
        for bound in bounds:
            if not _holds(bound, value):
                return f"{at} must {_words(bound)}"
        members = value.items() if origin is dict else ((m,) for m in value) if inner else ()
        for place, member in enumerate(members):
            for one, part in zip(inner, member, strict=True):
                if wrong := one(part, f"{at}.{place}"):
                    return wrong
        return None

    return check


def _holds(bound: Any, value: Any) -> bool:
    match bound:
        case MaxLen(most):
            return len(value) <= most
        case MinLen(least):
            return len(value) >= least
        case Ge(least):
            return bool(value >= least)
        case Gt(least):
            return bool(value > least)
        case Le(most):
            return bool(value <= most)
        case Lt(most):
            return bool(value < most)
        case Predicate(holds):
            return bool(holds(value))
    raise TypeError(f"{bound} is no bound")


def _words(bound: Any) -> str:
    match bound:
        case MaxLen(most):
            return f"have a length of at most {most}"
        case MinLen(least):
            return f"have a length of at least {least}"
        case Ge(number) | Gt(number):
            return f"be above {number}" if isinstance(bound, Gt) else f"be at least {number}"
        case Le(number) | Lt(number):
            return f"be below {number}" if isinstance(bound, Lt) else f"be at most {number}"
        case _:
            return PREDICATES[bound.func]


def _optional(parts: tuple[Any, ...]) -> Check:
    (inner,) = (_check_for(part) for part in parts if part is not type(None))
    return lambda value, at: None if value is None else inner(value, at)


def _pair(parts: tuple[Any, ...]) -> Check:
    checks = [_check_for(part) for part in parts]

    def check(value: Any, at: str) -> str | None:
        if not isinstance(value, tuple) or len(value) != len(checks):
            return f"{at} must have {len(checks)} members"
        found = (one(part, at) for one, part in zip(checks, value, strict=True))
        return next((wrong for wrong in found if wrong), None)

    return check


def _record(kind: type) -> Check:
    checks = dict(_fields(kind))

    def check(value: Any, at: str) -> str | None:
        if not isinstance(value, kind):
            return f"{at} must be a {kind.__name__}"
        for name, one in checks.items():
            if wrong := one(getattr(value, name), f"{at}.{name}".lstrip(".")):
                return wrong
        return None

    return check


def _fields(kind: type) -> Iterator[tuple[str, Check]]:
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if get_origin(hint) is ClassVar:
            continue
        try:
            yield name, _check_for(hint)
        except TypeError as error:
            raise TypeError(f"{kind.__name__}.{name}: {error}") from error
