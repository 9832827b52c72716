"""Splits that leak nothing, and questions that can be answered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.packs.financial import in_words
from adapters.packs.pack import DomainPack, Item, split
from adapters.packs.sources import Source

LABELS = ("red", "blue")
items = st.lists(
    st.builds(
        Item,
        st.text(min_size=1, max_size=4),
        st.sampled_from(LABELS),
        st.sampled_from([f"unit {n}" for n in range(12)]),
    ),
    max_size=60,
)


@given(items, st.integers(1, 5))
def test_no_unit_and_no_text_is_on_both_sides(given_items: list[Item], most: int) -> None:
    data = split(given_items, LABELS, (most, most))
    assert not {i.unit for i in data.train} & {i.unit for i in data.held_out}
    texts = [i.text.casefold() for i in (*data.train, *data.held_out)]
    assert len(texts) == len(set(texts))
    for side in (data.train, data.held_out):
        assert all(sum(i.label == label for i in side) <= most for label in LABELS)


@given(items, st.randoms())
def test_the_split_does_not_depend_on_the_sources_order_of_distinct_texts(
    given_items: list[Item], random: "st.DataObject"
) -> None:
    distinct = list({i.text.casefold(): i for i in given_items}.values())
    shuffled = list(distinct)
    random.shuffle(shuffled)  # type: ignore[attr-defined] # hypothesis's Random
    assert split(distinct, LABELS, (9, 9)) == split(shuffled, LABELS, (9, 9))


def test_a_text_with_two_answers_is_dropped() -> None:
    data = split([Item("x", "red", "a"), Item("X", "blue", "b")], LABELS, (9, 9))
    assert data.train == data.held_out == ()


def test_an_unknown_label_is_an_error() -> None:
    with pytest.raises(ValueError, match="not a label"):
        split([Item("x", "green", "a")], LABELS, (9, 9))


def test_the_labels_stand_before_the_item_so_that_prompts_share_their_beginning() -> None:
    source = Source("p", "1", "p.whl", "0" * 64, "MIT")
    pack = DomainPack(
        domain="d", adapter="a", title="t", instruction="Which?", noun="Thing", labels=LABELS,
        sources=(source,), read=list, demo_text="", limits="None.",
    )  # fmt: skip
    asked = pack.question_with_labels(Item("sky", "blue", "u"))
    assert asked.index("- red") < asked.index("Thing: sky")
    assert pack.question(Item("sky", "blue", "u")) == "Which?\n\nThing: sky"


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ("AccountsPayableCurrent", "Accounts Payable Current"),
        ("UnearnedESOPShares", "Unearned ESOP Shares"),
    ],
)
def test_tags_are_read_as_words(tag: str, words: str) -> None:
    assert in_words(tag) == words
