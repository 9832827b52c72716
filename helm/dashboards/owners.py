"""For a domain's owner: what its users get, what evaluations and experts say, what changed."""

from helm.dashboards.expressions import BY_VERSION, NAMED, mean, quantile, rate, share
from helm.dashboards.panels import Dashboard, Panel, Query, Row, panel

DOMAIN = {"domain": "$domain"}
ASKED = "lorary_requests_total"


def catalog(metric: str, by: str = BY_VERSION) -> str:
    """A gauge that every registry process shows alike."""
    return f'max by ({by}) ({metric}{{domain=~"$domain"}})'


USE = Row(
    "What users get",
    (
        panel("Answers", rate(ASKED, BY_VERSION, **DOMAIN), NAMED, "reqps"),
        panel("Failing answers",
              share(rate(ASKED, BY_VERSION, **DOMAIN, status="5.."), rate(ASKED, BY_VERSION, **DOMAIN)),
              NAMED, "percentunit", alarm=0.005),
        panel("Time to first token, p95",
              quantile(0.95, "lorary_time_to_first_token_seconds", BY_VERSION, **DOMAIN), NAMED, "s"),
        panel("Tokens in an hour",
              "sum by (adapter) (increase(lorary_tokens_total{domain=~\"$domain\"}[1h]))", "{{adapter}}"),
    ),
)  # fmt: skip
QUALITY = Row(
    "Quality",
    (
        panel("What a version still lacks", catalog("lorary_gate_unmet"), NAMED, alarm=1,
              why="Of what production names, and of the newest version. `lorary gate` says what."),
        panel("Experts who approved", catalog("lorary_approvals"), NAMED),
        panel("Evaluations recorded", catalog("lorary_evaluations"), NAMED),
        panel("User feedback", catalog("lorary_version_feedback", f"{BY_VERSION}, rating"),
              f"{NAMED} {{{{rating}}}}"),
        Panel("Expert reviews", (
            Query(catalog("lorary_reviews", "domain, state"), "{{domain}} {{state}}"),
            Query(catalog("lorary_review_judgements", "domain"), "{{domain}} items judged"),
        )),
        panel("Suites, by the newest evaluation",
              catalog("lorary_suite_share", f"{BY_VERSION}, suite, tally"),
              f"{NAMED} {{{{suite}}}} {{{{tally}}}}", "percentunit",
              why="Shares of items, without their bounds: gates weigh the bounds."),
    ),
)  # fmt: skip
CONFIDENCE = Row(
    "Confidence of answers",
    (
        Panel("Mean confidence of answers, and the threshold", (
            Query(mean("lorary_confidence", BY_VERSION, **DOMAIN), NAMED),
            Query(catalog("lorary_calibration_threshold"), f"threshold of {NAMED}"),
        ), "percentunit",
            "A mean that drifts while the version stays the same: users ask other things than the "
            "evaluation did. Calibrate again."),
        panel("Lowest tenth of confidence",
              quantile(0.1, "lorary_confidence", BY_VERSION, **DOMAIN), NAMED, "percentunit"),
        panel("Withheld", rate("lorary_withheld_total", BY_VERSION, **DOMAIN), NAMED, "reqps"),
    ),
)  # fmt: skip
CHANGE = Row(
    "What changed",
    (
        panel("Versions that aliases name", catalog("lorary_alias_version", "adapter, alias"),
              "{{adapter}}@{{alias}}"),
        Panel("Moves and rollbacks", (
            Query(catalog("lorary_alias_moves_total", "adapter, alias"), "{{adapter}}@{{alias}} moves"),
            Query(catalog("lorary_alias_rollbacks_total", "adapter, alias"), "{{adapter}}@{{alias}} back"),
        )),
        panel("Versions", catalog("lorary_catalog_versions", "domain, state"), "{{domain}} {{state}}"),
    ),
)  # fmt: skip
PAGE = Dashboard(
    "lorary-owners", "Lorary: a domain's owner", (USE, QUALITY, CONFIDENCE, CHANGE), ("domain",)
)
