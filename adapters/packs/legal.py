"""Legal: an abbreviation in a United States citation, and the kind of source that it cites."""

import json
from collections.abc import Iterator

from adapters.packs.pack import DomainPack, Item
from adapters.packs.sources import Source

SOURCE = Source(
    package="reporters-db",
    version="3.2.67",
    archive="reporters_db-3.2.67-py3-none-any.whl",
    sha256="b008c6683710b9702ceeefb59ac733712e357a44e521a8d64ef0b7734f96efef",
    licence="BSD-2-Clause",
)
TABLES = ("laws", "journals", "reporters")

KINDS = {
    "leg_statute": "Statute or code",
    "leg_session": "Session laws",
    "admin_compilation": "Administrative code",
    "admin_register": "Administrative register",
    "journal": "Law journal",
    "state": "State court reporter",
    "federal": "Federal court reporter",
    "specialty": "Specialty reporter",
}
"""The source's types that have enough entries, and how they are asked for."""


def read() -> Iterator[Item]:
    """Every abbreviation and its variants; the split unit is the work that they abbreviate."""
    for table in TABLES:
        works = json.loads(SOURCE.read(f"reporters_db/data/{table}.json"))
        for abbreviation, entries in works.items():
            for entry in entries:
                label = KINDS.get(entry["cite_type"])
                if label is None:
                    continue
                editions = entry.get("editions", {})
                variants = entry.get("variations", [])
                for text in dict.fromkeys((abbreviation, *editions, *variants)):
                    if len(text) >= 3:
                        yield Item(text, label, entry["name"])


PACK = DomainPack(
    domain="legal",
    adapter="citation-classifier",
    title="Legal citation classifier",
    instruction="What kind of source does this legal citation cite?",
    noun="Citation",
    labels=tuple(KINDS.values()),
    sources=(SOURCE,),
    read=read,
    demo_text="Seton Hall L. Rev.",
    limits="Not legal advice. It does not check that a cited source exists, or what it says.",
    per_label=(220, 26),
)
