"""Legal: a clause or notice from a licence, and the kind of obligation it places on its user."""

import re
from collections.abc import Iterator

import yaml

from adapters.packs.pack import DomainPack, Item
from adapters.packs.sources import Source

SOURCE = Source(
    package="scancode-toolkit",
    version="32.5.0",
    archive="scancode_toolkit-32.5.0-cp311-none-any.whl",
    sha256="327d20a0de71d49930d8a6919c2b6d54c2acf4dd0a1d48da9a71dd4ce7b97b78",
    licence="CC-BY-4.0 (licence and rule texts)",
)
LICENCES = "licensedcode/data/licenses/"
RULES = "licensedcode/data/rules/"

CATEGORIES = {
    "Permissive": "Permissive",
    "Copyleft": "Strong copyleft",
    "Copyleft Limited": "Weak copyleft",
    "Public Domain": "Public domain",
    "Commercial": "Proprietary",
    "Proprietary Free": "Proprietary",
    "Source-available": "Source-available",
    "Free Restricted": "Source-available",
}
"""The source's categories, and the shorter list that is asked for."""

MIN_CHARACTERS = 40
MAX_CHARACTERS = 160


def read() -> Iterator[Item]:
    """The opening passage of every licence notice and text; the split unit is the licence."""
    category: dict[str, str] = {}
    passages: list[tuple[str, str]] = []
    for name, content in SOURCE.members(_wanted):
        header, text = _front_matter(content.decode("utf-8", "replace"))
        if header.get("is_deprecated") or header.get("is_false_positive"):
            continue
        if name.startswith(LICENCES):
            category[header["key"]] = header.get("category", "")
            passages.append((header["key"], _passage(text)))
        elif header.get("is_license_notice") or header.get("is_license_text"):
            passages.append((header.get("license_expression", ""), _passage(text)))
    for key, passage in passages:
        label = CATEGORIES.get(category.get(key, ""))
        if label and len(passage) >= MIN_CHARACTERS:
            yield Item(passage, label, key)


def _wanted(name: str) -> bool:
    return (name.startswith(LICENCES) and name.endswith(".LICENSE")) or (
        name.startswith(RULES) and name.endswith(".RULE")
    )


def _front_matter(document: str) -> tuple[dict[str, str], str]:
    match = re.match(r"---\n(.*?)\n---\n?(.*)", document, re.DOTALL)
    if match is None:
        return {"is_deprecated": "no header"}, ""
    return yaml.load(match[1], yaml.CSafeLoader), match[2]


def _passage(text: str) -> str:
    """The first words of a text, without comment marks, cut at a word's end."""
    words = re.sub(r"\{\{|\}\}|[*#/;|=~-]{2,}|(?<!\w)[*#;|](?!\w)", " ", text).split()
    passage = " ".join(words)
    if len(passage) <= MAX_CHARACTERS:
        return passage
    return passage[:MAX_CHARACTERS].rpartition(" ")[0]


PACK = DomainPack(
    domain="legal",
    adapter="clause-classifier",
    title="Licence clause classifier",
    instruction="What kind of licence does this passage belong to?",
    noun="Passage",
    labels=tuple(dict.fromkeys(CATEGORIES.values())),
    sources=(SOURCE,),
    read=read,
    demo_text="",
    limits="Not legal advice; a lawyer decides what a licence obliges to.",
    per_label=(250, 40),
)
