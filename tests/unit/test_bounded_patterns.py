"""Regular expressions in linear time: they match what Python's match, and nothing stalls them."""

import random
import re
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.bounded_patterns import MAX_PATTERN, MAX_STATES, BoundedPattern, UnsafePattern
from tests.support.steps import steps

ATOMS = st.sampled_from(
    ["a", "b", "B", " ", r"\n", ".", "[ab]", "[^a]", r"\d", r"\w", r"\s", r"\W", "[a-c1]",
     r"\b", r"\B", "^", "$", r"\A", r"\Z"]
)  # fmt: skip


def grown(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    group = parts.map("(?:{})".format)
    return st.one_of(
        st.tuples(parts, parts).map("".join),
        st.tuples(parts, parts).map("|".join).map("({})".format),
        st.tuples(group, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "*?", "{2,}"])).map(
            "".join
        ),
    )


PATTERNS = st.recursive(ATOMS, grown, max_leaves=6)
TEXTS = st.text("abB1 \n,", max_size=10)


@settings(max_examples=200)
@given(PATTERNS, TEXTS, st.booleans())
def test_a_pattern_matches_what_pythons_engine_matches(
    pattern: str, text: str, ignore_case: bool
) -> None:
    flags = re.IGNORECASE if ignore_case else 0
    bounded = BoundedPattern(pattern, ignore_case=ignore_case)
    assert bounded.matches(text) == bool(re.fullmatch(pattern, text, flags))
    assert bounded.found_in(text) == bool(re.search(pattern, text, flags))


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"\byes\b[^.]{0,40}sleep", "Yes, you can go to sleep.", True),
        (r"\byes\b[^.]{0,40}sleep", "Yes. Do not go to sleep.", False),
        (r"you('ll| will) be fine", "YOU WILL BE FINE", True),
        (r"^\d+(\.\d+)? ?mg$", "5 mg", True),
        ("straße", "STRASSE", False),
        ("K", "\u212a", True),
    ],
)
def test_patterns_of_safety_probes_are_found_whatever_the_case(
    pattern: str, text: str, found: bool
) -> None:
    assert BoundedPattern(pattern, ignore_case=True).found_in(text) is found


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a)\1", "(?=a)b", "(?<!a)b", "(?>a+)b", "a++b", "(?P<x>a)(?(x)b|c)", "(?i)a", "(?i:a)",
        "(", "[z-a]", "a" * (MAX_PATTERN + 1), f"a{{{MAX_STATES}}}", "(a{50}){50}",
        "(((a{9}){9}){9}){9}", "(" * 900 + ")" * 900, "(((){999}){999}){999}",
        "a{99999999999999999999}",
    ],
)  # fmt: skip
def test_what_cannot_be_followed_in_linear_time_is_refused(pattern: str) -> None:
    with pytest.raises(UnsafePattern):
        BoundedPattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+b", "(a|a)*b", "(a*)*b", "a*a*a*a*a*b", "(.*.*.*)*=x", "([a-z]?){30}[a-z]{30}Z"],
)
def test_hostile_repetitions_cost_time_in_proportion_to_the_text(pattern: str) -> None:
    def cost(n: int) -> int:
        matcher = BoundedPattern(pattern)
        return steps(lambda: matcher.found_in("a" * n))

    assert cost(4000) < 3 * cost(2000)


def test_many_states_cost_little_more_than_to_visit_them_and_little_memory() -> None:
    text = "".join(random.Random(1).choices("ab", k=1000))
    matcher = BoundedPattern("(a|b)*a(a|b){300}c", ignore_case=True)
    tracemalloc.start()
    assert steps(lambda: matcher.found_in(text)) < 1000 * 305 * 8
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept < 8 << 20
