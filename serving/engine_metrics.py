"""vLLM's own metrics, with one series where there would be more forever, and its NaN counts.

Extension point: the entry-point group `vllm.stat_logger_plugins`. A class there that extends vLLM's
Prometheus logger takes its place.
"""

from typing import Any

from vllm.v1.metrics.loggers import PrometheusStatLogger

from serving.telemetry.verdicts import VERDICTS, Times


class EngineMetrics(PrometheusStatLogger):  # type: ignore[misc] # vLLM ships no types for it
    """What vLLM reports to Prometheus, and of which adapters run and wait only the latest.

    `vllm:lora_requests_info` is a series for each combination of names that ever ran together, its
    value the time. Whoever reads it, as the Gateway API's endpoint picker does, wants the newest.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        VERDICTS.reported = True
        if self.gauge_lora_info is not None:
            # The names it shows are those of all data-parallel ranks, and so are the slots.
            self.max_lora *= len(self.engine_indexes)

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, *arguments: Any, **named: Any
    ) -> None:
        """Take in one step of the engine."""
        if scheduler_stats is not None and self.gauge_lora_info is not None:
            self.gauge_lora_info.clear()
        if iteration_stats is not None:
            for finished in iteration_stats.finished_requests:
                aborted = str(finished.finish_reason) == "abort"
                VERDICTS.note(
                    finished.request_id,
                    corrupted=finished.is_corrupted,
                    aborted=aborted,
                    times=_times(finished),
                )
        super().record(scheduler_stats, iteration_stats, *arguments, **named)


def _times(finished: Any) -> Times | None:
    """How long the engine worked at a finished sequence; None if it was put off meanwhile."""
    if finished.num_preemptions:
        return None
    return Times(
        finished.prefill_time, finished.mean_time_per_output_token, finished.num_cached_tokens
    )
