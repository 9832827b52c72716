"""The same count reads the same in the report, on the registry's page and on the command line."""

import re
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import yaml

from eval.cli.reporting import show
from eval.reports import model_index, page
from registry.model.evidence import Confident, SuiteResult, Tally
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


def test_a_count_has_one_interval_wherever_it_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    shown = page(REPORT, None, None)
    found = SimpleNamespace(
        report=REPORT, results=[RESULT], engine=ENGINE, answered="2026-11-24T03:00:00Z",
        calibration=None,
    )  # fmt: skip
    show("medical/coder@2", found)
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
    assert "Recorded on 2026-11-24 03:00:00 UTC by meter." in page(REPORT, None, recorded)
    assert "Not recorded" in page(REPORT, None, None)


def test_a_report_says_whether_the_version_may_be_promoted() -> None:
    for met, verdict in ((True, "It may become production."), (False, "It may not become")):
        asked = {
            "alias": "production", "guarded": True, "met": met,
            "requirements": [{"name": "approvals", "met": met, "evidence": "1 of 1", "remedy": ""}],
        }  # fmt: skip
        assert verdict in page(REPORT, asked, None)
