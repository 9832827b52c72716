"""Medical: a diagnosis in words, and the ICD-10-CM chapter that codes it."""

import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator

from adapters.packs.abstaining import vague_words, with_unanswerable
from adapters.packs.pack import DomainPack, Item
from adapters.packs.sources import Source

SOURCE = Source(
    package="simple-icd-10-cm",
    version="1.5.0",
    archive="simple_icd_10_cm-1.5.0-py3-none-any.whl",
    sha256="6d461d71dc26aedc530ae65f02cfb578a154e49507c32e8241e75f701d4b7e42",
    licence="MIT; content by CDC/NCHS, public domain",
)
TABULAR = "simple_icd_10_cm/data/icd10c-tabular-April-1-2026.xml"

CHAPTERS = {
    "1": "Infectious diseases",
    "2": "Neoplasms",
    "3": "Blood and immune system",
    "4": "Endocrine and metabolic",
    "5": "Mental and behavioral",
    "6": "Nervous system",
    "7": "Eye",
    "8": "Ear",
    "9": "Circulatory system",
    "10": "Respiratory system",
    "11": "Digestive system",
    "12": "Skin",
    "13": "Musculoskeletal system",
    "14": "Genitourinary system",
    "15": "Pregnancy and childbirth",
    "16": "Perinatal period",
    "17": "Congenital malformations",
    "18": "Symptoms and findings",
    "19": "Injury and poisoning",
    "20": "External causes",
    "21": "Factors influencing health",
}
"""Chapter 22 (codes for special purposes) holds five entries and is left out."""

MAX_CHARACTERS = 120
"""Longer entries are combinations of qualifiers that no clinician would type."""

MIN_CODES = 10
"""A category with fewer codes has too few to be split."""
UNANSWERABLE = 0.03
"""Share of questions without an answer, at most."""


def read() -> Iterator[Item]:
    """Descriptions and inclusion terms; the split unit is the three-character category."""
    root = ET.fromstring(SOURCE.read(TABULAR))  # noqa: S314 - a pinned, digest-checked file
    for chapter in root.findall("chapter"):
        label = CHAPTERS.get(chapter.findtext("name", ""))
        if label is None:
            continue
        for entry in chapter.iter("diag"):
            category = entry.findtext("name", "")[:3]
            notes = entry.findall("inclusionTerm/note")
            for text in (entry.findtext("desc", ""), *(note.text or "" for note in notes)):
                if 5 <= len(text) <= MAX_CHARACTERS:
                    yield Item(text, label, category)


PACK = DomainPack(
    domain="medical",
    adapter="icd10-coder",
    title="ICD-10-CM chapter coder",
    instruction="Which ICD-10-CM chapter codes this diagnosis?",
    noun="Diagnosis",
    labels=tuple(CHAPTERS.values()),
    sources=(SOURCE,),
    read=read,
    demo_text="Ectopic pregnancy",
    limits="Not for patient care or billing without a certified coder's check.",
    per_label=(150, 12),
    judged=30,
)


def read_categories() -> Iterator[Item]:
    """Terms with their three-character category; the split unit is the full code they name.

    So the synonyms of one code are on one side, and every category can be learnt. The category's
    own title says why: it is part of the answer.
    """
    root = ET.fromstring(SOURCE.read(TABULAR))  # noqa: S314 - a pinned, digest-checked file
    for category in root.iter("diag"):
        code = category.findtext("name", "")
        if len(code) != 3:
            continue
        label = f"{code}: {category.findtext('desc', '')}"
        for entry in category.iter("diag"):
            unit = entry.findtext("name", "")[:5]
            notes = entry.findall("inclusionTerm/note")
            for text in (entry.findtext("desc", ""), *(note.text or "" for note in notes)):
                if 5 <= len(text) <= MAX_CHARACTERS:
                    yield Item(text, label, unit)


def read_common() -> Iterator[Item]:
    """Terms of the categories that can be split, and texts that name none."""
    units: dict[str, set[str]] = defaultdict(set)
    for item in read_categories():
        units[item.label].add(item.unit)
    items = [item for item in read_categories() if len(units[item.label]) >= MIN_CODES]
    yield from with_unanswerable(items, vague_words(read(), spread=0.5), share=UNANSWERABLE)


CATEGORY = DomainPack(
    domain="medical",
    adapter="icd10-category",
    title="ICD-10-CM category coder",
    instruction="Which three-character ICD-10-CM category codes this diagnosis, and what is its "
    "title?",
    phrasings=(
        "Give the ICD-10-CM category (three characters and title) of this diagnosis.",
        "Code this diagnosis to its ICD-10-CM category.",
    ),
    noun="Diagnosis",
    labels=(),
    sources=(SOURCE,),
    read=read_common,
    demo_text="",
    limits="Not for patient care or billing without a certified coder's check.",
    per_label=(20, 2),
)
