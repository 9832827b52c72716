"""Whether two versions gave the same answer to one request. Pure.

Texts are compared where both were asked at temperature 0: with sampling, one version differs from
itself. Times are compared where both found the same length of their prompt in the prefix cache.
They are compared without regard to white space and to how a letter is encoded. An answer is
correct if it is what the caller expects, letters' case and a final full stop aside.
"""

import unicodedata

import msgspec

from registry.model.comparisons import Comparison
from serving.outcomes.reading import Answer
from serving.telemetry.verdicts import Times


def compare(
    given: Answer,
    candidate: Answer,
    *,
    greedy: bool,
    expected: str | None = None,
    times: tuple[Times, Times] | None = None,
) -> Comparison:
    """What one request shows of a candidate.

    given: what the caller got. greedy: whether texts may be compared. expected: the answer that the
    caller expects. times: the engine's for `given` and for the candidate, if both are known.
    """
    ours, theirs = normalised(given.text), normalised(candidate.text)
    counts: dict[str, float] = {
        "compared": 1,
        "tokens": given.tokens,
        "candidate_tokens": candidate.tokens,
    }
    if greedy:
        counts |= {
            "texts": 1,
            "same_text": int(ours == theirs),
            "same_first": int(ours.split(" ", 1)[0] == theirs.split(" ", 1)[0]),
        }
    if expected is not None:
        wanted = _scored(expected)
        correct, candidate_correct = (
            _scored(given.text) == wanted,
            _scored(candidate.text) == wanted,
        )
        counts |= {
            "scored": 1,
            "correct": int(correct),
            "gained": int(candidate_correct and not correct),
            "lost": int(correct and not candidate_correct),
        }
    if times is not None and times[0].cached == times[1].cached:
        mine, other = times
        counts |= {
            "timed": 1,
            "first_seconds": mine.first,
            "candidate_first_seconds": other.first,
            "first_slower": int(other.first > mine.first),
            "token_seconds": mine.each,
            "candidate_token_seconds": other.each,
            "token_slower": int(other.each > mine.each),
        }
    return msgspec.convert(counts, Comparison)


def normalised(text: str) -> str:
    """`text` in Unicode's composed form, with single spaces between its words."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _scored(text: str) -> str:
    return normalised(text).casefold().removesuffix(".")
