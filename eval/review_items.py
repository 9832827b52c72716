"""Which answers experts should see: those where their judgement says most. Pure.

From a recorded report: items where two versions disagree, high-confidence errors,
answers that are as likely right as wrong, and some at random, so that what is never suspicious is
looked at, too.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SURE = 0.8
SPLIT = (0.35, 0.65)
Row = Mapping[str, Any]


def choose(report: Mapping[str, Any], other: str | None, n: int) -> list[dict[str, Any]]:
    """At most n items: prompt, answers, reference, a rubric's criteria, and the reason for each.

    other: the digest of the version shown beside, which the report must compare with; None shows
    this version's answers alone. A quarter of each kind as far as there are as many; the rest at
    random. Raises `KeyError` if the report does not compare with `other`.
    """
    rows = [row for suite in report["suites"] for row in _rows(suite, other)]
    kinds = {
        "versions disagree": [row for row in rows if row["disagree"]],
        "wrong and sure": [row for row in rows if row["right"] is False and row["sure"] >= SURE],
        "as likely right as wrong": [row for row in rows if SPLIT[0] <= row["sure"] <= SPLIT[1]],
        "at random": rows,
    }
    chosen: dict[str, dict[str, Any]] = {}
    for turn in range(n):
        for reason, candidates in kinds.items():
            quota = max(1, n // len(kinds)) if reason != "at random" else n
            if turn >= quota or len(chosen) >= n:
                continue
            row = next((r for r in _shuffled(candidates) if r["prompt"] not in chosen), None)
            if row is not None:
                chosen[row["prompt"]] = {
                    "prompt": row["prompt"],
                    "answers": row["answers"],
                    "reference": row["target"],
                    **row["rubric"],
                    "reason": reason,
                }
    return list(chosen.values())


def _rows(suite: Mapping[str, Any], other: str | None) -> Iterable[dict[str, Any]]:
    for task in suite["tasks"]:
        if task["role"] not in ("accuracy", "rubric") or not task["items"]:
            continue
        beside: Sequence[Row | None] = [None] * len(task["items"])
        if other is not None:
            if other not in task["others"]:
                raise KeyError(other)
            beside = task["others"][other]
        for item, compared in zip(task["items"], beside, strict=True):
            answers = [item["text"]] if compared is None else [item["text"], compared["text"]]
            yield {
                "prompt": item["prompt"],
                "answers": answers,
                "target": item["target"],
                "rubric": {name: item[name] for name in ("criteria", "passes") if name in item},
                "right": item["right"],
                "sure": item["confidence"],
                "disagree": len(set(answers)) > 1,
            }


def _shuffled(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """In an order that looks random and is the same every time."""
    return sorted(rows, key=lambda row: hashlib.sha256(row["prompt"].encode()).digest())
