"""The numbers of a report as a model card's `model-index`.

Format: huggingface.co/docs/hub/model-cards, "Evaluation Results".
"""

from collections.abc import Mapping
from typing import Any

from msgspec import convert

from registry.model.evidence import Tally, interval


def model_index(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What goes under `model-index` in a card's header: every tally with its interval."""
    name = str(report["version"]["name"])
    results = []
    for suite in report["suites"]:
        found = suite["result"]
        metrics = []
        for measure, tally in found["tallies"].items():
            hits, n = tally["hits"], tally["n"]
            low, high = interval(convert(tally, Tally))
            metrics.append(
                {
                    "type": measure.replace(" ", "_"),
                    "name": measure,
                    "value": round(hits / n, 4),
                    "args": {"n": n, "interval_95": [round(low, 4), round(high, 4)]},
                }
            )
        results.append(
            {
                "task": {"type": "text-generation", "name": suite["about"]},
                "dataset": {
                    "name": found["suite"],
                    "type": "lorary-suite",
                    "revision": found["held_out"],
                },
                "metrics": metrics,
                "source": {"name": f"Lorary, {report['harness']}, suite {found['digest'][:12]}"},
            }
        )
    return [{"name": name, "results": results}]
