"""Exam questions of every domain, for judging only: none is ever trained on.

They come from OpenAI's evals, whose own code is MIT; each set keeps its authors' terms. Rows whose
options are out of order, repeated, or lack the right one are left out.
"""

import json
import re
from collections.abc import Callable, Iterator

from adapters.packs.pack import DomainPack, Item
from adapters.packs.sources import Source

SOURCE = Source(
    package="evals",
    version="3.0.1.post1",
    archive="evals-3.0.1.post1-py3-none-any.whl",
    sha256="0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
    licence="MIT; each set keeps its authors' terms",
)
LETTERS = ("A", "B", "C", "D")
_OPTION = re.compile(r"(?:^|\s)([A-Ea-e])[.)]\s+(.+?)(?=\s+[A-Ea-e][.)]\s|\s*$)", re.DOTALL)
_ASKS_FOR_LETTER = re.compile(
    r"\s*(For each question you must select|Respond with only|Answer:).*\Z", re.DOTALL
)
_LIMITS = "An exam, for measuring only. Passing it licenses nobody to practise."


def rows(member: str) -> Iterator[tuple[list[str], str]]:
    """The messages and the ideal answer of each row of one set."""
    for line in SOURCE.read(f"evals/registry/data/{member}").splitlines():
        if line.strip():
            row = json.loads(line)
            yield [message["content"] for message in row["input"]], str(row["ideal"])


def multiple_choice(*members: str) -> Callable[[], Iterator[Item]]:
    """A reader of sets with lettered options; the answer is the letter."""

    def read() -> Iterator[Item]:
        for member in members:
            for messages, ideal in rows(member):
                text = _ASKS_FOR_LETTER.sub("", messages[-1]).strip()
                label = ideal.strip()[:1].upper()
                if sound(text, label):
                    yield Item(text, label, member)

    return read


def sound(text: str, label: str) -> bool:
    """Whether the options are A, B, C, D in order, all different, the right one among them."""
    options = [(letter.upper(), option.strip()) for letter, option in _OPTION.findall(text)]
    letters = "".join(letter for letter, _ in options)
    texts = {option.casefold() for _, option in options}
    return letters.endswith("ABCD") and len(texts) == len(options) and label in LETTERS


def cases() -> Iterator[Item]:
    """Claims before Illinois courts, with the charge, and whether it was upheld."""
    for messages, ideal in rows("illinois-law/samples.jsonl"):
        yield Item(f"{messages[1].strip()}\n\nCharge: {messages[2]}", ideal, messages[1][:200])


def numbers() -> Iterator[Item]:
    """Break-even prices of option positions, and years until money runs out."""
    for messages, ideal in rows("finance_calc/samples.jsonl"):
        yield Item(messages[-1], ideal, "finance_calc")
    for strategy in ("bear_call", "bull_call", "iron_butterfly", "iron_condor"):
        for messages, ideal in rows(f"stock_options/stock_options_{strategy}_spread.jsonl"):
            yield Item(messages[-1], ideal, f"stock_options {strategy}")


def _exam(
    domain: str,
    adapter: str,
    title: str,
    read: Callable[[], Iterator[Item]],
    *,
    instruction: str = "Which option is right? Answer with its letter.",
    noun: str = "Question",
    labels: tuple[str, ...] = LETTERS,
) -> DomainPack:
    return DomainPack(
        domain=domain,
        adapter=adapter,
        title=title,
        instruction=instruction,
        noun=noun,
        labels=labels,
        sources=(SOURCE,),
        read=read,
        demo_text="",
        limits=_LIMITS,
        exam=True,
    )


MEDICAL = _exam(
    "medical",
    "exam",
    "Medical entrance exam questions",
    multiple_choice("medmcqa/samples.jsonl"),
)
LEGAL = _exam(
    "legal",
    "exam",
    "United States tort law questions",
    multiple_choice("us_tort_law/samples.jsonl"),
)
CASES = _exam(
    "legal",
    "cases",
    "Charges before Illinois courts",
    cases,
    instruction="Was the charge upheld? Answer Positive or Negative.",
    noun="Claim",
    labels=("Positive", "Negative"),
)
FINANCIAL = _exam(
    "financial",
    "exam",
    "Audit and income tax questions",
    multiple_choice("accounting_audit/samples.jsonl", "taxes/samples.jsonl"),
)
NUMBERS = _exam(
    "financial",
    "numbers",
    "Numeric questions on options and savings",
    numbers,
    instruction="Compute the answer and give only it, in the form that is asked for.",
    labels=(),
)
