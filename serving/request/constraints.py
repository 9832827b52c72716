"""What may shape an answer: JSON schemas, patterns, grammars, choices; their bounds. Pure.

These are the bounds that a look at the text can hold. How long a grammar takes to compile cannot be
seen in its text.
"""

from collections.abc import Iterator
from typing import Any

from serving.request.bounds import (
    Bound,
    Checked,
    Either,
    Flag,
    InvalidField,
    ListOf,
    OneOf,
    Shape,
    Text,
)
from serving.request.json_text import parsed

MAX_SCHEMA_VALUES = 5_000
MAX_SCHEMA_DEPTH = 32
MAX_SCHEMA_CHARACTERS = 64 << 10
MAX_PATTERNS = 16
MAX_PATTERN = 512
_PATTERNS = ("pattern", "patternProperties")

SCHEMA_WORDS = (
    f"a JSON schema of at most {MAX_SCHEMA_VALUES:,} values, nested at most {MAX_SCHEMA_DEPTH} "
    f"deep, with {MAX_SCHEMA_CHARACTERS:,} characters and {MAX_PATTERNS} patterns of "
    f"{MAX_PATTERN} characters at most"
)


def check_schema(name: str, schema: Any) -> None:
    """Raise `InvalidField` unless `schema` is a JSON schema within its bounds."""
    if not isinstance(schema, dict):
        raise InvalidField(name, SCHEMA_WORDS)
    characters = patterns = 0
    for values, (depth, key, value) in enumerate(_walk(schema), 1):
        characters += len(key or "") + (len(value) if isinstance(value, str) else 0)
        if key in _PATTERNS:
            found = value if isinstance(value, dict) else (value,)
            patterns += len(found)
            if any(isinstance(text, str) and len(text) > MAX_PATTERN for text in found):
                raise InvalidField(name, SCHEMA_WORDS, "Use a shorter pattern.")
        if (
            depth > MAX_SCHEMA_DEPTH
            or values > MAX_SCHEMA_VALUES
            or characters > MAX_SCHEMA_CHARACTERS
            or patterns > MAX_PATTERNS
        ):
            raise InvalidField(name, SCHEMA_WORDS, "Use a simpler one.")


def _check_text(name: str, value: Any) -> None:
    """A schema, or a structural tag, as a string: vLLM parses it."""
    if not isinstance(value, str) or len(value) > MAX_SCHEMA_CHARACTERS:
        raise InvalidField(name, _SCHEMA_TEXT)
    try:
        schema = parsed(value)
    except ValueError as error:
        raise InvalidField(name, _SCHEMA_TEXT) from error
    check_schema(name, schema)


def _walk(root: Any) -> Iterator[tuple[int, str | None, Any]]:
    """Every value below `root` with its depth and, in an object, its key; no recursion."""
    waiting: list[tuple[int, str | None, Any]] = [(0, None, root)]
    while waiting:
        depth, key, value = waiting.pop()
        yield depth, key, value
        if isinstance(value, dict):
            waiting += [(depth + 1, name, inner) for name, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(depth + 1, None, inner) for inner in value]


def _check_format(name: str, value: Any) -> None:
    kind = value.get("type") if isinstance(value, dict) else None
    bound = _FORMATS.get(kind) if isinstance(kind, str) else None
    if bound is None:
        raise InvalidField(name, RESPONSE_FORMAT)
    bound.check(name, value)


SCHEMA = Checked(SCHEMA_WORDS, check_schema)
_SCHEMA_TEXT = Checked(f"the JSON of {SCHEMA_WORDS}, as a string", _check_text)
_TAG_TEXT = Checked(
    "the JSON of a structural tag within a schema's bounds, as a string", _check_text
)
STRUCTURED_OUTPUTS = Shape(
    {
        "json": Either((SCHEMA, _SCHEMA_TEXT)),
        "regex": Text(MAX_PATTERN),
        "choice": ListOf(Text(256), 1_000, least=1),
        "grammar": Text(16 << 10),
        "json_object": Flag(),
        "structural_tag": _TAG_TEXT,
        "disable_any_whitespace": Flag(),
        "disable_additional_properties": Flag(),
        "whitespace_pattern": Text(64),
    }
)
_JSON_SCHEMA: dict[str, Bound] = {
    "name": Text(128),
    "description": Text(4 << 10),
    "schema": SCHEMA,
    "strict": Flag(),
}
_FORMATS: dict[str, Bound] = {
    "text": Shape({"type": OneOf(("text",))}),
    "json_object": Shape({"type": OneOf(("json_object",))}),
    "json_schema": Shape(
        {"type": OneOf(("json_schema",)), "json_schema": Shape(_JSON_SCHEMA, needs=("schema",))},
        needs=("json_schema",),
    ),
    "structural_tag": Checked("a structural tag", check_schema),
}
RESPONSE_FORMAT = Checked(
    'an object of type "text", "json_object", "json_schema" or "structural_tag"; its schema is '
    + SCHEMA_WORDS,
    _check_format,
)
_TEXT_FORMATS: dict[str, Bound] = {
    **{kind: _FORMATS[kind] for kind in ("text", "json_object")},
    "json_schema": Shape({"type": OneOf(("json_schema",)), **_JSON_SCHEMA}, needs=("schema",)),
}


def _check_text_format(name: str, value: Any) -> None:
    kind = value.get("type") if isinstance(value, dict) else None
    bound = _TEXT_FORMATS.get(kind) if isinstance(kind, str) else None
    if bound is None:
        raise InvalidField(name, TEXT_FORMAT)
    bound.check(name, value)


TEXT_FORMAT = Checked(
    'an object of type "text", "json_object" or "json_schema"; its schema is ' + SCHEMA_WORDS,
    _check_text_format,
)
