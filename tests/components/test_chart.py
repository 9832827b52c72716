"""The chart through a real Helm: what it renders, what it refuses, and what every pod keeps to."""

import functools
import http.server
import json
import os
import runpy
import subprocess
import threading
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from helm.values_docs import README, with_table
from registry.settings import RegistrySettings
from serving import batch_api
from serving.counting import COUNT_TOKENS
from serving.gate import FEEDBACK, PREFETCH
from serving.request.routes import ROUTES
from serving.settings import ServingSettings
from tests.support import schemas
from tests.support.helm import CHART, HelmRefused, helm, render
from tests.support.policies import pods, violations
from tests.support.servers import BIN

SETS = sorted((CHART / "ci").glob("*-values.yaml"))
EVERYTHING = CHART / "ci" / "everything-values.yaml"
SERVERS_FIRST = CHART / "files" / "servers_first.py"
MINIMAL: dict[str, Any] = yaml.safe_load((CHART / "ci" / "minimal-values.yaml").read_text())


@functools.cache
def rendered(values: Path) -> list[dict[str, Any]]:
    return render(values)


def of_kind(manifests: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {m["metadata"]["name"]: m for m in manifests if m["kind"] == kind}


def with_values(**changes: Any) -> list[dict[str, Any]]:
    return render({**MINIMAL, **changes})


def one(field: str, **entry: Any) -> dict[str, Any]:
    """Values of every pod with one entry in a list; an init container's with what it must have."""
    if field == "initContainers":
        few = {"cpu": "1", "memory": "1Gi"}
        entry = {
            "name": "x",
            "image": "x:1",
            "resources": {"requests": few, "limits": few},
            **entry,
        }
    return {"podDefaults": {field: [entry]}}


@pytest.fixture(params=SETS, ids=lambda path: path.name.removesuffix("-values.yaml"))
def manifests(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return rendered(request.param)


def test_there_are_five_sets_of_values() -> None:
    names = {path.name.removesuffix("-values.yaml") for path in SETS}
    assert names == {"minimal", "s3", "gpu", "gateway", "everything"}


@pytest.mark.parametrize("values", SETS, ids=lambda path: path.stem)
def test_helm_finds_nothing_to_criticise(values: Path) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), "--values", str(values))


def test_every_manifest_is_what_kubernetes_and_its_extensions_expect(
    manifests: list[dict[str, Any]],
) -> None:
    wrong = {
        f"{m['kind']}/{m['metadata']['name']}": found
        for m in manifests
        if (found := schemas.problems(m))
    }
    assert not wrong


def test_a_misspelt_field_of_any_kind_would_be_noticed() -> None:
    everything = [*rendered(EVERYTHING), *rendered(CHART / "ci" / "gateway-values.yaml")]
    kinds = {m["kind"]: m for m in everything if "spec" in m}
    assert {"Deployment", "ServiceMonitor", "PrometheusRule", "ScaledObject"} <= set(kinds)
    assert {"InferencePool", "HTTPRoute", "NetworkPolicy", "CronJob"} <= set(kinds)
    for kind, manifest in kinds.items():
        spoilt = {**manifest, "spec": {**manifest["spec"], "sepc": 1}}
        assert schemas.problems(spoilt), f"nobody would notice a misspelt field in a {kind}"


@pytest.mark.skipif(
    "LORARY_CRDS" not in os.environ, reason="LORARY_CRDS names no folder with whole definitions"
)
@pytest.mark.parametrize("kind", sorted(schemas.ours()), ids="/".join)
def test_the_fields_we_keep_of_an_extension_are_its_own(kind: schemas.Kind) -> None:
    theirs = dict(schemas.fields(schemas.whole()[kind]))
    for path, of_type in schemas.fields(schemas.ours()[kind]):
        assert theirs.get(path) in (of_type, "any"), f"{kind}: {path}"


def test_no_pod_breaks_a_policy(manifests: list[dict[str, Any]]) -> None:
    assert list(pods(manifests))
    assert not violations(manifests)


