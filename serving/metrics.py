"""What Prometheus sees of a replica, beside vLLM's own metrics on the same page.

Labels hold only names that the registry resolved, so callers cannot make up series.
"""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "lorary_requests",
    "Requests that reached the engine, by what served them and the answer's status",
    ["domain", "adapter", "version", "status"],
)
REFUSALS = Counter("lorary_refusals", "Requests refused by the gate, by error code", ["code"])
COLD_LOADS = Histogram(
    "lorary_cold_load_seconds",
    "Seconds to bring a version to this replica's disk, verified",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
REGISTRY_SEQUENCE = Gauge("lorary_registry_sequence", "The last commit this replica has folded")
REGISTRY_AGE = Gauge(
    "lorary_registry_age_seconds", "Seconds since the registry's log was last read successfully"
)
