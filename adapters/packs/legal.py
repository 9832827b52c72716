"""Legal: an abbreviation in a United States citation, and the kind of source that it cites."""

import functools
import json
import re
from collections.abc import Iterator
from typing import Any

from adapters.packs.abstaining import UNKNOWN
from adapters.packs.pack import DomainPack, Item, lot
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
    judged=75,
)


STATES = {
    "ny": "New York", "pa": "Pennsylvania", "sc": "South Carolina", "nc": "North Carolina",
    "ky": "Kentucky", "oh": "Ohio", "tn": "Tennessee", "il": "Illinois", "va": "Virginia",
    "de": "Delaware", "tx": "Texas", "ca": "California", "ma": "Massachusetts",
    "nj": "New Jersey", "ct": "Connecticut", "la": "Louisiana",
    "dc": "District of Columbia", "ms": "Mississippi", "nm": "New Mexico", "ok": "Oklahoma",
    "nd": "North Dakota", "al": "Alabama", "vt": "Vermont", "in": "Indiana",
}  # fmt: skip
"""Jurisdictions with enough reporters to be split."""
FEDERAL = "United States (federal)"


def read_jurisdictions() -> Iterator[Item]:
    """Reporters' abbreviations and the one jurisdiction whose decisions they print.

    A regional reporter prints those of several states, so its abbreviation alone does not tell:
    these are the questions without an answer. The split unit is the reporter.
    """
    for abbreviation, entries in reporters().items():
        for entry in entries:
            label = (
                UNKNOWN
                if entry["cite_type"] == "state_regional"
                else jurisdiction(entry["mlz_jurisdiction"])
            )
            if label is None:
                continue
            texts = (abbreviation, *entry.get("editions", {}), *entry.get("variations", {}))
            for text in dict.fromkeys(texts):
                if len(text) >= 3:
                    yield Item(f"{1 + int(lot(text) * 400)} {text} {int(lot(text[::-1]) * 900)}",
                               label, entry["name"])  # fmt: skip


def jurisdiction(listed: list[str]) -> str | None:
    """The one jurisdiction that a reporter's courts belong to; None for several, or none of ours.

    The source writes a court as `us:ca;supreme.court`, a federal circuit as `us:c9;...`.
    """
    places = {place.split(";")[0].partition(":")[2].partition(":")[0] for place in listed}
    kinds = {
        FEDERAL if place in ("", "c", "fed") or re.fullmatch(r"c\d+", place) else STATES.get(place)
        for place in places
    }
    return kinds.pop() if len(kinds) == 1 else None


JURISDICTION = DomainPack(
    domain="legal",
    adapter="citation-jurisdiction",
    title="Jurisdiction of a citation",
    instruction="Which jurisdiction's decision does this citation cite?",
    phrasings=(
        "Name the jurisdiction whose court decided the cited case.",
        "From which state's courts, or the federal courts, is the case cited here?",
    ),
    noun="Citation",
    labels=(*STATES.values(), FEDERAL, UNKNOWN),
    sources=(SOURCE,),
    read=read_jurisdictions,
    demo_text="",
    limits="Not legal advice. It does not check that a cited case exists; see `invented`.",
    per_label=(120, 12),
)

_CITATION = re.compile(r"\b(\d{1,4})\s+([A-Z][A-Za-z0-9.'& ]{0,40}?[A-Za-z0-9.])\s+(\d{1,5})\b")


def invented(text: str) -> list[str]:
    """Citations in a text whose reporter does not exist, so that the citation cannot.

    It catches invented reporters only: that a real reporter's volume and page hold the case that
    an answer says they hold is not known here.
    """
    known = known_reporters()
    found = (match for match in _CITATION.finditer(text))
    return [m[0] for m in found if "".join(m[2].split()).casefold() not in known]


@functools.cache
def known_reporters() -> frozenset[str]:
    """Every abbreviation, edition and variant, without blanks and in lower case."""
    names: set[str] = set()
    for table in TABLES:
        for abbreviation, entries in json.loads(
            SOURCE.read(f"reporters_db/data/{table}.json")
        ).items():
            names.add(abbreviation)
            for entry in entries:
                names.update(entry.get("editions", {}))
                names.update(entry.get("variations", {}))
    return frozenset("".join(name.split()).casefold() for name in names)


@functools.cache
def reporters() -> dict[str, list[dict[str, Any]]]:
    """The source's table of reporters."""
    table: dict[str, list[dict[str, Any]]] = json.loads(
        SOURCE.read("reporters_db/data/reporters.json")
    )
    return table
