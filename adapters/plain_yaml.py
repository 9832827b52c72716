"""Reads untrusted YAML: maps, lists and scalars within bounds, nothing that expands or constructs.

Anchors, aliases and explicit tags are refused as the parser reports them, so that the same letters
inside quotes or text are accepted. Timestamps and merge keys are read as text. The parser is
libyaml; the bounds are checked event by event, before anything is built.
"""

from typing import Any

import yaml

from adapters.errors import LoraryError

MAX_BYTES = 256 << 10
"""Most bytes of a document in UTF-8."""
MAX_DEPTH = 32
"""Most levels of maps and lists within each other."""
MAX_NODES = 50_000
"""Most maps, lists, keys and scalars."""
MAX_NUMBER = 64
"""Most characters of one number: reading an integer takes time quadratic in them."""

_READ_AS_TEXT = (
    "tag:yaml.org,2002:timestamp",
    "tag:yaml.org,2002:merge",
    "tag:yaml.org,2002:value",
)


class InvalidYaml(LoraryError):
    """Text that is not YAML, or YAML beyond what is read here."""

    status = 400
    code = "invalid_yaml"


class _Loader(yaml.CSafeLoader):
    """The safe loader without timestamps and merge keys, and with bounded numbers."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML reads it from the class
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _READ_AS_TEXT]
        for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise InvalidYaml(f"A key occurs twice in the map{_at(node)}. Keep one of them.")
        return mapping

    def construct_number(self, node: Any) -> int | float:
        if len(node.value) > MAX_NUMBER:
            raise InvalidYaml(f"A number{_at(node)} is longer than {MAX_NUMBER} characters.")
        number: int | float = (
            self.construct_yaml_int(node)
            if node.tag == "tag:yaml.org,2002:int"
            else self.construct_yaml_float(node)
        )
        return number


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)


def load_yaml(text: str) -> Any:
    """Read one YAML document and return its value, None for an empty one.

    Raises `InvalidYaml` for text that is not YAML, has anchors, aliases, tags or a key twice in a
    map, or exceeds `MAX_BYTES`, `MAX_DEPTH`, `MAX_NODES` or `MAX_NUMBER`. The message says where.
    """
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise InvalidYaml(f"The YAML has more than {MAX_BYTES} bytes. Shorten it.")
    try:
        _check_events(text)
        return yaml.load(text, _Loader)  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        reason = f"{error.problem or error.context}{_at(error)}"
        raise InvalidYaml(f"It is not valid YAML: {reason}. Correct it.") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise InvalidYaml("It is not valid YAML. Check its characters and numbers.") from error


def _check_events(text: str) -> None:
    """Raise `InvalidYaml` for what is not accepted, from the parser's events alone."""
    depth = nodes = 0
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise InvalidYaml(f"It uses YAML anchors or aliases{_at(event)}. Write the value out.")
        if getattr(event, "tag", None) is not None:
            raise InvalidYaml(f"It uses YAML tags{_at(event)}. Leave them out.")
        nodes += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if nodes > MAX_NODES:
            raise InvalidYaml(f"The YAML holds more than {MAX_NODES} values. Shorten it.")
        if depth > MAX_DEPTH:
            raise InvalidYaml(f"The YAML is nested deeper than {MAX_DEPTH} levels. Flatten it.")


def _at(place: Any) -> str:
    """The line of an event, a node or an error, if it has one."""
    mark = getattr(place, "start_mark", None) or getattr(place, "problem_mark", None)
    return "" if mark is None else f" (line {mark.line + 1})"
