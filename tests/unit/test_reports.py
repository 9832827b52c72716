"""The same count reads the same in the report, on the registry's page and on the command line."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import yaml

from eval.cli.judging import warn_publisher
from eval.cli.reporting import named, report_file, show
from eval.reports import model_index, page
from registry.errors import BadRequest
from registry.model.evidence import Confident, SuiteResult, Tally
from registry.model.requirement import Requirement, verdict_of
from registry.web.rendering import _interval
from tests.support.oracle import ENGINE

ACCURACY = Tally(hits=55, n=60, design_effect=1.8)
LEVEL = Confident(at=0.5, wrong=2, n=5, design_effect=1.4)
RESULT = SuiteResult(
    suite="toy", digest="1" * 64, held_out="2" * 64, tallies={"accuracy": ACCURACY},
    confident=(LEVEL,),
)  # fmt: skip


def item(name: str, confidence: float, *, right: bool) -> dict[str, Any]:
    return {
        "id": name, "unit": name, "right": right, "score": confidence, "confidence": confidence,
        "text": "Nose", "target": "Eye",
    }  # fmt: skip


REPORT: dict[str, Any] = {
    "version": {"name": "medical/coder@2", "digest": "2" * 64},
    "base": {"name": "tiny", "digest": "0" * 64},
    "production": None,
    "harness": "lm-eval",
    "suites": [
        {
            "about": "a toy",
            "result": msgspec.to_builtins(RESULT),
            "calibration": {
                "method": "isotonic", "n": 80, "target_risk": None, "threshold": 0.0,
            },
            "tasks": [
                {
                    "role": "accuracy",
                    "others": {},
                    "items": [
                        item("right", 0.9, right=True),
                        item("sure", 0.85, right=False),
                        item("unsure", 0.02, right=False),
                    ],
                }
            ],
        }
    ],
}  # fmt: skip


FOUND = SimpleNamespace(
    report=REPORT, results=[RESULT], engine=ENGINE, answered="2026-11-24T03:00:00Z",
    calibration=None,
)  # fmt: skip


def test_a_count_has_one_interval_wherever_it_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    shown = page(REPORT, None, None)
    show("medical/coder@2", FOUND)
    printed = capsys.readouterr().out
    metrics = yaml.safe_load(yaml.safe_dump(model_index(REPORT)))[0]["results"][0]["metrics"]
    for count in (ACCURACY, LEVEL):
        interval = _interval(count)
        assert interval in shown
        low, high = (round(float(part)) for part in re.findall(r"[0-9.]+", interval))
        assert f"({low}-{high})" in printed
    low, high = metrics[0]["args"]["interval_95"]
    assert f"{100 * low:.1f} to {100 * high:.1f} %" == _interval(ACCURACY)


def test_wrong_and_sure_lists_what_was_sure() -> None:
    shown = page(REPORT, None, None)
    assert '<th scope="row">sure</th>' in shown
    assert '<th scope="row">unsure</th>' not in shown


def test_a_report_says_who_recorded_it_and_when() -> None:
    recorded = {"evaluator": "meter", "time": "2026-11-24T03:00:00Z"}
    shown = page(
        REPORT, None, named({"evaluators": {"k1": "meter"}}, recorded | {"evaluator": "k1"})
    )
    assert "Recorded on 2026-11-24 03:00:00 UTC" in shown
    assert "<dd>meter k1</dd>" in shown
    assert "Not recorded" in page(REPORT, None, None)


REF = REPORT["version"]["name"]


def asked(*requirements: Requirement, guarded: bool = True) -> dict[str, Any]:
    return {"ref": REF, "alias": "production", "guarded": guarded,
            "requirements": msgspec.to_builtins(requirements)}  # fmt: skip


APPROVED = Requirement(name="approvals", met=True, evidence="1 of 1")
LACKING = Requirement(name="accuracy", met=False, evidence="10 of 90", remedy="train more")
HIDDEN = Requirement(name="expert review", met=False, hidden=True, evidence="a review is open")


@pytest.mark.parametrize(
    ("requirements", "guarded", "sentence"),
    [
        ([APPROVED], True, f"{REF} may become production: it meets the domain's policy."),
        ([], True, f"{REF} may become production: the domain's policy asks nothing."),
        ([], False, f"{REF} may become production: production is not guarded, so any version"),
        (
            [APPROVED, LACKING, HIDDEN],
            True,
            f"{REF} may not become production yet: 1 of 3 requirements not met, 1 hidden",
        ),
        ([APPROVED, HIDDEN], True, f"Whether {REF} may become production is hidden from you"),
        ([LACKING], False, f"{REF} may not become production yet: 1 of 1 requirement not met."),
    ],
)
def test_a_verdict_says_what_the_reader_may_know(
    requirements: list[Requirement], guarded: bool, sentence: str
) -> None:
    found = verdict_of(asked(*requirements, guarded=guarded))
    assert found.sentence.startswith(sentence)
    assert list(found.lacking) == [item for item in requirements if item is LACKING]


def test_a_report_and_what_is_printed_begin_with_the_verdict_and_what_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = asked(APPROVED, LACKING, HIDDEN)
    sentence, *_ = verdict_of(answer).sentence.partition(":")
    shown = page(REPORT, answer, None)
    begins = [sentence, "accuracy: 10 of 90", "<dt>Date</dt>", "<dt>Engine</dt>", "<h2>"]
    places = [shown.index(part) for part in begins]
    assert places == sorted(places)
    show(REF, FOUND, answer)
    printed = capsys.readouterr().out
    assert printed.startswith(sentence)
    assert "accuracy: 10 of 90 (train more)" in printed
    # The same reader: what is hidden reads as hidden, not as not met.
    states = re.findall(r'<span class="tag [a-z-]*">([a-z ]*)</span>', shown)
    assert states == ["met", "not met", "hidden"]


def test_a_report_names_the_pushed_task_and_the_digests_of_what_was_asked() -> None:
    (suite,) = REPORT["suites"]
    pushed = REPORT | {"suites": [suite | {"task": "toy@3"}]}
    shown = page(pushed, None, None)
    assert (
        "<li>toy, pushed as toy@3: questions <code>111111111111</code>, items <code>2222" in shown
    )


def test_a_report_is_written_only_as_what_its_suffix_says() -> None:
    assert report_file(Path("a/report.pdf")) == Path("a/report.pdf")
    for name in ("report.txt", "report", "report.PDF", "report.json.bak"):
        with pytest.raises(BadRequest, match=r"Use \.html"):
            report_file(Path(name))


def test_who_evaluates_what_they_published_is_warned(capsys: pytest.CaptureFixture[str]) -> None:
    version = {"ref": "medical/coder@1", "publisher": "one"}
    warn_publisher(version, "lry_two_x")
    assert capsys.readouterr().err == ""
    warn_publisher(version, "lry_one_x")
    assert "does not count" in capsys.readouterr().err
