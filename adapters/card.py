"""The model card: README.md with YAML front matter, as on the Hugging Face Hub."""

import re
from dataclasses import dataclass
from typing import Any

import yaml

from adapters.errors import InvalidAdapter

MAX_CARD_BYTES = 1 << 20
_FRONT = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?\n?(.*)\Z", re.DOTALL)
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*\s*$", re.MULTILINE)


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
    """Read a card; raises `InvalidAdapter` with one sentence that says what is wrong."""
    if len(data) > MAX_CARD_BYTES:
        raise InvalidAdapter(f"The card has {len(data)} bytes, above {MAX_CARD_BYTES}.")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidAdapter("The card is not UTF-8 text.") from error
    match = _FRONT.match(text)
    front, body = (match[1], match[2]) if match else ("", text)
    return Card(_metadata(front), tuple(_HEADING.findall(body)))


def _metadata(front: str) -> dict[str, Any]:
    # An anchor can be repeated into gigabytes; no card needs one.
    if re.search(r"(^|\s)[&*][A-Za-z0-9]", front):
        raise InvalidAdapter("The card's front matter uses YAML anchors or aliases.")
    try:
        metadata = yaml.safe_load(front) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidAdapter("The card's front matter is not valid YAML.") from error
    if not isinstance(metadata, dict):
        raise InvalidAdapter("The card's front matter is not a map of keys to values.")
    return metadata
