"""Financial: a US-GAAP tag, and the section of the statements where it is reported."""

import json
import re
from collections.abc import Iterator

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
    limits="Not for filings or investment decisions without an accountant's check.",
    per_label=(200, 24),
)