def test_the_policies_notice_what_they_are_for() -> None:
    [(_, pod)] = [pair for pair in pods(with_values()) if "registry" in pair[0]]
    spec = pod["spec"]
    container = spec["containers"][0]
    container["securityContext"] = {"privileged": True}
    container["resources"] = {"requests": {"cpu": 1}}
    container["image"] = "lorary/registry:latest"
    container["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "in plain sight"})
    spec["securityContext"] = {"runAsUser": 0}
    spec["hostNetwork"] = True
    spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}})
    manifest = {"kind": "Deployment", "metadata": {"name": "x"}, "spec": {"template": pod}}
    found = "\n".join(violations([manifest]))
    for word in (
        "root", "seccomp", "hostNetwork", "hostPath", "privileges", "capabilities",
        "write its root", "requests for memory", "limits for cpu", "not pinned", "plain sight",
    ):  # fmt: skip
        assert word in found, word


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"store": {}}, "url"),
        ({"store": {"url": "/store"}}, "claim"),
        ({"store": {"url": "ftp://x"}}, "store"),
        ({"store": {"url": "s3://b", "endpoint": "https://user:secret@host"}}, "endpoint"),
        ({"registri": {}}, "registri"),
        ({"registry": {"replicas": 0}}, "replicas"),
        ({"registry": {"image": {"repository": "x", "tag": "latest"}}}, "tag"),
        ({"registry": {"resources": {"limits": None}}}, "limits"),
        ({"registry": {"settings": {"LORARY_SESSION_SECRET": "x"}}}, "SESSION_SECRET"),
        ({"registry": {"settings": {"AWS_SECRET_ACCESS_KEY": "x"}}}, "AWS_SECRET"),
        ({"serving": {"keySecret": {"name": "x", "value": "lry_1_2"}}}, "value"),
        *(
            ({"pools": {"small": {"base": "b", "model": "/m", "settings": {name: "x"}}}}, name)
            for name in (
                "LORARY_SERVING_KEY",
                "LORARY_KEY",
                "LORARY_S3_PASSWORD",
                "LORARY_HF_TOKEN",
            )
        ),
        ({"pools": {"small": {"model": "/m"}}}, "base"),
        ({"pools": {"Small": {"base": "b", "model": "/m"}}}, "Small"),
        ({"pools": {"small": {"base": "b", "model": "/m", "maxLoraRank": 12}}}, "maxLoraRank"),
        ({"pools": {"small": {"base": "b", "model": "/m", "vllm": ["model=x"]}}}, "vllm"),
        ({"front": {"kind": "nginx"}}, "kind"),
        ({"front": {"spreadAbove": 50}}, "spreadAbove"),
        ({"jobs": {"nightly": {"schedule": "0 3 * * *"}}}, "args"),
        ({"jobs": {"nightly": {"args": [], "schedule": "at night"}}}, "schedule"),
        ({"pools": {n: {"base": n, "model": "/m"} for n in ("a", "b")}}, "pools.b.domains"),
        (
            {"pools": {n: {"base": n, "model": "/m", "domains": ["tax"]} for n in ("a", "b")}},
            "pool a serves tax already",
        ),
        ({"pools": {"x" * 60: {"base": "b", "model": "/m"}}}, "more than 63"),
        (
            {"pools": {"a": {"base": "b", "model": "/m", "autoscaling": {"min": 9, "max": 3}}}},
            "min is above max",
        ),
        ({"front": {"kind": "gateway"}, "networkPolicy": {"gateway": []}}, "data plane"),
        ({"registry": {"extraEnv": [{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}]}}, "extraEnv"),
        ({"podDefaults": {"extraVolumes": [{"name": "x", "hostPath": {"path": "/"}}]}}, "hostPath"),
        ({"jobDefaults": {"tolerations": [{"taint": "x"}]}}, "taint"),
        ({"front": {"affinity": {"nodeAfinity": {}}}}, "nodeAfinity"),
        ({"podDefaults": {"initContainers": [{"name": "x", "image": "x:1"}]}}, "resources"),
        ({"pools": {"small": {"base": "b", "model": "/models/x"}}}, "mounted at /models"),
        (
            {
                "pools": {
                    "small": {
                        "modelImage": {"reference": "models/b:1"},
                        **MINIMAL["pools"]["small"],
                    }
                }
            },
            "not both",
        ),
        ({"jobs": {"x" * 60: {"args": ["gc"]}}}, "more than 52"),
        (
            {"podDefaults": {"extraVolumes": [{"name": "tmp", "configMap": {"name": "x"}}]}},
            "a volume tmp already",
        ),
        (
            {"front": {"extraVolumeMounts": [{"name": "site", "mountPath": "/site"}]}},
            "front: nothing in extraVolumes is named site",
        ),
        (
            {"pools": {"a": {"base": "b", "model": "/m", "rollingUpdate": {"maxSurge": "0%"}}}},
            "are both 0",
        ),
        (
            {
                **one("extraVolumes", name="site", configMap={"name": "x"}),
                "pools": {
                    "a": {
                        "base": "b",
                        "model": "/models/x",
                        "extraVolumeMounts": [{"name": "site", "mountPath": "/etc/site"}],
                    }
                },
            },
            "mounted at /models",
        ),
        ({"proxy": {"https": "http://user:secret@proxy:3128"}}, "https"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(HelmRefused, match=said):
        with_values(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"podDefaults": {"podLabels": {"app.kubernetes.io/component": "x"}}},
        {"poolDefaults": {"podLabels": {"lorary/pool": "x"}}},
        one("extraVolumeMounts", name="x", mountPath="/tmp"),
        one(
            "extraEnv", name="X", value="x", valueFrom={"fieldRef": {"fieldPath": "spec.nodeName"}}
        ),
        one("initContainers", name="registry"),
        one("initContainers", image="localhost:5000/x"),
        one("initContainers", securityContext={"privileged": True}),
        one("initContainers", securityContext={"readOnlyRootFilesystem": False}),
        one("initContainers", securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}),
        {"networkPolicy": {"clients": [{"podSelctor": {}}]}},
        {"networkPolicy": {"clients": [{"podSelector": {"matchLables": {"a": "b"}}}]}},
        {"global": {"imageRegistry": "https://mirror"}},
        {"global": {"imageRegistry": "mirror/"}},
        {"registry": {"image": {"repository": "lorary/registry:1.2"}}},
        {"poolDefaults": {"vllm": ["--api-key=x"]}},
        {"jobDefaults": {"schedule": "@nightly"}},
        {"monitoring": {"dashboardLabel": ""}},
        {"front": {"affinity": True}},  # renamed to adapterAffinity
    ],
    ids=str,
)
def test_the_schema_refuses(changes: dict[str, Any]) -> None:
    schema = jsonschema.Draft7Validator(json.loads((CHART / "values.schema.json").read_text()))
    assert schema.is_valid({**MINIMAL, **one("initContainers")})
    assert not schema.is_valid({**MINIMAL, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"front": {"kind": "gateway"}}, "inference extension"),
        ({"monitoring": {"enabled": True}}, "Prometheus Operator"),
    ],
)
def test_what_the_cluster_lacks_is_reported_before_anything_is_installed(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(HelmRefused, match=said):
        render({**MINIMAL, **changes}, kinds=())


def test_servers_are_reached_through_the_front_and_by_nobody_else() -> None:
    policies = of_kind(rendered(CHART / "ci" / "minimal-values.yaml"), "NetworkPolicy")
    [rule] = policies["lorary-serving-small"]["spec"]["ingress"]
    components = [
        peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in rule["from"]
    ]
    assert components == ["front", "job", "registry"]
    for policy in policies.values():
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_a_serving_pod_may_end_what_runs_before_it_is_killed(
    manifests: list[dict[str, Any]],
) -> None:
    for name, deployment in of_kind(manifests, "Deployment").items():
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        pod = deployment["spec"]["template"]["spec"]
        [container] = pod["containers"]
        if "serving" in name:
            set_to = {v["name"]: v.get("value") for v in container["env"]}
            notice = int(set_to["LORARY_DRAIN_DELAY_SECONDS"])
            needed = notice + int(set_to["LORARY_SHUTDOWN_GRACE_SECONDS"])
            # Two failed checks of five seconds, two of Envoy's of two.
            assert notice >= 10
        elif "front" in name:
            needed = int(container["lifecycle"]["preStop"]["exec"]["command"][2])
        else:
            needed = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod["terminationGracePeriodSeconds"] >= needed + 10


def test_every_setting_that_the_chart_sets_is_one(manifests: list[dict[str, Any]]) -> None:
    known = {
        f"LORARY_{field.upper()}"
        for settings in (RegistrySettings, ServingSettings)
        for field in settings.model_fields
    } | {"LORARY_KEY", "LORARY_REGISTRY_URL"}
    for name, pod in pods(manifests):
        for variable in pod["spec"]["containers"][0].get("env", []):
            if variable["name"].startswith("LORARY_"):
                assert variable["name"] in known, f"{name}: {variable['name']}"


def test_pools_elsewhere_are_sent_to_and_not_deployed() -> None:
    everything = rendered(EVERYTHING)
    assert "lorary-adapters-serving-elsewhere" not in of_kind(everything, "Deployment")
    config = of_kind(everything, "ConfigMap")["lorary-adapters-front"]["data"]["clusters.yaml"]
    assert "gpu-1.example.internal" in config


@pytest.mark.parametrize("values", SETS, ids=lambda path: path.stem)
def test_envoy_takes_the_configuration(values: Path, tmp_path: Path) -> None:
    found = next((m for m in rendered(values) if "envoy.yaml" in m.get("data", {})), None)
    if yaml.safe_load(values.read_text()).get("front", {}).get("kind") == "gateway":
        assert found is None
        return
    assert found is not None
    for name, text in found["data"].items():
        (tmp_path / name).write_text(text.replace("/etc/envoy", str(tmp_path)))
    # A certificate is only there in the cluster.
    (tmp_path / "tls").mkdir()
    (tmp_path / "certificate.yaml").write_text("resources: []\n")
    config = tmp_path / "envoy.yaml"
    command = [str(BIN / "envoy"), "--mode", "validate", "--config-path", str(config)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "eprecated" not in done.stderr
    # What it reads when it runs, as if it read it at the start.
    static = yaml.safe_load(config.read_text())
    del static["dynamic_resources"]
    for cluster in yaml.safe_load((tmp_path / "clusters.yaml").read_text())["resources"]:
        static["static_resources"]["clusters"].append(without_type(cluster))
    [routes] = yaml.safe_load((tmp_path / "routes.yaml").read_text())["resources"]
    [chain] = static["static_resources"]["listeners"][0]["filter_chains"]
    manager = chain["filters"][0]["typed_config"]
    del manager["rds"]
    manager["route_config"] = without_type(routes)
    config.write_text(yaml.safe_dump(static))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "eprecated" not in done.stderr


def without_type(resource: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in resource.items() if name != "@type"}


def test_the_values_table_is_the_one_of_the_values() -> None:
    made = with_table(README.read_text(), (CHART / "values.yaml").read_text())
    assert README.read_text() == made, "run: python -m helm.values_docs"


def test_what_the_chart_prints_names_every_secret_it_needs() -> None:
    values = {**MINIMAL, "store": {"url": "s3://bucket", "credentialsSecret": "bucket-key"}}
    arguments = ["install", "lorary", str(CHART), "--dry-run=client", "--values", "-"]
    values["jobs"] = {"icd10": {"args": ["train"]}}
    notes = helm(*arguments, stdin=yaml.safe_dump(values))
    assert "create job --from=cronjob/lorary-icd10 icd10-1" in notes
    assert "bucket-key" in notes
    assert "lorary-session" in notes


def test_every_path_that_a_server_serves_is_routed_by_the_front_and_by_a_gateway() -> None:
    served = {*ROUTES, PREFETCH, FEEDBACK, COUNT_TOKENS, *batch_api.ROUTES}
    routes = of_kind(rendered(CHART / "ci" / "gateway-values.yaml"), "HTTPRoute")
    [rule] = routes["lorary-api"]["spec"]["rules"]
    default = rule["matches"]
    # A route has at most 128 matches, so each pool with domains has one of its own.
    [rule] = routes["lorary-api-large"]["spec"]["rules"]
    assert all("legal|financial" in m["headers"][0]["value"] for m in rule["matches"])
    assert {m["path"]["value"] for m in default if m["method"] == "POST"} == served
    [config] = [m for m in with_values() if "envoy.yaml" in m.get("data", {})]
    for path in served:
        assert path in config["data"]["routes.yaml"]


def test_servers_get_the_address_and_the_key_to_report_with() -> None:
    manifests = with_values()
    [server] = [pod for name, pod in pods(manifests) if "serving" in name]
    environment = {v["name"]: v for v in server["spec"]["containers"][0]["env"]}
    key = environment["LORARY_SERVING_KEY"]["valueFrom"]["secretKeyRef"]
    assert key == {"name": "lorary-serving", "key": "key"}
    [service] = [m for m in manifests if m["kind"] == "Service" and "registry" in name_of(m)]
    port = service["spec"]["ports"][0]["port"]
    url = environment["LORARY_REGISTRY_URL"]["value"]
    assert url == f"http://{name_of(service)}:{port}"
    [registry] = [pod for name, pod in pods(manifests) if "registry" in name]
    policies = {name_of(m): m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"}
    [way_out] = [spec for name, spec in policies.items() if "serving" in name]
    allowed = [
        rule["ports"][0]["port"]
        for rule in way_out["egress"]
        for peer in rule.get("to", [])
        if matches(peer.get("podSelector", {}), registry)
    ]
    assert allowed == [registry["spec"]["containers"][0]["ports"][0]["containerPort"]]


def test_only_those_who_must_report_reach_a_registry_that_is_closed_to_others() -> None:
    peer = {"podSelector": {"matchLabels": {"app": "portal"}}}
    manifests = with_values(networkPolicy={"clients": [peer]})
    [server] = [pod for name, pod in pods(manifests) if "serving" in name]
    [way_in] = [
        m["spec"]["ingress"][0]["from"]
        for m in manifests
        if m["kind"] == "NetworkPolicy" and "registry" in name_of(m)
    ]
    assert any(matches(peer.get("podSelector", {}), server) for peer in way_in)


def test_large_numbers_reach_programs_as_whole_numbers() -> None:
    pool = {**MINIMAL["pools"]["small"], "maxModelLen": 1048576, "concurrency": 2000000}
    manifests = with_values(pools={"small": pool}, front={"maxRequests": 3000000})
    assert "e+06" not in yaml.safe_dump(manifests)
    [server] = [pod for name, pod in pods(manifests) if "serving" in name]
    environment = {v["name"]: v.get("value") for v in server["spec"]["containers"][0]["env"]}
    assert environment["LORARY_MAX_MODEL_LEN"] == "1048576"


def test_a_registry_alone_has_no_front_and_none_that_envoy_refuses() -> None:
    manifests = with_values(pools={}, monitoring={"enabled": True})
    assert set(of_kind(manifests, "Deployment")) == {"lorary-registry"}
    assert "lorary-front" not in of_kind(manifests, "ServiceMonitor")


def test_without_a_front_clients_reach_the_servers() -> None:
    peer = {"podSelector": {"matchLabels": {"app": "portal"}}}
    for clients in ([], [peer]):
        manifests = with_values(front={"kind": "none"}, networkPolicy={"clients": clients})
        policy = of_kind(manifests, "NetworkPolicy")["lorary-serving-small"]
        assert policy["spec"]["ingress"][0].get("from", []) == clients


def test_nobody_need_scrape() -> None:
    manifests = with_values(
        monitoring={"enabled": True},
        networkPolicy={"monitoring": [], "clients": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
    )
    front = of_kind(manifests, "NetworkPolicy")["lorary-front"]["spec"]["ingress"]
    assert [rule["ports"][0]["port"] for rule in front] == ["http"], "not open to anybody"


def test_neither_more_replicas_nor_another_chart_restart_an_engine() -> None:
    made = []
    for replicas in (2, 5):
        pool = {**MINIMAL["pools"]["small"], "replicas": replicas}
        manifests = with_values(pools={"small": pool})
        made.append(of_kind(manifests, "Deployment")["lorary-serving-small"]["spec"]["template"])
        told = of_kind(manifests, "ConfigMap")["lorary-serving-small"]["data"]
        assert told == {"replicas": str(replicas)}
    assert made[0] == made[1]
    assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(made[0]["metadata"]["labels"])


def test_fields_of_every_pod_may_be_left_empty() -> None:
    fields = ("extraEnv", "extraVolumes", "initContainers", "podAnnotations", "podLabels")
    assert with_values(podDefaults=dict.fromkeys(fields)) == with_values()


def test_names_and_proxies_of_digits_are_taken_for_what_they_are() -> None:
    proxy = {"http": "http://10.0.0.5", "https": "http://[fd00::1]:3128"}
    endpoints = [{"address": "fd00::", "port": 8000}]
    pools_ = {"70": {**MINIMAL["pools"]["small"], "domains": ["tax"]}}
    pools_["on"] = {**MINIMAL["pools"]["small"], "endpoints": endpoints}
    manifests = with_values(proxy=proxy, pools=pools_)
    servers = of_kind(manifests, "Deployment")["lorary-serving-70"]
    assert servers["spec"]["selector"]["matchLabels"]["lorary/pool"] == "70"
    policy = of_kind(manifests, "NetworkPolicy")["lorary-registry"]["spec"]
    ports = [rule["ports"][0]["port"] for rule in policy["egress"]]
    assert ports == [53, 80, 3128, 443, 8000]
    files = of_kind(manifests, "ConfigMap")["lorary-front"]["data"]
    clusters = yaml.safe_load(files["clusters.yaml"])["resources"]
    assert [cluster["name"] for cluster in clusters] == ["70", "on"]
    [endpoint] = clusters[1]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert endpoint["endpoint"]["address"]["socket_address"]["address"] == "fd00::"


def test_a_full_cluster_may_replace_replicas_in_place() -> None:
    update = {"maxUnavailable": 1, "maxSurge": 0}
    pool = {**MINIMAL["pools"]["small"], "rollingUpdate": update}
    servers = of_kind(with_values(pools={"small": pool}), "Deployment")["lorary-serving-small"]
    assert servers["spec"]["strategy"]["rollingUpdate"] == update


def test_a_job_gets_the_store_if_it_asks_for_it() -> None:
    jobs = {"gc": {"args": ["gc"], "store": True}, "matrix": {"args": ["matrix"]}}
    manifests = with_values(store={"url": "/store", "claim": "claim"}, jobs=jobs)
    found = {name: pod["spec"] for name, pod in pods(manifests) if name.startswith("CronJob/")}
    [gc] = [spec for name, spec in found.items() if "gc" in name]
    [matrix] = [spec for name, spec in found.items() if "matrix" in name]
    for spec, has in ((gc, True), (matrix, False)):
        [container] = spec["containers"]
        assert ("LORARY_STORE" in {v["name"] for v in container["env"]}) is has
        assert ("/store" in {m["mountPath"] for m in container["volumeMounts"]}) is has
        assert ("store" in {v["name"] for v in spec["volumes"]}) is has
    assert gc["serviceAccountName"] == "lorary-registry"


def test_metrics_that_are_missing_do_not_scale_a_pool_down() -> None:
    everything = rendered(EVERYTHING)
    scaled = of_kind(everything, "ScaledObject")["lorary-adapters-serving-large"]["spec"]
    for trigger in scaled["triggers"]:
        assert "vector" not in trigger["metadata"]["query"]
        assert 'namespace="clinic"' in trigger["metadata"]["query"], "not another release's pool"
        assert trigger["metadata"]["ignoreNullValues"] == "false", "else KEDA takes it for 0"
    assert scaled["fallback"]["replicas"] == scaled["maxReplicaCount"]


def test_what_a_site_gives_every_pod_reaches_every_pod() -> None:
    found = dict(pods(rendered(EVERYTHING)))
    assert {name.partition("/")[0] for name in found} >= {"Deployment", "CronJob"}
    for name, pod in found.items():
        spec = pod["spec"]
        [container], first = spec["containers"], spec["initContainers"][-1]
        environment = {v["name"]: v for v in container["env"]}
        assert pod["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"]
        assert pod["metadata"]["labels"]["cost-center"] == "ml"
        assert spec["priorityClassName"] == "production"
        assert spec["nodeSelector"]["kubernetes.io/arch"] == "amd64"
        assert "nodeAffinity" in spec["affinity"]
        if not name.endswith("-large"):  # which has extraEnv of its own
            assert environment["TZ"]["value"] == "Europe/Berlin"
            assert environment["SITE_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "site"
        assert environment["AWS_CA_BUNDLE"]["value"] == "/etc/lorary/ca/ca-bundle.crt"
        assert environment["HTTPS_PROXY"]["value"] == "http://proxy.example.org:3128"
        direct = environment["NO_PROXY"]["value"].split(",")
        assert {"lorary-adapters-registry", ".example.org", ".svc"} <= set(direct)
        mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
        assert (mounts["site"], mounts["ca"]) == ("/etc/site", "/etc/lorary/ca")
        assert first["securityContext"] == container["securityContext"]
        assert container["image"].startswith(("mirror.example.org:5000/", "registry.example.org/"))
        assert len(environment) == len(container["env"]), f"{name} names a variable twice"


def test_what_a_component_sets_for_its_pods_replaces_what_is_set_for_all() -> None:
    found = dict(pods(rendered(EVERYTHING)))
    large, small = (
        found[f"Deployment/lorary-adapters-serving-{pool}"]["spec"] for pool in ("large", "small")
    )
    assert (large["runtimeClassName"], small.get("runtimeClassName")) == ("nvidia", None)
    assert [t["key"] for t in large["tolerations"]] == ["nvidia.com/gpu"]
    assert [t["key"] for t in small["tolerations"]] == ["dedicated"]
    assert large["nodeSelector"] == {
        "kubernetes.io/arch": "amd64", "nvidia.com/gpu.present": "true",
    }  # fmt: skip
    environment = {v["name"]: v for v in large["containers"][0]["env"]}
    assert environment["LORARY_MAX_BODY_BYTES"]["value"] == "1000000"
    assert environment["HF_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "hugging-face"
    assert "TZ" not in environment
    [trainer] = [pod["spec"] for name, pod in found.items() if "icd10-coder" in name]
    assert trainer["serviceAccountName"] == "trainer"
    assert "HF_TOKEN" in {v["name"] for v in trainer["containers"][0]["env"]}


def test_a_site_names_accounts_services_and_objects_of_its_own() -> None:
    everything = rendered(EVERYTHING)
    deployments = of_kind(everything, "Deployment")
    registry = deployments["lorary-adapters-registry"]["spec"]["template"]
    assert registry["spec"]["serviceAccountName"] == "registry-of-the-site"
    assert registry["metadata"]["labels"]["app.kubernetes.io/name"] == "adapters"
    accounts = of_kind(everything, "ServiceAccount")
    assert set(accounts) == {"lorary-adapters-front", "lorary-adapters-serving"}
    for name in ("registry", "front"):
        service = of_kind(everything, "Service")[f"lorary-adapters-{name}"]
        assert list(service["metadata"]["annotations"].values()) == ["internal"]
    assert "lorary-site" in of_kind(everything, "ConfigMap"), "extraObjects are templates, too"
    named = of_kind(with_values(fullnameOverride="models"), "Deployment")
    assert set(named) == {"models-front", "models-registry", "models-serving-small"}


def test_what_a_site_lets_pods_reach_is_let_out() -> None:
    policies = of_kind(rendered(EVERYTHING), "NetworkPolicy")
    out = {
        name.removeprefix("lorary-adapters-"): [
            port["port"] for rule in policy["spec"]["egress"] for port in rule.get("ports", [])
        ]
        for name, policy in policies.items()
    }
    assert all(15012 in ports for ports in out.values()), "the mesh's control plane"
    for name in ("registry", "serving-small", "serving-large", "jobs"):
        assert 3128 in out[name], f"{name} reaches the proxy"
    beside = with_values(
        networkPolicy={"storePort": 9000},
        pools={"small": {**MINIMAL["pools"]["small"], "model": "org/model"}},
        jobs={"train": {"args": ["train"], "hfTokenSecret": {"name": "hugging-face"}}},
    )
    for name in ("lorary-serving-small", "lorary-jobs"):
        rules = of_kind(beside, "NetworkPolicy")[name]["spec"]["egress"]
        ports = [port["port"] for rule in rules for port in rule.get("ports", [])]
        assert 443 in ports, "Hugging Face"


def test_an_upgrade_neither_starts_a_job_again_nor_ends_one_that_runs() -> None:
    jobs = of_kind(rendered(EVERYTHING), "CronJob")
    assert not of_kind(rendered(EVERYTHING), "Job"), "its template could not be changed"
    suspended = {name: job["spec"]["suspend"] for name, job in jobs.items()}
    assert suspended == {
        "lorary-adapters-icd10-coder": True,
        "lorary-adapters-nightly-matrix": False,
    }
    # One that is no longer suspended would make up for the runs that it missed.
    assert all(job["spec"]["startingDeadlineSeconds"] <= 600 for job in jobs.values())


def test_an_edit_of_a_pool_or_a_domain_restarts_no_front() -> None:
    small = MINIMAL["pools"]["small"]
    before, after = (
        of_kind(with_values(pools=pools_), "Deployment")["lorary-front"]["spec"]["template"]
        for pools_ in ({"small": small}, {"small": small, "tax": {**small, "domains": ["tax"]}})
    )
    assert before == after


def test_a_newer_registry_waits_until_the_servers_are_updated() -> None:
    manifests = with_values()
    registry = dict(pods(manifests))["Deployment/lorary-registry"]
    [waits] = registry["spec"]["initContainers"]
    files = of_kind(manifests, "ConfigMap")["lorary-registry"]["data"]
    assert waits["command"][1].rpartition("/")[2] in files
    assert files["servers"] == "lorary-serving-small:8000"
    assert files["servers_first.py"].strip() == SERVERS_FIRST.read_text().strip()
    policies = of_kind(manifests, "NetworkPolicy")
    [rule] = policies["lorary-serving-small"]["spec"]["ingress"]
    assert any(matches(peer["podSelector"], registry) for peer in rule["from"])
    out = policies["lorary-registry"]["spec"]["egress"]
    assert 8000 in [port["port"] for rule in out for port in rule["ports"]]
    of_itself = with_values(registry={"waitForServersSeconds": 0})
    registry = dict(pods(of_itself))["Deployment/lorary-registry"]
    assert "initContainers" not in registry["spec"]


def test_the_wait_for_servers_ends_when_none_is_older_and_at_its_limit() -> None:
    servers_first = runpy.run_path(str(SERVERS_FIRST))

    def waited(*seen: list[str | None], seconds: float = 3600) -> tuple[float, str]:
        looks, passed = iter(seen), [0.0]

        def sleep(pause: float) -> None:
            passed[0] += pause

        ended = servers_first["wait"](
            lambda: next(looks, seen[-1]), "0.10.0", seconds, now=lambda: passed[0], sleep=sleep
        )
        return passed[0], ended

    assert waited([]) == (0, "no server is older than 0.10.0"), "a first installation"
    assert waited(["0.9.0", ""], ["0.10.0", "0.9.0"], ["0.10.0rc1", "0.11"])[0] == 10
    assert waited([None, "0.10.0"]) == (60, "1 servers did not answer")
    assert waited(["0.9.0"], seconds=600) == (600, "1 servers are still older than 0.10.0")


def test_a_servers_version_is_asked_of_every_address_behind_its_name() -> None:
    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"version": "0.9.0"} if self.path == "/health" else {}).encode()
            self.send_response(503)  # one that shuts down still counts
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    servers_first = runpy.run_path(str(SERVERS_FIRST))
    with http.server.HTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        names = [f"127.0.0.1:{server.server_port}", "no-such-server.invalid:8000"]
        assert list(servers_first["versions"](names)) == ["0.9.0"]
        server.shutdown()
    assert list(servers_first["versions"](names[:1])) == [None]


def test_where_pods_have_ipv6_addresses_everything_listens_on_them() -> None:
    manifests = with_values(listenAddress="::")
    arguments = {
        name: pod["spec"]["containers"][0].get("args", []) for name, pod in pods(manifests)
    }
    assert "--host=::" in arguments["Deployment/lorary-serving-small"]
    assert "::" in arguments["Deployment/lorary-registry"]
    envoy = yaml.safe_load(of_kind(manifests, "ConfigMap")["lorary-front"]["data"]["envoy.yaml"])
    for listener in envoy["static_resources"]["listeners"]:
        address = listener["address"]["socket_address"]
        assert (address["address"], address["ipv4_compat"]) == ("::", True)


def test_openshift_chooses_users_and_its_dns_is_reached() -> None:
    manifests = render(MINIMAL, kinds=("security.openshift.io/v1",))
    for name, pod in pods(manifests):
        security = pod["spec"]["securityContext"]
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(security), name
        assert security["runAsNonRoot"]
    for policy in of_kind(manifests, "NetworkPolicy").values():
        assert {53, 5353} <= {p["port"] for p in policy["spec"]["egress"][0]["ports"]}


def volumes_of(pod: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Where each volume is mounted in the main container, and the volume."""
    mounts = {m["name"]: m["mountPath"] for m in pod["spec"]["containers"][0]["volumeMounts"]}
    return {v["name"]: (mounts[v["name"]], v) for v in pod["spec"]["volumes"]}


def test_a_model_that_is_downloaded_has_a_volume_of_its_own_of_the_size_it_needs() -> None:
    large = dict(pods(rendered(EVERYTHING)))["Deployment/lorary-adapters-serving-large"]
    where, volume = volumes_of(large)["downloads"]
    claim = volume["ephemeral"]["volumeClaimTemplate"]["spec"]
    assert claim["storageClassName"] == "fast"
    assert claim["resources"]["requests"]["storage"] == "200Gi"
    environment = {v["name"]: v.get("value") for v in large["spec"]["containers"][0]["env"]}
    assert environment["HF_HOME"] == where
    pool = {"base": "b", "model": "org/model"}
    pools_ = {
        "claim": {**pool, "domains": ["a"], "modelCache": {"claim": "models"}},
        "disk": {**pool, "modelCache": {"size": "300Gi"}},
    }
    found = dict(pods(with_values(pools=pools_)))
    of = {name: volumes_of(found[f"Deployment/lorary-serving-{name}"]) for name in pools_}
    assert of["claim"]["downloads"][1]["persistentVolumeClaim"] == {"claimName": "models"}
    assert of["disk"]["downloads"][1]["emptyDir"] == {"sizeLimit": "300Gi"}


def test_a_model_may_come_as_an_image() -> None:
    found = dict(pods(rendered(CHART / "ci" / "gateway-values.yaml")))
    where, volume = volumes_of(found["Deployment/lorary-serving-large"])["model"]
    assert where == "/models"
    assert volume["image"]["reference"] == "registry.example.org/models/llama:3.1-8b"


def test_shared_memory_is_as_large_as_the_pool_says() -> None:
    large = dict(pods(rendered(EVERYTHING)))["Deployment/lorary-adapters-serving-large"]
    assert volumes_of(large)["shm"][1]["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Gi"}


def name_of(manifest: dict[str, Any]) -> str:
    name: str = manifest["metadata"]["name"]
    return name


def matches(selector: dict[str, Any], pod: dict[str, Any]) -> bool:
    """Whether the selector names labels, and the pod has all of them."""
    wanted = selector.get("matchLabels", {})
    return bool(wanted) and wanted.items() <= pod["metadata"]["labels"].items()
