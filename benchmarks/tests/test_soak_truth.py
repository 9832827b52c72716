"""The soak's judge: it finds what is wrong, and only that."""

import math

import pytest

from benchmarks.soak.truth import Asked, Life, Span, Told, Truth, judge

A, B = "medical/coder@1", "medical/coder@2"


@pytest.fixture
def truth() -> Truth:
    """`@production` moved from 1 to 2 at second 100; version 2 revoked at second 200."""
    made = Truth(bound=2, patience=1, digests={A: "a", B: "b"})
    made.moves["medical"] = [(Told(0, 1), A), (Told(100, 101), B)]
    made.revoked[B] = Told(200, 201)
    return made


def answer(version: str, sent: float, **changes: object) -> Asked:
    given = {
        "replica": "r", "name": "medical", "sent": sent, "answered": sent + 0.5, "status": 200,
        "version": version, "digest": version.replace("medical/coder@1", "a").replace(B, "b"),
    }  # fmt: skip
    return Asked(**{**given, **changes})  # type: ignore[arg-type]


def verdict(truth: Truth, asked: Asked, life: Life | None = None) -> str:
    return judge(truth, life or Life(), asked)


@pytest.mark.parametrize(
    ("version", "sent", "expected"),
    [
        (A, 50, "right"),
        (B, 50, "wrong version"),
        (B, 99.6, "right"),  # moved while the request was on its way
        (A, 103.9, "right"),  # not yet known
        (A, 104.1, "wrong version"),
        (B, 104.1, "right"),
        (B, 202.9, "right"),
        (B, 203.1, "revoked version served"),
    ],
)
def test_an_alias_may_name_what_a_replica_could_know(
    truth: Truth, version: str, sent: float, expected: str
) -> None:
    assert verdict(truth, answer(version, sent)) == expected


def test_what_the_store_kept_from_a_replica_is_excused_until_it_caught_up(truth: Truth) -> None:
    truth.outages.append(Span(101.5, 130))
    assert verdict(truth, answer(A, 131.9)) == "right"
    assert verdict(truth, answer(A, 133.1)) == "wrong version"


def test_an_outage_that_lasts_excuses_while_it_lasts(truth: Truth) -> None:
    truth.outages.append(Span(202))
    assert verdict(truth, answer(B, 900)) == "right"


def test_a_move_without_an_acknowledgement_may_have_happened_or_not(truth: Truth) -> None:
    truth.moves["medical"].insert(1, (Told(50, math.inf), "medical/coder@3"))
    truth.digests["medical/coder@3"] = "c"
    unsure = answer("medical/coder@3", 60, digest="c")
    assert verdict(truth, unsure) == "right"
    assert verdict(truth, answer(A, 60)) == "right"
    assert verdict(truth, answer("medical/coder@3", 105, digest="c")) == "wrong version"


def test_headers_and_words_are_both_believed_only_if_right(truth: Truth) -> None:
    assert verdict(truth, answer(A, 50, digest="b")) == "wrong digest"
    assert verdict(truth, answer(A, 50, right_words=False)) == "another version's words"
    assert verdict(truth, answer(A, 50, broke_off=True)) == "answer broke off"


def failure(status: int, code: str, *, sent: float = 50, retry_after: bool = True) -> Asked:
    return Asked(
        replica="r", name="medical", sent=sent, answered=sent + 1, status=status, code=code,
        retry_after=retry_after,
    )  # fmt: skip


def test_a_refusal_counts_as_declared_only_where_there_is_a_reason(truth: Truth) -> None:
    assert verdict(truth, failure(410, "version_revoked", sent=202)) == "revoked"
    assert "though it is not" in verdict(truth, failure(410, "version_revoked"))
    assert verdict(truth, failure(503, "cold_load_failed")).startswith("undeclared")
    truth.outages.append(Span(49, 52))
    assert verdict(truth, failure(503, "cold_load_failed")) == "store away"
    bare = failure(503, "cold_load_failed", retry_after=False)
    assert verdict(truth, bare).startswith("undeclared")
    assert verdict(truth, failure(500, "internal_error")).startswith("undeclared")
    assert verdict(truth, failure(404, "unknown_version")).startswith("undeclared")


def test_silence_is_excused_by_a_kill_and_a_refused_connection_by_an_absence(truth: Truth) -> None:
    cut, refused = failure(0, "ReadError"), failure(0, "ConnectError")
    assert verdict(truth, cut) == "lost: ReadError"
    assert verdict(truth, cut, Life(killed=[Span(50.5, 60)])) == "no answer"
    ended = Life(told_to_end=[Span(40, 60)])
    assert verdict(truth, cut, ended) == "lost: ReadError", "who leaves loses nothing"
    at_once = Asked(replica="r", name="medical", sent=50, answered=50.1, code="ReadError")
    assert verdict(truth, at_once, ended) == "no answer", "an idle connection was closed"
    assert verdict(truth, at_once) == "lost: ReadError"
    broken = answer(A, 50, broke_off=True, ended=58)
    assert verdict(truth, broken, Life(killed=[Span(57, 70)])) == "no answer", "killed in the midst"
    assert verdict(truth, broken, Life(killed=[Span(60, 70)])) == "answer broke off"
    assert verdict(truth, refused, ended) == "no answer"
    assert verdict(truth, failure(503, "shutting_down"), ended) == "shutting_down"
    assert verdict(truth, answer(A, 50, broke_off=True), ended) == "answer broke off"
