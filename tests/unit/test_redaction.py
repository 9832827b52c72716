"""What has the form of an identifier is taken out, and medicine, law and money are left alone."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.redaction import RULES, redact


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Mail j.doe+x@st-mary.example.org now", "Mail [e-mail] now"),
        ("See https://portal.example/p?id=7 please", "See [link] please"),
        ("MRN 00412377 was admitted", "[record number] was admitted"),
        ("Patient ID: A-19923/7 seen", "[record number] seen"),
        ("policy no. KV-772901 covers it", "[record number] covers it"),
        ("seen 2024-03-09 and 3/9/24", "seen [date] and [date]"),
        ("on March 9, 2024, or 9 March 2024", "on [date], or [date]"),
        ("call +49 30 1234 5678 or (555) 010-4477-22", "call [number] or [number]"),
        ("SSN 078-05-1120", "[record number]"),
        ("her number 078-05-1120", "her number [number]"),
        ("a 94-year-old man", "a [age]-year-old man"),
        ("Mrs. Anna van Dyke and Dr Li agree", "[name] and [name] agree"),
        ("a boy named Tom Miller", "a boy named [name]"),
    ],
)
def test_what_tells_who_somebody_is_is_taken_out(text: str, left: str) -> None:
    found = redact(text)
    assert found.text == left
    assert found.removed


@pytest.mark.parametrize(
    "text",
    [
        "ICD-10-CM I21.02, E11.9 and Z99.89 after 3 days at 37.5 °C",
        "Roe v. Wade, 410 U.S. 113 (1973)",
        "Revenues rose from 1,234,567,890 to 2,000,000,000 dollars in 2024-2025",
        "A 45-year-old with a blood pressure of 140/90",
        "In case 12 of the series, case law and patient care matter",
        "Amoxicillin 500 mg 3 times a day for 10 days",
    ],
)
def test_codes_citations_quantities_and_sums_stay(text: str) -> None:
    assert redact(text).text == text


@given(st.text(max_size=300))
def test_any_text_can_be_redacted_and_twice_changes_nothing_more(text: str) -> None:
    once = redact(text)
    assert redact(once.text).text == once.text
    if not once.removed:
        assert once.text == text


def test_no_rule_repeats_anything_without_bound() -> None:
    """A repeat without bound, followed by what may fail, takes quadratic time on hostile texts."""
    for kind, pattern in RULES:
        bare = re.sub(r"\\.|\[[^]]*\]", "x", pattern.pattern)
        assert not set(bare) & {"*", "+"}, kind
