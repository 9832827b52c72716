"""Ratings are counted once, whatever comes twice, late or changed."""

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from registry.model.ratings import (
    CATEGORIES,
    COMPLAINTS,
    KEPT,
    RATINGS,
    Category,
    Feedback,
    Rating,
)

NOW = "2026-11-24T03:00:00Z"
given_opinions = st.lists(
    st.tuples(
        st.integers(0, 30),  # which answer; it was asked for at a third of that
        st.sampled_from(RATINGS),
        st.none() | st.sampled_from(CATEGORIES),
    ),
    max_size=60,
)


def asked_at(answer: int) -> int:
    return 1 + answer // 3


def give(
    feedback: Feedback, answer: int, rating: Rating, category: Category | None, kept: int = KEPT
) -> Feedback:
    name, at = f"answer-{answer}", asked_at(answer)
    if feedback.too_late(name, at):
        return feedback
    return feedback.with_opinion(name, at, rating, category, NOW, kept=kept)


@given(given_opinions)
def test_the_last_rating_about_each_answer_is_what_counts(
    history: list[tuple[int, Rating, Category | None]],
) -> None:
    feedback, model = Feedback(), dict[int, tuple[Rating, Category | None]]()
    for answer, rating, category in history:
        feedback = give(feedback, answer, rating, category)
        model[answer] = (rating, category)
    counts = Counter(rating for rating, _ in model.values())
    assert (feedback.tally.positive, feedback.tally.negative) == (
        counts["positive"],
        counts["negative"],
    )
    named = Counter(category for _, category in model.values() if category)
    assert feedback.categories == dict(named)
    negative = {f"answer-{answer}" for answer, (rating, _) in model.items() if rating == "negative"}
    assert {complaint.response for complaint in feedback.complaints} == negative
    again = msgspec.json.decode(msgspec.json.encode(feedback), type=Feedback)
    assert again == feedback


@given(given_opinions, st.integers(1, 5))
def test_memory_is_bounded_and_still_nothing_counts_twice(
    history: list[tuple[int, Rating, Category | None]], kept: int
) -> None:
    feedback, model = Feedback(), dict[int, Rating]()
    for answer, rating, category in history:
        if not feedback.too_late(f"answer-{answer}", asked_at(answer)):
            model[answer] = rating
        feedback = give(feedback, answer, rating, category, kept)
        assert len(feedback.opinions) <= kept
        assert list(feedback.opinions) == sorted(
            feedback.opinions, key=lambda opinion: (opinion.answered, opinion.response)
        )
    counts = Counter(model.values())
    assert feedback.tally.positive == counts["positive"]
    assert feedback.tally.negative == counts["negative"]


def test_of_many_complaints_the_latest_are_kept() -> None:
    feedback = Feedback()
    for answer in range(3 * COMPLAINTS):
        feedback = give(feedback, answer, "negative", None)
    assert len(feedback.complaints) == COMPLAINTS
    assert feedback.complaints[-1].response == f"answer-{3 * COMPLAINTS - 1}"
    assert feedback.tally.negative == 3 * COMPLAINTS


def test_a_rating_that_changes_its_mind_leaves_the_complaints() -> None:
    feedback = Feedback().with_opinion("a", 7, "negative", "harmful", NOW)
    feedback = feedback.with_opinion("a", 7, "positive", None, NOW)
    assert feedback.complaints == ()
    assert feedback.categories == {}
