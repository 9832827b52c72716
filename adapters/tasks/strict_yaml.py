"""Reads YAML into a struct strictly, and reports every problem with its file and line. Pure."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import yaml

from adapters.plain_yaml import InvalidYaml, load_yaml

T = TypeVar("T", bound=msgspec.Struct)
_AT_PATH = re.compile(r" - at `\$(?P<path>[^`]*)`$")
"""Where msgspec's error says which value is wrong, as a path from `$`."""
_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\[(\d+|\.\.\.)\]")
"""One step of that path: a field's name, or an element's number."""
MAX_KEYS = 100
"""Most keys at the top of a document, far above what any struct has."""
_LINE = re.compile(r" \(line (\d+)\)")
"""The line in a message of `plain_yaml`."""


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
    """Read a YAML map as a struct.

    file: its name in problems. kind: the struct's type.
    Returns the struct, or None if there are problems; the problems; and the lines of the document's
    values, for problems that are found later. Never raises for what is in `text`.
    """
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
    lines = Lines(dict(_value_lines((), yaml.compose(text, yaml.CSafeLoader))))
    problems = [Problem(file, lines.of(path), said) for path, said in _faults(fields, kind)]
    return (None if problems else msgspec.convert(fields, kind)), problems, lines


class Lines:
    """The line of each value in a YAML document."""

    def __init__(self, known: dict[tuple[str, ...], int]) -> None:
        """known: lines, from 1, by the path of keys and element numbers to the value."""
        self._known = known

    def of(self, path: tuple[str, ...]) -> int:
        """The line of the value at `path`; of the nearest value around it if it is missing."""
        while path and path not in self._known:
            path = path[:-1]
        return self._known.get(path, 1)


def fault_of(value: Any, kind: Any) -> tuple[tuple[str, ...], str] | None:
    """The path and the description of the first fault in `value`, converted to the type `kind`.

    None if there is none.
    """
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return _split_error(error)
    return None


def _faults(
    fields: dict[Any, Any], kind: type[msgspec.Struct]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """The path and the description of everything that keeps `fields` from being a `kind`."""
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


def _split_error(error: msgspec.ValidationError) -> tuple[tuple[str, ...], str]:
    """The path and the description in msgspec's error."""
    text = str(error)
    found = _AT_PATH.search(text)
    steps = _STEP.findall(found["path"]) if found else []
    path = tuple(name or number for name, number in steps)
    return path, f"{_AT_PATH.sub('', text)}."


def _value_lines(path: tuple[str, ...], node: Any) -> Iterator[tuple[tuple[str, ...], int]]:
    """The path and the line of every value in `node`, which stands at `path`.

    The depth of the recursion is bounded: `plain_yaml` has read the document before.
    """
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            for where, line in _value_lines((*path, str(key.value)), value):
                # A block's value begins on the line below its key.
                yield where, key.start_mark.line + 1 if len(where) == len(path) + 1 else line
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _value_lines((*path, str(number)), value)
