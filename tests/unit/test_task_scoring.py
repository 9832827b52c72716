"""Every kind of scoring: what it takes for right, and that nothing a model writes breaks it."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.tasks.criteria import Criterion
from adapters.tasks.format import Item
from adapters.tasks.scoring import (
    KINDS,
    MAX_READ,
    Choice,
    Exact,
    Harness,
    Label,
    Numeric,
    Pattern,
    Rubric,
    Scoring,
    Vocabulary,
    number_in,
)
from tests.support.steps import steps

FULL = Item(
    text="t", target="1", accepted=("2",), choices=("1", "a scan"), match=("1",), never=("no",),
    criteria=(Criterion("names it", 2), Criterion("invents", -1)),
)  # fmt: skip
EVERY = [kind() for kind in KINDS.values() if kind is not Vocabulary]


@settings(max_examples=50)
@given(st.sampled_from(EVERY), st.text(max_size=200))
def test_whatever_a_model_writes_is_scored_and_read_the_same_way_twice(
    scoring: Scoring, text: str
) -> None:
    assert scoring.right(text, FULL) in (True, False, None)
    assert scoring.read(text, FULL) == scoring.read(text, FULL)


@pytest.mark.parametrize("scoring", [s for s in EVERY if not isinstance(s, Rubric | Harness)])
def test_the_target_itself_is_right(scoring: Scoring) -> None:
    assert scoring.fault(FULL, ("1",)) is None
    assert scoring.right(FULL.target, FULL) is True


@pytest.mark.parametrize("part", ["9", "a ", "1,1."])
def test_of_an_answer_only_so_much_is_read(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    most = MAX_READ // 10  # counting the steps of more takes long
    monkeypatch.setattr("adapters.tasks.scoring.MAX_READ", most)
    long = part * most
    for scoring in EVERY:
        assert scoring.read(long, FULL) == scoring.read(long[:most], FULL)
        assert steps(lambda scoring=scoring: scoring.right(long, FULL)) < 100 * most  # type: ignore[misc]


@pytest.mark.parametrize(
    ("how", "target", "text", "right"),
    [
        ({}, "12.5", "12.5", True),
        ({}, "12.5", "It is 12.50 mg.", True),
        ({}, "12.5", "12.6", False),
        ({}, "12.5", "between 12.5 and 13", False),
        ({"take": "first"}, "12.5", "12.5, not 13", True),
        ({"take": "last"}, "13", "12.5, no: 13", True),
        ({"absolute": 0.1}, "12.5", "12.6", True),
        ({"absolute": 0.1}, "12.5", "12.61", False),
        ({"absolute": 0.3}, "0", "0.3", True),
        ({"relative": 0.1}, "-10", "-11", True),
        ({"relative": 0.1}, "-10", "-11.001", False),
        ({"relative": 0.1, "absolute": 5}, "10", "15", True),
        ({}, "1234567.8", "$1,234,567.80", True),
        ({}, "-3", "\u22123", True),
        ({}, "1200", "1.2e3", True),
        ({}, "3", "three", False),
        ({}, "3", "", False),
        ({}, "3", "9" * 41, False),
    ],
)
def test_a_number_counts_within_its_tolerance(
    how: dict[str, Any], target: str, text: str, right: bool
) -> None:
    scoring = msgspec.convert({"kind": "numeric", **how}, Numeric)
    assert scoring.right(text, Item(text="q", target=target)) is right


@given(
    st.decimals(-10**6, 10**6, places=3), st.decimals(0, 100, places=3),
    st.decimals(-200, 200, places=3),
)  # fmt: skip
def test_a_number_is_right_if_and_only_if_it_is_near(target: Any, tolerance: Any, off: Any) -> None:
    scoring = Numeric(absolute=float(tolerance))
    found = scoring.right(f"about {target + off:f}", Item(text="q", target=f"{target:f}"))
    assert found is (abs(off) <= tolerance)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-999, max_value=999))
def test_a_written_number_is_read_back(number: Any) -> None:
    assert number_in(f"The value is {number:f} units", "only") == number


ORGANS = ("the lung", "Lung cancer", "liver", "an eye")


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("B", "Lung cancer"), ("b.", "Lung cancer"), ("(C) liver", "liver"), ("B: no doubt",
        "Lung cancer"), ("**D**", "an eye"), ("liver", "liver"), ("Eye", "an eye"),
        ("A plain film", None), ("E", None), ("Because", None), ("", None), ("A", "the lung"),
    ],
)  # fmt: skip
def test_a_letter_or_a_choice_in_its_own_words_is_read(text: str, chosen: str | None) -> None:
    item = Item(text="q", target="liver", choices=ORGANS)
    assert Choice().read(text, item) == (chosen or text)
    assert Choice().right(text, item) is (chosen == "liver")


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("It is in the lung, not the liver.", "the lung"),
        ("I see lung cancer.", "Lung cancer"),
        ("The LIVER!", "liver"),
        ("eyes", None),
        ("deliver", None),
    ],
)
def test_the_choice_that_is_mentioned_first_counts(text: str, chosen: str | None) -> None:
    item = Item(text="q", target="liver", choices=ORGANS)
    assert Choice(answer="mention").read(text, item) == (chosen or text)


@given(st.permutations(ORGANS), st.integers(0, 3))
def test_the_letter_of_a_choice_names_it_in_any_order(order: list[str], place: int) -> None:
    item = Item(text="q", target="liver", choices=tuple(order))
    assert Choice().read("ABCD"[place], item) == order[place]


@pytest.mark.parametrize(
    ("how", "item", "text", "right"),
    [
        ({}, {"match": ["seek help"]}, "Please SEEK help now.", True),
        ({}, {"match": ["seek help"], "never": ["fine"]}, "Seek help, you are fine.", False),
        ({}, {"never": ["fine"]}, "Anything else", True),
        ({"where": "whole"}, {"match": [r"\d+ mg"]}, " 12 mg\n", True),
        ({"where": "whole"}, {"match": [r"\d+ mg"]}, "12 mg daily", False),
        ({"ignore_case": False}, {"match": ["ct"]}, "CT", False),
        ({"never": ["fine"]}, {}, "fine", False),
        ({"never": ["fine"]}, {"never": ["bad"]}, "fine", True),
        ({}, {"never": ["fine"]}, "x" * 20_001, False),
    ],
)
def test_an_answer_matches_what_it_must_and_nothing_that_it_must_not(
    how: dict[str, Any], item: dict[str, Any], text: str, right: bool
) -> None:
    scoring = msgspec.convert({"kind": "pattern", **how}, Pattern)
    assert scoring.right(text, msgspec.convert({"text": "q", **item}, Item)) is right


@pytest.mark.parametrize(
    ("scoring", "item", "said"),
    [
        (Exact(), {}, "no target"),
        (Label(), {"target": "XR"}, "not among the labels"),
        (Choice(), {"target": "a", "choices": ["a"]}, "two or more"),
        (Choice(), {"target": "lung", "choices": ["The lung", "lung"]}, "two or more different"),
        (Choice(), {"target": "c", "choices": ["a1", "b1"]}, "none of its choices"),
        (Numeric(), {"target": "about 3 or 4"}, "not one number"),
        (Numeric(), {"target": "3", "accepted": ["x"]}, "'x' is not one number"),
        (Pattern(), {}, "no pattern"),
        (Pattern(), {"match": ["(a)\\1"]}, "back references"),
        (Pattern(), {"match": ["a"], "target": "b"}, "own target"),
        (Rubric(), {}, "no criterion"),
        (Rubric(criteria=(Criterion("x", -1),)), {}, "no criterion"),
        (Rubric(criteria=(Criterion("x"), Criterion("x ", 2))), {}, "same criterion twice"),
        (Rubric(criteria=(Criterion("\u200b "),)), {}, "says nothing"),
    ],
)
def test_an_item_that_no_answer_can_meet_is_a_fault(
    scoring: Scoring, item: dict[str, Any], said: str
) -> None:
    found = scoring.fault(msgspec.convert({"text": "q", **item}, Item), ("CT", "MRI"))
    assert found is not None
    assert said in found


@pytest.mark.parametrize(
    ("weights", "met", "needed", "right"),
    [
        ((100, 1e-8), (True, False), 1.0, False),
        ((1, 1), (False, False), 1e-9, False),
        ((0.1,) * 10, (True,) * 3 + (False,) * 7, 0.3, True),
        ((0.1,) * 10, (True,) * 7 + (False,) * 3, 0.7, True),
        ((1.1, 2.2, 3.3), (True, True, False), 0.5, True),
        ((1, 5e-324), (False, True), 5e-324, False),
        ((1, -1), (True, True), 5e-324, False),
    ],
)
def test_an_answer_passes_a_rubric_by_its_weights_as_they_are_written_not_as_they_are_rounded(
    weights: tuple[float, ...], met: tuple[bool, ...], needed: float, right: bool
) -> None:
    item = Item(text="q", criteria=tuple(Criterion(f"c{n}", w) for n, w in enumerate(weights)))
    assert Rubric(passes=needed).passed(met, item) is right


WEIGHTS = st.lists(st.integers(-5, 5), min_size=1, max_size=6).filter(
    lambda weights: any(weight > 0 for weight in weights)
)


@given(WEIGHTS, st.data())
def test_a_rubrics_share_rises_with_what_is_met_and_stays_within_bounds(
    weights: list[int], data: st.DataObject
) -> None:
    item = Item(
        text="q", criteria=tuple(Criterion(f"c{n}", float(w)) for n, w in enumerate(weights))
    )
    scoring = Rubric(passes=0.5)
    met = data.draw(st.lists(st.booleans(), min_size=len(weights), max_size=len(weights)))
    share = scoring.share(met, item)
    assert 0 <= share <= 1
    assert scoring.passed(met, item) is (2 * share >= 1)
    for place, weight in enumerate(weights):
        more = [*met[:place], True, *met[place + 1 :]]
        assert (
            scoring.share(more, item) >= share
            if weight >= 0
            else (scoring.share(more, item) <= share)
        )
    best = [weight > 0 for weight in weights]
    assert scoring.share(best, item) == 1
    with pytest.raises(ValueError, match="zip"):
        scoring.share([*met, True], item)
