"""Patterns whose repetitions can be told apart, and those that would stall the engine."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.grammars import patterns
from serving.grammars.gatekeeper import Gatekeeper, RefusedGrammar
from serving.grammars.protocol import Kind, Limits

PLAIN = [
    "", "a", "[a-z]+", "(yes|no)", r"[A-TV-Z]\d\d(\.\d{1,4})?", "([a-z]+,)*[a-z]+",
    r"(\d{1,3}\.){3}\d{1,3}", "(a|b|[a-z ])*", "([a-z ]{2})*", ".*a.*b.*", "a?b?c?",
    r"\d{4}-\d{2}-\d{2}", "^x$", "(?:ab)+", "([^,]*,)*", r"(?<year>\d{4})", r"(\w+\s)*\w+",
    r"\{([^}]*\},\{)*", r'"([^"\\]|\\.)*"', "(a+b|a+c)*", r"\S+@\S+", r"\bx\B", "[a-z]{0,400}",
    "(a{2}b?c)*", r"[\w.+-]+@[\w-]+\.[\w.-]+", r"\S+@\S+\.\S+", r"(\d+\. .+\n){3,5}",
    "(.+), (.+), (.+)", "(?:- .*\n)+", "a+a+a+b", r"[^\]]\*", "(?=a)b",
    r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$",  # pydantic's of a Decimal
    r"(([ab]*\n)+\n)+",
]  # fmt: skip
AMBIGUOUS = [
    "([a-z]*)*", "([a-z]+)*", "0([a-z ]{0,40}){0,40}x", "(0(([a-z ]{0,12}){0,12}){0,12}x)",
    "(a?)*", "(a?b?)*", "([^0-9].*)|(0([a-z ]*)*x)", "(.*a.*|.*b.*)*", "([a-z ]{2,3})*",
    r"(\w+\s?)+", "((a*b)*c*)*", "(a+|a+)*", "(?:(?:a|b+)c?)*", "zzz(x(yz*)*)*q?(a+){2,9}",
    "([^a]+)*", r"(\D+)+", "((?i:a)+)*",
    "(?!(a*)*)b",
]  # fmt: skip


UNCERTAIN = [
    "a*a*a*a*a*b", "a+" * 20, "(?:a|b)*" * 5 + "!", "((([ab]*b)*b)*b)*", "(([ab]*b)*b)*b",
    "[a-z]{0,400}[a-z]{0,400}", ".{1,500}a", "(.{0,20}a)*", "((.+a){9}.+a){9}",
    r"(?<x>a|b)*[ab]" * 5, "((.+a){9}b){9}!", "[a-z]{0,256}" * 2, r"\S{1,256}\.\S{1,256}\.\S",
]  # fmt: skip
UNREADABLE = [
    "(", "a{2,1}", "[z-a]", r"(a)\1", "(" * 400 + ")",
    # what xgrammar reads otherwise than Python
    "[^](a*)*]", "[](a*)*]", r"a\A", r"(a\Z)*",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PLAIN)
def test_a_pattern_whose_repetitions_can_be_distinguished_may_be_tried(pattern: str) -> None:
    assert patterns.problem(pattern) == ""


@pytest.mark.parametrize("pattern", AMBIGUOUS)
def test_a_repetition_that_cannot_be_distinguished_from_the_one_around_it_is_refused(
    pattern: str,
) -> None:
    assert patterns.problem(pattern) == patterns.AMBIGUOUS


@pytest.mark.parametrize("pattern", UNCERTAIN)
def test_a_few_repetitions_may_have_an_uncertain_end(pattern: str) -> None:
    assert patterns.problem(pattern) == patterns.UNCERTAIN


@pytest.mark.parametrize("pattern", UNREADABLE)
def test_what_is_no_pattern_of_characters_is_refused(pattern: str) -> None:
    assert patterns.problem(pattern) == patterns.UNREADABLE


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("regex", "0([a-z ]{0,40}){0,40}x"),
        ("json", '{"items": {"pattern": "([a-z]*)*"}}'),
        ("json", '{"patternProperties": {"(a+)+": {}}}'),
        ("grammar", 'root ::= "a"'),
        ("structural_tag", "{}"),
    ],
)
def test_what_may_cost_more_with_each_token_is_refused_without_a_trial(
    kind: Kind, spec: str
) -> None:
    async def work() -> None:
        with pytest.raises(RefusedGrammar, match=r"separator|LORARY_FREE_GRAMMARS"):
            await Gatekeeper(Limits()).check("key", [(kind, spec)], sequences=1)

    asyncio.run(work())


def test_the_work_is_bounded() -> None:
    long = "(" + "|".join(f"{chr(97 + n % 26)}x+" for n in range(150)) + ")*"
    assert patterns.problem(long) in ("", patterns.TOO_MANY, patterns.AMBIGUOUS)
    overlapping = "((" + "|".join("ab?" for _ in range(120)) + ")?c)*"
    assert patterns.problem(overlapping) in ("", patterns.TOO_MANY, patterns.AMBIGUOUS)


@given(st.text(alphabet="ab[]()*+?{}|.,\\dw^-12", max_size=40))
def test_any_text_gets_a_verdict(text: str) -> None:
    assert isinstance(patterns.problem(text), str)
