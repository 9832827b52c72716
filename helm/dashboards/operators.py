"""For operators: traffic, latency, saturation, residency, rollouts, the registry, cost."""

from helm.dashboards.expressions import BY_VERSION, NAMED, quantile, rate, share, top
from helm.dashboards.panels import Dashboard, Panel, Query, Row, panel

POOL = {"pool": "$pool"}
FIRST = "lorary_time_to_first_token_seconds"
ASKED = "lorary_requests_total"

TRAFFIC = Row(
    "Traffic and errors",
    (
        panel("Answers by status", rate(ASKED, "pool, status", **POOL), "{{pool}} {{status}}", "reqps"),
        panel("Busiest adapters", top(rate(ASKED, BY_VERSION, **POOL)), NAMED, "reqps"),
        panel("Refused by the gate", rate("lorary_refusals_total", "code", **POOL), "{{code}}", "reqps",
              why="404, 401 and 403 are callers' doing; cold_load_failed, engine_refused are ours."),
        panel("Failing answers by adapter",
              top(share(rate(ASKED, BY_VERSION, **POOL, status="5.."), rate(ASKED, BY_VERSION, **POOL))),
              NAMED, "percentunit", alarm=0.005),
        panel("Limits that were reached", rate("lorary_limited_total", "limit", **POOL), "{{limit}}",
              "reqps"),
        panel("At the front by class of status",
              rate("envoy_http_downstream_rq_xx", "envoy_response_code_class",
                   envoy_http_conn_manager_prefix="api"),
              "{{envoy_response_code_class}}xx", "reqps",
              why="What callers saw, after the front asked another replica."),
    ),
)  # fmt: skip
LATENCY = Row(
    "Latency",
    (
        Panel("Time to first token", (
            Query(quantile(0.5, FIRST, "pool", **POOL), "{{pool}} p50"),
            Query(quantile(0.95, FIRST, "pool", **POOL), "{{pool}} p95"),
            Query(quantile(0.99, FIRST, "pool", **POOL), "{{pool}} p99"),
        ), "s", alarm=5),
        panel("Time per output token, p95", quantile(0.95, "lorary_time_per_output_token_seconds", "pool", **POOL),
              "{{pool}}", "s"),
        panel("Slowest adapters to begin, p95", top(quantile(0.95, FIRST, BY_VERSION, **POOL)),
              NAMED, "s"),
    ),
)  # fmt: skip
SATURATION = Row(
    "Saturation",
    (
        Panel("Requests in the engine", (
            Query("sum by (pool) (vllm:num_requests_running{pool=~\"$pool\"})", "{{pool}} running"),
            Query("sum by (pool) (vllm:num_requests_waiting{pool=~\"$pool\"})", "{{pool}} waiting"),
        )),
        panel("In-flight by replica", "sum by (instance) (lorary_requests_in_flight{pool=~\"$pool\"})",
              "{{instance}}", why="Affinity may load replicas unevenly, up to front.spreadAbove."),
        panel("KV cache in use", "max by (instance) (vllm:kv_cache_usage_perc{pool=~\"$pool\"})",
              "{{instance}}", "percentunit", alarm=0.95),
        panel("Waiting in the engine, p95",
              quantile(0.95, "vllm:request_queue_time_seconds", "pool", **POOL), "{{pool}}", "s"),
        panel("Prompt tokens found in the prefix cache",
              share(rate("vllm:prefix_cache_hits_total", "pool", **POOL),
                    rate("vllm:prefix_cache_queries_total", "pool", **POOL)),
              "{{pool}}", "percentunit"),
        panel("Replicas that the front sends to", "min by (envoy_cluster_name) "
              "(envoy_cluster_membership_healthy{envoy_cluster_name!=\"admin\"})",
              "{{envoy_cluster_name}}"),
    ),
)  # fmt: skip
RESIDENCY = Row(
    "Where adapters are",
    (
        panel("Requests by where their adapter was", rate("lorary_tier_requests_total", "tier", **POOL),
              "{{tier}}", "reqps", why="bucket and disk are cold; engine is not."),
        Panel("Working set and places", (
            Query("max by (instance) (lorary:working_set:10m{pool=~\"$pool\"})", "{{instance}} asked for"),
            Query("max by (where) (lorary_slots{pool=~\"$pool\"})", "places in {{where}}"),
        ), why="More asked for than memory holds: each request may read the disk."),
        Panel("Cold loads", (
            Query(quantile(0.5, "lorary_cold_load_seconds", "pool", **POOL), "{{pool}} p50"),
            Query(quantile(0.95, "lorary_cold_load_seconds", "pool", **POOL), "{{pool}} p95"),
        ), "s", alarm=10),
        panel("Phases of a cold load, p95",
              quantile(0.95, "lorary_cold_load_phase_seconds", "phase", **POOL), "{{phase}}", "s"),
        panel("Waiting for a slot, p95", quantile(0.95, "lorary_slot_wait_seconds", "pool", **POOL),
              "{{pool}}", "s", why="Adapters take turns when more are asked for than a batch holds."),
        panel("Waiting for a share, p95", quantile(0.95, "lorary_share_wait_seconds", "pool", **POOL),
              "{{pool}}", "s", why="A key that sends more than its share of the batch waits."),
        panel("Given back", rate("lorary_evictions_total", "tier", **POOL), "from {{tier}}", "ops"),
        Panel("Held", (
            Query("sum by (instance) (lorary_engine_names{pool=~\"$pool\"})", "{{instance}} in engine"),
            Query("sum by (instance) (lorary_cache_adapters{pool=~\"$pool\"})", "{{instance}} on disk"),
        )),
        panel("Disk used by adapters", "sum by (instance) (lorary_cache_bytes{pool=~\"$pool\"})",
              "{{instance}}", "bytes"),
        panel("Bytes that were not the published ones",
              "sum by (pool) (increase(lorary_verification_failures_total{pool=~\"$pool\"}[1h]))",
              "{{pool}}", alarm=1),
    ),
)  # fmt: skip
ROLLOUTS = Row(
    "Rollouts",
    (
        panel("Versions that aliases name",
              top("max by (domain, adapter, alias) (lorary_alias_version)", 20),
              "{{domain}}/{{adapter}}@{{alias}}"),
        Panel("Moves and rollbacks in an hour", (
            Query("sum(max by (domain, adapter, alias) (increase(lorary_alias_moves_total[1h])))", "moves"),
            Query("sum(max by (domain, adapter, alias) (increase(lorary_alias_rollbacks_total[1h])))",
                  "back to an older version"),
        )),
        panel("Requests under split aliases",
              rate("lorary_canary_requests_total", "domain, adapter, alias, side, outcome", **POOL),
              "{{domain}}/{{adapter}}@{{alias}} {{side}} {{outcome}}", "reqps"),
        panel("Rollbacks that the log does not hold yet",
              "sum by (instance) (lorary_rollbacks_unreported{pool=~\"$pool\"})", "{{instance}}", alarm=1,
              why="This replica ended a split and could not tell the registry."),
        panel("Callers who get a candidate",
              "max by (domain, adapter, alias, candidate) (lorary_alias_canary_percent)",
              "{{domain}}/{{adapter}}@{{candidate}} of {{alias}}", why="Percent of an alias's callers."),
    ),
)  # fmt: skip
REGISTRY = Row(
    "Registry",
    (
        panel("Requests", top(rate("lorary_registry_requests_total", "route, status")),
              "{{route}} {{status}}", "reqps"),
        panel("Refused", rate("lorary_registry_refusals_total", "code"), "{{code}}", "reqps"),
        panel("Slowest routes, p95", top(quantile(0.95, "lorary_registry_request_seconds", "route"), 8),
              "{{route}}", "s"),
        Panel("Commits", (
            Query("sum(rate(lorary_registry_commits_total[$__rate_interval]))", "written"),
            Query("sum(rate(lorary_registry_commit_conflicts_total[$__rate_interval]))", "decided again"),
        ), "ops"),
        panel("Seconds to commit, p95",
              "histogram_quantile(0.95, sum by (le) (rate(lorary_registry_commit_seconds_bucket[$__rate_interval])))",
              "p95", "s"),
        Panel("Behind the registry", (
            Query("max by (instance) (lorary_registry_age_seconds{pool=~\"$pool\"})", "{{instance}} last looked"),
        ), "s", "A revocation reaches a replica when it looks.", alarm=60),
    ),
)  # fmt: skip
COST = Row(
    "Cost in tokens",
    (
        Panel("Tokens made and read", (
            Query(rate("lorary_tokens_total", "pool", **POOL), "{{pool}} made"),
            Query(rate("lorary_prompt_tokens_total", "pool", **POOL), "{{pool}} of prompts"),
        ), "ops"),
        panel("Tokens made by domain", rate("lorary_tokens_total", "domain", **POOL), "{{domain}}", "ops"),
        panel("Tokens made in an hour by adapter",
              top("sum by (domain, adapter) (increase(lorary_tokens_total{pool=~\"$pool\"}[1h]))"),
              "{{domain}}/{{adapter}}"),
    ),
)  # fmt: skip
PAGE = Dashboard(
    "lorary-operators",
    "Lorary: operators",
    (TRAFFIC, LATENCY, SATURATION, RESIDENCY, ROLLOUTS, REGISTRY, COST),
    ("pool",),
)
