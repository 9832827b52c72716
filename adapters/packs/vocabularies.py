"""Codes, citations and tags in a free answer that do not exist.

Whether a code that exists fits the question is another matter.
"""

import functools
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping

from adapters.packs import financial, legal, medical

ICD = re.compile(r"\b[A-TV-Z][0-9][0-9A-Z](?:\.[0-9A-Z]{1,4})?\b")
CITATION = re.compile(r"\b\d{1,4} ([A-Z][\w.'& ]{0,40}?) \d{1,5}\b")
TAG = re.compile(r"\b(?:[A-Z][a-z0-9]+){2,}\b")


def invented(vocabulary: str, text: str) -> list[str]:
    """What reads like a member of the vocabulary in `text` and is none, in order.

    vocabulary: one of `VOCABULARIES`. Raises `SourceUnavailable` if its list cannot be had.
    """
    return VOCABULARIES[vocabulary](text)


def _no_icd(text: str) -> list[str]:
    return [code for code in ICD.findall(text) if not _is_icd(code)]


def _no_reporter(text: str) -> list[str]:
    return [name for name in CITATION.findall(text) if _folded(name) not in _reporters()]


def _no_tag(text: str) -> list[str]:
    return [tag for tag in TAG.findall(text) if tag not in _tags()]


VOCABULARIES: Mapping[str, Callable[[str], list[str]]] = {
    "icd-10-cm": _no_icd,
    "us-reporters": _no_reporter,
    "us-gaap": _no_tag,
}


def _is_icd(code: str) -> bool:
    known = _icd_codes()
    if code in known:
        return True
    # The tabular list leaves the seventh character, and the filler X before it, to its notes.
    return len(code) == 8 and code[-1] in "ADS" and code[:-1].rstrip("X").rstrip(".") in known


@functools.cache
def _icd_codes() -> frozenset[str]:
    root = ET.fromstring(medical.SOURCE.read(medical.TABULAR))  # noqa: S314 - pinned, checked
    return frozenset(entry.findtext("name", "") for entry in root.iter("diag"))


@functools.cache
def _reporters() -> frozenset[str]:
    names = set()
    for table in legal.TABLES:
        works = json.loads(legal.SOURCE.read(f"reporters_db/data/{table}.json"))
        for abbreviation, entries in works.items():
            names.add(_folded(abbreviation))
            for entry in entries:
                names.update(map(_folded, entry.get("editions", {})))
                names.update(map(_folded, entry.get("variations", [])))
    return frozenset(names)


def _folded(name: str) -> str:
    """Spacing varies freely between editions of one abbreviation."""
    return name.replace(" ", "").casefold()


@functools.cache
def _tags() -> frozenset[str]:
    return frozenset(json.loads(financial.SOURCE.read(financial.MAPPINGS)))
