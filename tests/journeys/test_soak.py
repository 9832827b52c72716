"""Everything at once, shortly: what `python -m benchmarks.soak` does in half an hour."""

from dataclasses import replace

import pytest

from benchmarks.soak.report import Report
from benchmarks.soak.soaking import SHORT, soak

BOUND = 5.0
"""Seconds within which replicas know what was committed: a poll is one, a loaded machine adds its
own. The command measures against two."""


@pytest.fixture(scope="module")
def report() -> Report:
    return soak(replace(SHORT, bound=BOUND))


def test_every_promise_is_kept_while_everything_happens_at_once(report: Report) -> None:
    print(report.text())
    assert not [promise for promise in report.promises if not promise.kept], report.text()


def test_everything_did_happen(report: Report) -> None:
    happened = report.happened
    assert happened.moves > 20
    assert happened.revoked >= 2
    assert happened.outages >= 1
    assert happened.terminated >= 2, "a replica in the middle, and vLLM at the end"
    assert happened.killed >= 1
    assert report.tally.left > 0
    assert report.tally.verdicts["right"] > 200
    assert report.tally.verdicts["revoked"] > 0
    first = SHORT.adapters * SHORT.versions * 3
    assert report.alone == first, "each version asked alone says its own word"
