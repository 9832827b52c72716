"""Markdown tables, and docstrings as text of one line."""

import ast
import inspect
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows under their titles; `|` and line ends in cells are made safe."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(map(cell, line))} |\n" for line in lines)


def cell(value: object) -> str:
    """A value as the text of one cell."""
    return " ".join(str(value).split()).replace("|", "\\|")


def code(value: object) -> str:
    """A value in code, nothing for nothing."""
    return f"`{value}`" if str(value) else ""


def first_paragraph(documented: object) -> str:
    """What a docstring says first, on one line."""
    text = inspect.cleandoc(getattr(documented, "__doc__", None) or "")
    return " ".join(text.partition("\n\n")[0].split())


def described_fields(kind: type) -> dict[str, str]:
    """The string below each annotated field of a class: what the field means."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    if not isinstance(node, ast.ClassDef):
        raise TypeError(f"{kind} is not a class")
    found: dict[str, str] = {}
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            found[field.target.id] = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found[field.target.id] = " ".join(str(after.value.value).split())
    return found


SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def limits(schema: dict[str, Any]) -> str:
    """The bounds of a number in a JSON schema."""
    return ", ".join(f"{sign} {schema[name]:,}" for name, sign in SIGNS.items() if name in schema)
