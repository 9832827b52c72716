"""Strict reading that finds every fault, each with its file and line. Pure."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import yaml

from adapters.plain_yaml import InvalidYaml, load_yaml

T = TypeVar("T", bound=msgspec.Struct)
_PATH = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\[(\d+|\.\.\.)\]")
MAX_KEYS = 100
"""Keys of the whole: no document has as many."""
_LINE = re.compile(r" \(line (\d+)\)")


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong with a task's folder, and where."""

    file: str
    line: int
    """From 1; 0 for the whole file."""
    problem: str

    def __str__(self) -> str:
        return f"{self.file}{f':{self.line}' if self.line else ''}: {self.problem}"


def read_yaml(file: str, text: str, kind: type[T]) -> tuple[T | None, list[Problem], "Lines"]:
    """The struct that a YAML map writes, or everything that keeps it from being one."""
    try:
        fields = load_yaml(text)
    except InvalidYaml as error:
        found = _LINE.search(error.message)
        line = int(found[1]) if found else 0
        return None, [Problem(file, line, _LINE.sub("", error.message))], Lines({})
    if not isinstance(fields, dict):
        return None, [Problem(file, 1, "It is no map of keys to values.")], Lines({})
    if len(fields) > MAX_KEYS:
        return None, [Problem(file, 1, f"It has more than {MAX_KEYS} keys.")], Lines({})
    lines = Lines(dict(_marks((), yaml.compose(text, yaml.CSafeLoader))))
    problems = [Problem(file, lines.of(path), said) for path, said in _faults(fields, kind)]
    return (None if problems else msgspec.convert(fields, kind)), problems, lines


class Lines:
    """The lines at which the values of a YAML document stand."""

    def __init__(self, known: dict[tuple[str, ...], int]) -> None:
        self._known = known

    def of(self, path: tuple[str, ...]) -> int:
        """The line of a value, or of what it would stand in."""
        while path and path not in self._known:
            path = path[:-1]
        return self._known.get(path, 1)


def fault_of(value: Any, kind: Any) -> tuple[tuple[str, ...], str] | None:
    """Where in `value`, read as `kind`, something is wrong, and what; None if nothing is."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return _said(error)
    return None


def _faults(
    fields: dict[Any, Any], kind: type[msgspec.Struct]
) -> Iterator[tuple[tuple[str, ...], str]]:
    known = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key, value in fields.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"Perhaps {near[0]}." if near else f"The keys are {', '.join(known)}."
            yield (str(key),), f"There is no key {str(key)[:60]!r}. {hint}"
        elif (wrong := fault_of(value, known[key].type)) is not None:
            path, said = wrong
            yield (key, *path), f"{'.'.join((key, *path))}: {said}"
    for name, field in known.items():
        if field.required and name not in fields:
            yield (), f"It lacks the key {name!r}."


def _said(error: msgspec.ValidationError) -> tuple[tuple[str, ...], str]:
    """The path and the words of msgspec's error."""
    text = str(error)
    found = _PATH.search(text)
    steps = _STEP.findall(found["path"]) if found else []
    path = tuple(name or number for name, number in steps)
    return path, f"{_PATH.sub('', text)}."


def _marks(path: tuple[str, ...], node: Any) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every value's path with its line. The document is within plain_yaml's bounds."""
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            for where, line in _marks((*path, str(key.value)), value):
                # A block's value begins on the line below its key.
                yield where, key.start_mark.line + 1 if len(where) == len(path) + 1 else line
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _marks((*path, str(number)), value)
