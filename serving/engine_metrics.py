"""A replacement for vLLM's Prometheus logger that also reports each request's NaN count to Lorary.

It is registered in the entry-point group `vllm.stat_logger_plugins`: vLLM uses a class from there
that extends its Prometheus logger instead of its own.
"""

from typing import Any

from vllm.v1.metrics.loggers import PrometheusStatLogger

from serving.telemetry.verdicts import VERDICTS, Times


class EngineMetrics(PrometheusStatLogger):  # type: ignore[misc] # vLLM ships no types for it
    """vLLM's metrics, with a single series of `vllm:lora_requests_info`; and `VERDICTS`' source.

    vLLM keeps a series of that gauge for every combination of adapters that ever ran or waited
    together, without bound; its value is the time. Readers such as the Gateway API's endpoint
    picker use the newest only, so the others are removed.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        VERDICTS.reported = True
        if self.gauge_lora_info is not None:
            # The gauge lists the adapters of all data-parallel ranks, so it counts all their slots.
            self.max_lora *= len(self.engine_indexes)

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, *arguments: Any, **named: Any
    ) -> None:
        """Record the statistics of one step of the engine, and note the requests that finished.

        scheduler_stats, iteration_stats: vLLM's `SchedulerStats` and `IterationStats`; None if the
        step has none. Further arguments are passed to vLLM's logger.
        """
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
    """The engine's times for a finished sequence; None if it was preempted, which distorts them.

    finished: vLLM's `FinishedRequestStats`.
    """
    if finished.num_preemptions:
        return None
    return Times(
        finished.prefill_time, finished.mean_time_per_output_token, finished.num_cached_tokens
    )
