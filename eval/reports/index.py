"""The numbers of a report as a model card's `model-index`.

Format: huggingface.co/docs/hub/model-cards, "Evaluation Results".
"""

from collections.abc import Mapping
from typing import Any

from eval.statistics import wilson


def model_index(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What goes under `model-index` in a card's header: every tally with its interval."""
    name = str(report["version"]["name"])
    results = []
    for suite in report["suites"]:
        found = suite["result"]
        metrics = []
        for measure, tally in found["tallies"].items():
            share = wilson(tally["hits"], tally["n"])
            metrics.append(
                {
                    "type": measure.replace(" ", "_"),
                    "name": measure,
                    "value": round(share.rate, 4),
                    "args": {
                        "n": share.n,
                        "wilson_95": [round(share.low, 4), round(share.high, 4)],
                    },
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
