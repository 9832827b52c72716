"""vLLM's own metrics, with one series where there would be more for ever.

Extension point: the entry-point group `vllm.stat_logger_plugins`. A class there that extends vLLM's
Prometheus logger takes its place.
"""

from typing import Any

from vllm.v1.metrics.loggers import PrometheusStatLogger


class EngineMetrics(PrometheusStatLogger):  # type: ignore[misc] # vLLM ships no types for it
    """What vLLM tells Prometheus, and of which adapters run and wait only the latest.

    `vllm:lora_requests_info` is a series for each combination of names that ever ran together, its
    value the time. Whoever reads it, as the Gateway API's endpoint picker does, wants the newest.
    """

    def record(self, scheduler_stats: Any, *arguments: Any, **named: Any) -> None:
        """Take in one step of the engine."""
        if scheduler_stats is not None and self.gauge_lora_info is not None:
            self.gauge_lora_info.clear()
        super().record(scheduler_stats, *arguments, **named)
