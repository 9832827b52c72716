"""What Prometheus sees of shadow traffic: series of the latest shadowed aliases only."""

from prometheus_client import Counter, Histogram

from registry.model.comparisons import Comparison
from serving.telemetry.metrics import MAX_SPLITS, Series

_ALIAS = ["domain", "adapter", "alias"]
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

REQUESTS = Counter(
    "lorary_shadow_requests",
    "Requests chosen for a candidate by outcome: compared, failed or dropped",
    [*_ALIAS, "outcome"],
)
DROPPED = Counter(
    "lorary_shadow_dropped",
    "Chosen requests that no candidate was asked, or not to the end, by reason",
    ["reason"],
)
AGREEMENT = Counter(
    "lorary_shadow_agreement",
    "Answers at temperature 0 by whether the candidate's text, or its first word, is the same",
    [*_ALIAS, "part", "same"],
)
CORRECT = Counter(
    "lorary_shadow_correct",
    "Answers that were what the caller expected, of those where it was given, by side",
    [*_ALIAS, "side"],
)
SCORED = Counter(
    "lorary_shadow_scored", "Compared requests whose caller sent the expected answer", _ALIAS
)
TOKENS = Counter("lorary_shadow_tokens", "Tokens of compared answers by side", [*_ALIAS, "side"])
FIRST = Histogram(
    "lorary_shadow_first_token_seconds",
    "Seconds of the engine to a compared answer's first token, its waiting left out, by side",
    [*_ALIAS, "side"],
    buckets=_SECONDS,
)
EACH = Histogram(
    "lorary_shadow_token_seconds",
    "Mean seconds of the engine for each further token of a compared answer, by side",
    [*_ALIAS, "side"],
    buckets=_SECONDS,
)
REASONS = (
    "queue_full", "busy", "cold", "budget", "ended", "unreadable", "deadline_exceeded", "disk_full",
    "engine_fault", "shutting_down", "too_many_cold_loads", "version_gone", "version_revoked",
)  # fmt: skip
for _reason in REASONS:
    DROPPED.labels(_reason)

SHADOW_SERIES = Series(
    MAX_SPLITS, (REQUESTS, AGREEMENT, CORRECT, SCORED, TOKENS, FIRST, EACH), _ALIAS
)


def observe(alias: tuple[str, str, str], seen: Comparison) -> None:
    """Count what was seen of one request. alias: its domain, adapter and name."""
    SHADOW_SERIES.touch(alias)
    for outcome in ("compared", "failed", "dropped"):
        if count := getattr(seen, outcome):
            REQUESTS.labels(*alias, outcome).inc(count)
    if seen.compared:
        TOKENS.labels(*alias, "given").inc(seen.tokens)
        TOKENS.labels(*alias, "candidate").inc(seen.candidate_tokens)
    if seen.texts:
        for part, same in (("text", seen.same_text), ("first_word", seen.same_first)):
            AGREEMENT.labels(*alias, part, "yes").inc(same)
            AGREEMENT.labels(*alias, part, "no").inc(seen.texts - same)
    if seen.scored:
        SCORED.labels(*alias).inc(seen.scored)
        CORRECT.labels(*alias, "given").inc(seen.correct)
        CORRECT.labels(*alias, "candidate").inc(seen.candidate_correct)
    if seen.timed:
        FIRST.labels(*alias, "given").observe(seen.first_seconds)
        FIRST.labels(*alias, "candidate").observe(seen.candidate_first_seconds)
        EACH.labels(*alias, "given").observe(seen.token_seconds)
        EACH.labels(*alias, "candidate").observe(seen.candidate_token_seconds)
