"""Each alert, by promtool: that it fires when it should, that it does not when it should not, and
that it says what is wrong and where to read on."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.helm import CHART, ROOT

RULES = CHART / "files" / "alerts.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks"
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}


@dataclass(frozen=True)
class Case:
    """What Prometheus sees, minute by minute, and what an alert then says; nothing if silent."""

    alert: str
    what: str
    series: Mapping[str, str]
    at: str
    says: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def answered(ok: str, failed: str) -> dict[str, str]:
    made = 'lorary_requests_total{pool="p",domain="d",adapter="a",version="1",status='
    return {f'{made}"200"}}': ok, f'{made}"500"}}': failed}


def slow(name: str, low: str, high: str) -> dict[str, str]:
    """Half below the lower bound, or all below the higher."""
    bounds = {"1": low, "30": high, "+Inf": high}
    return {f'{name}_bucket{{pool="p",le="{le}"}}': values for le, values in bounds.items()}


def working(adapters: int) -> dict[str, str]:
    asked = 'lorary_requests_total{pool="p",instance="i",domain="d",version="1",status="200"'
    return {f'{asked},adapter="a{number}"}}': "0+1x60" for number in range(adapters)} | {
        'lorary_slots{pool="p",instance="i",where="memory"}': "4x60"
    }


def up(job: str, values: str) -> dict[str, str]:
    return {f'up{{job="{job}",instance="i",pool="p"}}': values}


POOL = {"pool": "p"}
REPLICA = {"pool": "p", "instance": "i"}
ALIAS = 'domain="d",adapter="a",alias="production"'
FIRST = "lorary_time_to_first_token_seconds"
REFUSED = "lorary_registry_refusals_total"
HEALTHY = "envoy_cluster_membership_healthy"
CASES = [
    Case("LoraryErrorBudgetBurnsFast", "one answer in ten fails", answered("0+90x120", "0+10x120"),
         "100m", "Pool p: 10% of answers fail", POOL),
    Case("LoraryErrorBudgetBurnsFast", "one in a hundred fails", answered("0+99x120", "0+1x120"),
         "100m"),
    Case("LoraryErrorBudgetBurnsFast", "it was bad and is over",
         answered("0+90x60 5490+100x60", "0+10x60 600x60"), "110m"),
    Case("LoraryErrorBudgetBurnsFast", "replicas leave",
         answered("0+100x120", "0x120") | {
             'lorary_refusals_total{pool="p",code="shutting_down"}': "0+50x120"}, "100m"),
    Case("LoraryErrorBudgetBurnsFast", "cold loads fail",
         answered("0+90x120", "0x120") | {
             'lorary_refusals_total{pool="p",code="cold_load_failed"}': "0+10x120"},
         "100m", "Pool p: 10% of answers fail", POOL),
    Case("LoraryErrorBudgetBurnsSlowly", "four in a hundred fail",
         answered("0+96x480", "0+4x480"), "430m",
         "Pool p: 4% of answers failed over six hours", POOL),
    Case("LoraryErrorBudgetBurnsSlowly", "two in a hundred fail",
         answered("0+98x480", "0+2x480"), "430m"),
    Case("LoraryFirstTokenSlow", "half take up to thirty seconds",
         slow(FIRST, "0+50x60", "0+100x60"), "40m",
         "Pool p: one stream in twenty begins after 27.1s or later", POOL),
    Case("LoraryFirstTokenSlow", "all begin within a second", slow(FIRST, "0+100x60", "0+100x60"),
         "40m"),
    Case("LoraryFirstTokenSlow", "nobody asks", slow(FIRST, "5x60", "9x60"), "40m"),
    Case("LoraryWorkingSetOverSlots", "six adapters for four places", working(6), "40m",
         "i is asked for 6 versions, more than its memory holds", REPLICA),
    Case("LoraryWorkingSetOverSlots", "four adapters for four places", working(4), "40m"),
    Case("LoraryColdLoadsSlow", "half take up to thirty seconds",
         slow("lorary_cold_load_seconds", "0+5x60", "0+10x60"), "40m",
         "Pool p: one cold load in twenty takes 27.1s or longer", POOL),
    Case("LoraryColdLoadsSlow", "all within a second",
         slow("lorary_cold_load_seconds", "0+9x60", "0+9x60"), "40m"),
    Case("LoraryRegistryStale", "ten minutes",
         {'lorary_registry_age_seconds{pool="p",instance="i"}': "0+60x30"}, "10m",
         "i last read the registry 10m 0s ago: revocations do not reach it", REPLICA),
    Case("LoraryRegistryStale", "a second",
         {'lorary_registry_age_seconds{pool="p",instance="i"}': "1x30"}, "10m"),
    Case("LoraryVerificationFailed", "one version",
         {'lorary_verification_failures_total{pool="p"}': "0x10 1x30"}, "15m",
         "Pool p: the bucket holds bytes that are not the published ones", POOL),
    Case("LoraryVerificationFailed", "none",
         {'lorary_verification_failures_total{pool="p"}': "0x40"}, "15m"),
    Case("LoraryAdapterFaulty", "two versions",
         {'lorary_faulty_adapters{pool="p",instance="i"}': "0x5 2x10"}, "10m",
         "i quarantines 2 versions: the engine computes NaN with them", REPLICA),
    Case("LoraryAdapterFaulty", "none",
         {'lorary_faulty_adapters{pool="p",instance="i"}': "0x20"}, "10m"),
    Case("LoraryReplicaDown", "five minutes", up("lorary-serving", "1x5 0x10"), "10m",
         "i of pool p does not answer", {**REPLICA, "job": "lorary-serving"}),
    Case("LoraryReplicaDown", "one minute", up("lorary-serving", "1x5 0x0 1x10"), "10m"),
    Case("LoraryFrontHasNoReplica", "none",
         {f'{HEALTHY}{{job="lorary-front",envoy_cluster_name="p"}}': "2x5 0x10"}, "10m",
         "The front sees no healthy replica of pool p", {"envoy_cluster_name": "p"}),
    Case("LoraryFrontHasNoReplica", "one",
         {f'{HEALTHY}{{job="lorary-front",envoy_cluster_name="p"}}': "1x15"}, "10m"),
    Case("LoraryFrontHasNoReplica", "a mesh has a service without hosts",
         {f'{HEALTHY}{{job="istio",envoy_cluster_name="q"}}': "0x15"}, "10m"),
    Case("LoraryFrontDown", "none of two answers",
         up("lorary-front", "1x5 0x10") | {'up{job="lorary-front",instance="j"}': "0x15"}, "10m",
         "No process of the front answers: apps reach no server"),
    Case("LoraryFrontDown", "it is not looked for any more", up("lorary-front", "1x70"), "80m",
         "No process of the front answers: apps reach no server", {"job": "lorary-front"}),
    Case("LoraryFrontDown", "one of two",
         up("lorary-front", "0x15") | {'up{job="lorary-front",instance="j"}': "1x15"}, "10m"),
    Case("LoraryFrontDown", "there never was one", {"other": "1x90"}, "80m"),
    Case("LoraryRegistryDown", "all", up("lorary-registry", "0x10"), "9m",
         "No registry process answers: nothing can be published, promoted or revoked"),
    Case("LoraryRegistryDown", "it is not even looked for", {"other": "1x10"}, "9m",
         "No registry process answers: nothing can be published, promoted or revoked",
         {"job": "lorary-registry"}),
    Case("LoraryRegistryDown", "one of two",
         up("lorary-registry", "0x10") | {'up{job="lorary-registry",instance="j"}': "1x10"}, "9m"),
    Case("LoraryStoreFails", "half a refusal a second",
         {f'{REFUSED}{{code="store_unavailable"}}': "0+30x30"}, "20m",
         "The registry cannot use its bucket (0.5 refusals a second)"),
    Case("LoraryStoreFails", "callers name what is not there",
         {f'{REFUSED}{{code="adapter_not_found"}}': "0+300x30"}, "20m"),
    Case("LoraryRollbackHappened", "two registries tell of one",
         {f'lorary_alias_rollbacks_total{{instance="{i}",{ALIAS}}}': "0x10 1x10" for i in "ij"},
         "15m", "d/a@production went back to an older version",
         {"domain": "d", "adapter": "a", "alias": "production"}),
    Case("LoraryRollbackHappened", "one long ago",
         {f'lorary_alias_rollbacks_total{{{ALIAS}}}': "1x40"}, "30m"),
    Case("LoraryWebhookGivesUp", "two events of one webhook",
         {'lorary_webhook_dead_letters{webhook="w",instance="i"}': "0x5 2x10"}, "10m",
         "Webhook w: 2 events were not delivered and are not tried any more", {"webhook": "w"}),
    Case("LoraryWebhookGivesUp", "everything arrives",
         {'lorary_webhook_dead_letters{webhook="w",instance="i"}': "0x15"}, "10m"),
    Case("LoraryKeyMisuse", "guessing at the gate",
         {'lorary_refusals_total{code="invalid_api_key"}': "0+120x60"}, "40m",
         "2.0 requests a second come with keys that open nothing"),
    Case("LoraryKeyMisuse", "guessing at the registry",
         {f'{REFUSED}{{code="forbidden"}}': "0+120x60"}, "40m",
         "2.0 requests a second come with keys that open nothing"),
    Case("LoraryKeyMisuse", "somebody forgot a key now and then",
         {'lorary_refusals_total{code="invalid_api_key"}': "0+6x60"}, "40m"),
]  # fmt: skip


def expected(case: Case) -> Sequence[dict[str, Any]]:
    """As promtool wants to be told."""
    if not case.says:
        return []
    rule = ALERTS[case.alert]
    annotations = {**rule["annotations"], "summary": case.says}
    return [{"exp_labels": {**rule["labels"], **case.labels}, "exp_annotations": annotations}]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}, {case.what}")
def test_an_alert_fires_when_it_should_and_only_then(case: Case, tmp_path: Path) -> None:
    document = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "30s",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": name, "values": values} for name, values in case.series.items()
                ],
                "alert_rule_test": [
                    {
                        "eval_time": case.at,
                        "alertname": case.alert,
                        "exp_alerts": expected(case),
                    }
                ],
            }
        ],
    }
    path = tmp_path / "case.yaml"
    path.write_text(yaml.safe_dump(document))
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_firing_and_silent() -> None:
    assert {case.alert for case in CASES if case.says} == set(ALERTS)
    assert {case.alert for case in CASES if not case.says} == set(ALERTS)


def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    done = subprocess.run(
        ["promtool", "check", "rules", "--lint-fatal", RULES], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_leads_to_a_runbook_that_says_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["runbook_url"] == f"RUNBOOKS/{alert}.md"
    text = (RUNBOOKS / f"{alert}.md").read_text()
    assert text.startswith(f"# {alert}\n")
    for section in ("## What it means", "## Look at", "## Do"):
        assert section in text, section


def test_every_runbook_belongs_to_an_alert_and_is_listed() -> None:
    written = {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"}
    assert written == set(ALERTS)
    listed = set(re.findall(r"\]\((\w+)\.md\)", (RUNBOOKS / "README.md").read_text()))
    assert listed == set(ALERTS)
