"""Counters of one registry process, for Prometheus.

What the catalog says is read at each scrape instead (`registry.http.metrics`).
"""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "lorary_registry_requests",
    "Requests by route and the answer's status",
    ["method", "route", "status"],
)
SECONDS = Histogram(
    "lorary_registry_request_seconds",
    "Seconds until an answer began, by route",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
REFUSALS = Counter("lorary_registry_refusals", "What was refused, by error code", ["code"])
COMMITS = Counter("lorary_registry_commits", "Commits that this process wrote")
CONFLICTS = Counter(
    "lorary_registry_commit_conflicts", "Commits decided again because another process was first"
)
COMMIT_SECONDS = Histogram(
    "lorary_registry_commit_seconds",
    "Seconds from taking a group of commands to its answer",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
DELIVERIES = Counter(
    "lorary_webhook_deliveries",
    "Attempts to deliver events to a webhook: delivered, failed, or dead (given up)",
    ["webhook", "outcome"],
)
LAG = Gauge(
    "lorary_webhook_lag_commits",
    "Commits since the last one of which a webhook got everything; in the process that delivers",
    ["webhook"],
)
DEAD_LETTERS = Gauge(
    "lorary_webhook_dead_letters",
    "Events that were given up; in the process that delivers",
    ["webhook"],
)
