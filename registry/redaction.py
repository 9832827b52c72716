"""What may tell who somebody is, taken out of a text before it is stored. Pure.

Patterns for what has a form: addresses, numbers, dates, ages above 89, names after a title. They
follow the identifiers of the HIPAA safe harbor (45 CFR 164.514(b)(2)) as far as a form betrays
them. A name without a title, a place, a rare disease or an event has none, and stays: whoever
stores texts from production reads them first.
"""

import re
from dataclasses import dataclass
from functools import partial

_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?"
    r"|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_NAME = r"[A-Z][\w'\u2019-]{1,60}"
_NAMES = rf"{_NAME}(?:[ ]{{1,16}}(?:(?:van|von|de|der|la)[ ]{{1,16}})?{_NAME}){{0,2}}"
RULES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("e-mail", r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}"),
        ("link", r"(?:https?://|www\.)[^\s<>\"')\]]{1,8000}"),
        (
            "record number",
            r"(?i:\b(?:mrn|ssn|record|patient|case|claim|policy|account|insurance|member|docket"
            r"|passport|licen[cs]e))(?i:[ ]{1,16}(?:no\.?|number|id))?"
            r"[ ]{0,16}[:#]?[ ]{0,16}"
            r"(?=[A-Z0-9/-]{0,30}\d)[A-Z0-9][A-Z0-9/-]{3,30}\b",
        ),
        ("date", r"\b\d{4}-\d{1,2}-\d{1,2}\b"),
        ("date", r"\b\d{1,2}[./]\d{1,2}[./](?:\d{4}|\d{2})\b"),
        ("date", rf"\b{_MONTH}[ ]{{1,16}}\d{{1,2}}(?:st|nd|rd|th)?,?[ ]{{1,16}}\d{{4}}\b"),
        ("date", rf"\b\d{{1,2}}(?:st|nd|rd|th|\.)?[ ]{{1,16}}{_MONTH}[ ]{{1,16}}\d{{4}}\b"),
        ("number", r"(?<![\w.,])\+?(?:\(?\d{1,4}\)?[ .-]?){2,5}\d{2,4}(?![\w,])"),
        ("age", r"\b(?:9\d|1[01]\d)(?=[- ]?(?:years?[- ]old|year-old|yo\b|y/o))"),
        ("name", rf"\b(?:Mrs?|Ms|Miss|Dr|Prof|Herr|Frau)\b\.?[ ]{{1,16}}{_NAMES}"),
        ("name", rf"(?<=\bnamed ){_NAMES}|(?<=\bname is ){_NAMES}|(?<=\b[Nn]ame: ){_NAMES}"),
    )
)
"""Kinds and patterns, in the order in which they are applied. Every repeat is bounded, so that the
time is linear in the text: texts come from strangers."""
DIGITS = 9
"""A number with fewer digits is taken for a quantity, a code or a citation."""


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text, and what was taken out of it."""

    text: str
    removed: tuple[tuple[str, str], ...]
    """Kind and words, rule by rule."""


def redact(text: str) -> Redacted:
    """The text with `[kind]` in place of whatever a rule finds."""
    removed: list[tuple[str, str]] = []
    for kind, pattern in RULES:
        text = pattern.sub(partial(_replace, kind, removed), text)
    return Redacted(text, tuple(removed))


def _replace(kind: str, removed: list[tuple[str, str]], match: re.Match[str]) -> str:
    words = match.group()
    if kind == "number" and sum(letter.isdigit() for letter in words) < DIGITS:
        return words
    removed.append((kind, words))
    return f"[{kind}]"
