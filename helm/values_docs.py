"""The table of the chart's values in its README, made from the comments in values.yaml.

python -m helm.values_docs
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

CHART = Path(__file__).parent / "lorary"
README = CHART / "README.md"
BEGIN, END = "<!-- values -->\n", "<!-- end of values -->\n"


@dataclass(frozen=True, slots=True)
class Value:
    """One value: its path, its default as YAML, and what the comment above it says."""

    path: str
    default: str
    meaning: str


def values(text: str) -> Iterator[Value]:
    """Every value that has no values of its own below it, and every one with a comment."""
    root = yaml.compose(text)
    if isinstance(root, yaml.MappingNode):
        yield from _walk(root, text.splitlines(), "")


def _walk(node: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[Value]:
    for key, value in node.value:
        path = f"{prefix}{key.value}"
        meaning = _comment(lines, key.start_mark.line)
        if isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
            if meaning:
                yield Value(path, "", meaning)
            yield from _walk(value, lines, f"{path}.")
        else:
            yield Value(path, _default(value, lines), meaning)


def _comment(lines: list[str], line: int) -> str:
    said: list[str] = []
    while line and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        said.insert(0, lines[line].lstrip().removeprefix("#").strip())
    return " ".join(said) if line else ""


def _default(node: yaml.Node, lines: list[str]) -> str:
    if isinstance(node, yaml.ScalarNode):
        line = lines[node.start_mark.line]
        return line[node.start_mark.column : node.end_mark.column]
    return "" if _is_long(node) else lines[node.start_mark.line][node.start_mark.column :]


def _is_long(node: yaml.Node) -> bool:
    return node.end_mark.line > node.start_mark.line


def table(text: str) -> str:
    """The values as Markdown."""
    rows = ["| value | default | meaning |", "|---|---|---|"]
    for value in values(text):
        default = f"`{value.default}`" if value.default else ""
        rows.append(f"| `{value.path}` | {default} | {value.meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def with_table(readme: str, text: str) -> str:
    """The README with its table made anew."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table(text)}{END}{after}"


def main() -> None:
    """Write it."""
    README.write_text(with_table(README.read_text(), (CHART / "values.yaml").read_text()))


if __name__ == "__main__":
    main()
