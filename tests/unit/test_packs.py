"""Splits that leak nothing, and questions that can be answered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.packs.abstaining import UNKNOWN, untold, vague_words, with_unanswerable
from adapters.packs.contamination import contamination
from adapters.packs.exams import sound
from adapters.packs.financial import in_words
from adapters.packs.pack import DataSet, DomainPack, Item, split
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


def test_what_tells_nothing_of_a_text_is_its_longest_run_of_common_words() -> None:
    vague = frozenset({"disorders", "chronic", "site"})
    assert untold("Chronic disorders of the unspecified knee", vague) == (
        "Chronic disorders of the unspecified"
    )
    assert untold("Migraine of other site", vague) == "Other site"
    assert untold("Other and unspecified migraine", vague) == "", "joining words are no phrase"
    assert untold("Migraine", vague) == ""


def test_unanswerable_questions_stay_in_their_unit_and_repeat_no_text() -> None:
    known = [Item(f"Chronic site {n} thing", "ab"[n % 2], f"unit {n}") for n in range(10)]
    made = list(with_unanswerable(known, frozenset({"chronic", "site"}), share=0.5))[10:]
    assert [item.text for item in made] == ["Chronic site"], "one text, once"
    assert made[0].unit in {item.unit for item in known}
    assert made[0].label == UNKNOWN


def test_words_under_many_labels_are_vague() -> None:
    known = [Item("left eye", "a", "1"), Item("left ear", "b", "2"), Item("nose", "c", "3")]
    assert vague_words(known, spread=0.6) == {"left"}


LONG = " ".join(f"word{n}" for n in range(20))


@pytest.mark.parametrize(
    ("trained", "held_out", "exact", "passages"),
    [
        ("The left EYE, acute", "the left eye acute", 1, 0),
        (LONG, "before " + " ".join(LONG.split()[3:16]) + " after", 0, 1),
        (LONG, " ".join(LONG.split()[:12]) + " other words follow here", 0, 0),
        (LONG, " ".join(LONG.split()[2:11]), 0, 1),
        (LONG, "word1 word2", 0, 0),
    ],
)
def test_contamination_is_the_same_text_or_a_passage_of_thirteen_words(
    trained: str, held_out: str, exact: int, passages: int
) -> None:
    data = DataSet((Item(trained, "x", "u1"),), (Item(held_out, "x", "u2"),))
    found = contamination(data)
    assert (len(found.exact), len(found.passages)) == (exact, passages)
    assert found.units == ({"u2"} if exact or passages else set())


@pytest.mark.parametrize(
    ("text", "label", "is_sound"),
    [
        ("Q? A. one B. two C. three D. four", "B", True),
        ("Q?\n\na) one\nb) two\nc) three\nd) four", "D", True),
        ("Q? D. one C. two B. three A. four", "B", False),
        ("Q? A. one B. one C. three D. four", "B", False),
        ("Q? A. one B. two C. three D. four", "E", False),
    ],
)
def test_exam_rows_with_disordered_repeated_or_missing_options_are_left_out(
    text: str, label: str, is_sound: bool
) -> None:
    assert sound(text, label) == is_sound
