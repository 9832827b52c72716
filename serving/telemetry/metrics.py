"""What Prometheus sees of a replica, beside vLLM's own metrics on the same page.

Labels hold only names that the registry resolved, so callers cannot make up series; and of the
series by adapter only those of the versions that were asked for last are kept, as many as the
setting `metric_versions` says.
"""

from collections import OrderedDict
from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from registry.model.ratings import RATINGS

_ADAPTER = ["domain", "adapter", "version"]
MAX_SPLITS = 100
"""Split aliases with series of their own."""
_SPLIT = ["domain", "adapter", "alias"]
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REQUESTS = Counter(
    "lorary_requests",
    "Requests that reached the engine, by what served them and the answer's status",
    [*_ADAPTER, "status"],
)
FIRST_TOKEN = Histogram(
    "lorary_time_to_first_token_seconds",
    "Seconds from the engine's getting a streamed request to its first piece",
    _ADAPTER,
    buckets=_SECONDS,
)
TIME_PER_TOKEN = Histogram(
    "lorary_time_per_output_token_seconds",
    "Seconds for each token of a stream after its first, one mean per stream",
    _ADAPTER,
    buckets=_SECONDS,
)
TOKENS = Counter("lorary_tokens", "Tokens made", _ADAPTER)
PROMPT_TOKENS = Counter("lorary_prompt_tokens", "Tokens of prompts, where answers tell", _ADAPTER)
CONFIDENCE = Histogram(
    "lorary_confidence",
    "Confidence of answers, where it was asked for",
    _ADAPTER,
    buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99),
)
WITHHELD = Counter("lorary_withheld", "Answers withheld for low confidence", _ADAPTER)
BY_ADAPTER = (
    REQUESTS, FIRST_TOKEN, TIME_PER_TOKEN, TOKENS, PROMPT_TOKENS, CONFIDENCE, WITHHELD
)  # fmt: skip
REFUSALS = Counter("lorary_refusals", "Requests refused by the gate, by error code", ["code"])
COLD_LOADS = Histogram(
    "lorary_cold_load_seconds",
    "Seconds to bring a version up, from wherever it was into the engine",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
VERIFICATION_FAILURES = Counter(
    "lorary_verification_failures", "Versions whose bytes in the bucket are not the published ones"
)
COLD_LOAD_PHASES = Histogram(
    "lorary_cold_load_phase_seconds",
    "Seconds of a cold load by phase: download (hashed as it comes), verify (what lay on the disk "
    "already), engine (its own load), trial (a version's first on this server)",
    ["phase"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
TIER_REQUESTS = Counter(
    "lorary_tier_requests",
    "Requests by where their version was: held by the engine, on disk, or only in the bucket",
    ["tier"],
)
SHARE_WAIT = Histogram(
    "lorary_share_wait_seconds",
    "Seconds a request waited because its key held its share of the engine's batch",
    buckets=(0.001, 0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
SLOT_WAIT = Histogram(
    "lorary_slot_wait_seconds",
    "Seconds a request waited until its adapter had one of the engine's slots",
    buckets=(0.001, 0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
BATCHING_WAIT = Histogram(
    "lorary_batching_wait_seconds",
    "Seconds a request with an adapter waited to enter the engine together with others",
    buckets=(0.001, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
)
EVICTIONS = Counter("lorary_evictions", "Versions given back, by tier", ["tier"])
RESIDENCY_CHECKS = Counter(
    "lorary_residency_checks", "Comparisons of the adapters held with the engine's own list"
)
RESIDENCY_DIVERGENCE = Counter(
    "lorary_residency_divergence",
    "Adapters that differed in such a comparison: missing from the engine, or unexpected in it",
    ["kind"],
)
ENGINE_NAMES = Gauge("lorary_engine_names", "Pinned names that the engine holds")
SLOTS = Gauge(
    "lorary_slots", "Adapters there is room for: in one batch, and in host memory", ["where"]
)
FAULTY_ADAPTERS = Gauge(
    "lorary_faulty_adapters", "Versions quarantined on this replica: the engine computes NaN"
)
CORRUPTED = Counter(
    "lorary_corrupted_answers", "Answers with NaN in their logits, replaced by an error"
)
RECOVERIES = Counter(
    "lorary_engine_recoveries", "Times that the engine's KV cache was erased because of NaN"
)
CACHE_BYTES = Gauge("lorary_cache_bytes", "Bytes of adapters on this replica's disk")
CACHE_ADAPTERS = Gauge("lorary_cache_adapters", "Adapters on this replica's disk")
IN_FLIGHT = Gauge("lorary_requests_in_flight", "Requests admitted and not yet answered in full")
LIMITED = Counter("lorary_limited", "Requests refused because of a limit, by limit", ["limit"])
BATCHES = Counter("lorary_batches", "Batches that ended on this replica, by how", ["status"])
BATCH_LINES = Counter("lorary_batch_lines", "Lines of batches answered, by outcome", ["outcome"])
for _outcome in ("ok", "error"):
    BATCH_LINES.labels(_outcome)
for _limit in ("key_requests", "key_tokens", "key_concurrency", "adapter_concurrency",
               "replica_concurrency"):  # fmt: skip
    LIMITED.labels(_limit)
for _tier in ("engine", "disk"):
    EVICTIONS.labels(_tier)
for _kind in ("missing", "unexpected"):
    RESIDENCY_DIVERGENCE.labels(_kind)
REGISTRY_SEQUENCE = Gauge("lorary_registry_sequence", "The last commit this replica has folded")
REGISTRY_AGE = Gauge(
    "lorary_registry_age_seconds", "Seconds since the registry's log was last read successfully"
)


CANARY_REQUESTS = Counter(
    "lorary_canary_requests",
    "Requests under split aliases by side (candidate or stable) and outcome (ok or error)",
    [*_SPLIT, "side", "outcome"],
)
ROLLBACKS = Counter(
    "lorary_rollbacks", "Candidates that this replica saw cross a bound, by bound", ["bound"]
)
ROLLBACKS_UNREPORTED = Gauge(
    "lorary_rollbacks_unreported",
    "Candidates no longer served here whose rollback the registry's log does not hold yet",
)
FEEDBACK = Counter("lorary_feedback", "Feedback stored, by rating", ["rating"])
for _rating in RATINGS:
    FEEDBACK.labels(_rating)


class Series:
    """Forgets the series of what nobody asked for in a long time."""

    def __init__(
        self,
        most: int = 500,
        metrics: Sequence[MetricWrapperBase] = BY_ADAPTER,
        names: Sequence[str] = _ADAPTER,
    ) -> None:
        self.most = most
        self._metrics = metrics
        self._names = names
        self._recent: OrderedDict[tuple[str, str, str], None] = OrderedDict()

    def touch(self, labels: tuple[str, str, str]) -> None:
        """It was asked for."""
        self._recent[labels] = None
        self._recent.move_to_end(labels)
        while len(self._recent) > self.most:
            oldest, _ = self._recent.popitem(last=False)
            for metric in self._metrics:
                metric.remove_by_labels(dict(zip(self._names, oldest, strict=True)))


SERIES = Series()
SPLIT_SERIES = Series(MAX_SPLITS, (CANARY_REQUESTS,), _SPLIT)
