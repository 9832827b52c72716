"""For the on-call engineer: one screen, and where to read on."""

from pathlib import Path

import yaml

from helm.dashboards.expressions import quantile, rate
from helm.dashboards.panels import Dashboard, Panel, Query, Row, panel

RULES = Path(__file__).parents[1] / "lorary" / "files" / "alerts.yaml"


def runbooks() -> str:
    """A link for each alert; the chart puts in where they are."""
    rules = [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]
    alerts = [rule["alert"].removeprefix("Lorary") for rule in rules if "alert" in rule]
    return "**Runbooks:** " + " · ".join(f"[{name}](RUNBOOKS/Lorary{name}.md)" for name in alerts)


NOW = Row(
    "Now",
    (
        panel("Alerts firing", "count(ALERTS{alertstate=\"firing\"}) or vector(0)", now=True, alarm=1),
        panel("Failing answers",
              "sum(lorary:failures:rate5m) / sum(lorary:answers:rate5m)", unit="percentunit",
              now=True, alarm=0.005),
        panel("First token, p95",
              "histogram_quantile(0.95, sum by (le) (rate(lorary_time_to_first_token_seconds_bucket[5m])))",
              unit="s", now=True, alarm=5),
        panel("Waiting in engines", "sum(vllm:num_requests_waiting)", now=True, alarm=50),
        panel("Cold loads, p95",
              "histogram_quantile(0.95, sum by (le) (rate(lorary_cold_load_seconds_bucket[15m])))",
              unit="s", now=True, alarm=10),
        panel("Registry last read", "max(lorary_registry_age_seconds)", unit="s", now=True, alarm=60),
        panel("Servers up", "sum(up{job=\"lorary-serving\"})", now=True),
        panel("The front sends to",
              "sum(envoy_cluster_membership_healthy{envoy_cluster_name!=\"admin\"})", now=True),
        panel("Registries up", "sum(up{job=\"lorary-registry\"})", now=True),
        panel("Bad bytes in an hour", "sum(increase(lorary_verification_failures_total[1h]))",
              now=True, alarm=1),
        panel("Rollbacks in an hour",
              "sum(max by (domain, adapter, alias) (increase(lorary_alias_rollbacks_total[1h])))", now=True),
        panel("Store refusals a second",
              "sum(rate(lorary_registry_refusals_total{code=~\"store_unavailable|store_busy|outcome_unknown|broken_chain\"}[5m]))"
              " or vector(0)", unit="reqps", now=True, alarm=0.05),
    ),
)  # fmt: skip
LATELY = Row(
    "Lately",
    (
        Panel("Answers and failures", (
            Query("sum by (pool) (lorary:answers:rate5m)", "{{pool}} answers"),
            Query("sum by (pool) (lorary:failures:rate5m)", "{{pool}} failures"),
        ), "reqps"),
        panel("First token by replica, p95",
              quantile(0.95, "lorary_time_to_first_token_seconds", "instance"), "{{instance}}", "s", alarm=5),
        panel("Refused by the gate", rate("lorary_refusals_total", "code"), "{{code}}", "reqps"),
    ),
)  # fmt: skip
PAGE = Dashboard("lorary-on-call", "Lorary: on call", (NOW, LATELY), links=runbooks())
