"""What every pod of the chart must keep to, whatever the values."""

from collections.abc import Iterator
from typing import Any

Manifest = dict[str, Any]
VOLUMES = {
    "emptyDir", "configMap", "secret", "persistentVolumeClaim", "projected", "ephemeral", "image",
}  # fmt: skip
TEMPLATED = {"Deployment", "StatefulSet", "DaemonSet", "Job"}


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod's specification, and what makes it."""
    for manifest in manifests:
        name = f"{manifest['kind']}/{manifest['metadata']['name']}"
        if manifest["kind"] in TEMPLATED:
            yield name, manifest["spec"]["template"]
        elif manifest["kind"] == "CronJob":
            yield name, manifest["spec"]["jobTemplate"]["spec"]["template"]


def violations(manifests: list[Manifest]) -> list[str]:
    """Every breach, with where it is."""
    return [
        f"{name}: {breach}"
        for name, pod in pods(manifests)
        for breach in [
            *_of_pod(pod["spec"]),
            *(b for container in _containers(pod["spec"]) for b in _of_container(container)),
            *_unmounted(pod["spec"]),
        ]
    ]


def _containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def _of_pod(pod: Manifest) -> Iterator[str]:
    """Pod Security Standards, "restricted"; and no key to the cluster."""
    security = pod.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or security.get("runAsUser", 0) < 1000:
        yield "may run as root"
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "no seccomp profile"
    if pod.get("automountServiceAccountToken") is not False:
        yield "gets a token for the cluster"
    if pod.get("enableServiceLinks") is not False:
        yield "gets settings from the names of services"
    for shared in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(shared):
            yield f"shares {shared}"
    for volume in pod.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= VOLUMES:
            yield f"volume {volume['name']} of kind {kinds}"
        if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
            yield f"volume {volume['name']} without a bound"


def _of_container(container: Manifest) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
        yield "may gain privileges"
    if security.get("capabilities", {}).get("drop") != ["ALL"] or security["capabilities"].get(
        "add"
    ):
        yield "keeps capabilities"
    if security.get("readOnlyRootFilesystem") is not True:
        yield "can write its root file system"
    for kind in ("requests", "limits"):
        for quantity in ("cpu", "memory"):
            if not container.get("resources", {}).get(kind, {}).get(quantity):
                yield f"no {kind} for {quantity}"
    tag = container["image"].partition("@")[0].rpartition(":")[2]
    if tag in ("", "latest") or "/" in tag:
        yield f"image {container['image']} is not pinned"
    for variable in container.get("env", []):
        secret = any(word in variable["name"] for word in ("SECRET", "PASSWORD", "TOKEN_", "_KEY"))
        plain = secret and "LORARY_KEY_" not in variable["name"] and "valueFrom" not in variable
        if plain:
            yield f"{variable['name']} in plain sight"


def _unmounted(pod: Manifest) -> Iterator[str]:
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    for container in _containers(pod):
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"mounts {mount['name']}, which is not there"
