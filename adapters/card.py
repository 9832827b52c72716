"""The model card: README.md with YAML front matter, as on the Hugging Face Hub."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from adapters.errors import InvalidAdapter
from adapters.plain_yaml import InvalidYaml, load_yaml

MAX_CARD_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Card:
    """A card's metadata and the titles of its sections."""

    metadata: dict[str, Any]
    sections: tuple[str, ...]

    def missing(self, required: tuple[str, ...]) -> list[str]:
        """Required sections that the card lacks, compared without regard to case."""
        present = {section.casefold() for section in self.sections}
        return [section for section in required if section.casefold() not in present]


def parse_card(data: bytes) -> Card:
    """Read a card in time linear in its length.

    Raises `InvalidAdapter` with one sentence that says what is wrong.
    """
    if len(data) > MAX_CARD_BYTES:
        raise InvalidAdapter(f"The card has {len(data)} bytes, above {MAX_CARD_BYTES}.")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidAdapter("The card is not UTF-8 text.") from error
    front, body = _split(text.split("\n"))
    return Card(_metadata(front), tuple(_headings(body)))


def _split(lines: list[str]) -> tuple[str, list[str]]:
    """The front matter between two lines of `---`, if the card begins with one, and the rest."""
    if lines[0].rstrip() == "---":
        for number, line in enumerate(lines[1:], 1):
            if line.rstrip() == "---":
                return "\n".join(lines[1:number]), lines[number + 1 :]
    return "", lines


def _headings(lines: list[str]) -> Iterator[str]:
    """The text of every `#` heading (CommonMark's ATX headings, not indented)."""
    for line in lines:
        rest = line.lstrip("#")
        if 1 <= len(line) - len(rest) <= 6 and rest[:1].isspace():
            title = rest.strip()
            bare = title.rstrip("#")
            # A closing run of # is one only after a space: "C#" keeps its own.
            title = bare.rstrip() if bare[-1:].isspace() or not bare else title
            if title:
                yield title


def _metadata(front: str) -> dict[str, Any]:
    try:
        metadata = load_yaml(front)
    except InvalidYaml as error:
        raise InvalidAdapter(f"The card's front matter cannot be read. {error.message}") from error
    if not isinstance(metadata or {}, dict):
        raise InvalidAdapter("The card's front matter is not a map of keys to values.")
    return metadata or {}
