"""The chart, rendered by a real Helm."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.support.servers import BIN

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "lorary"
KINDS = (
    "monitoring.coreos.com/v1",
    "inference.networking.k8s.io/v1",
    "gateway.networking.k8s.io/v1",
    "keda.sh/v1alpha1",
)
"""What a cluster with every extension that the chart can use says it has."""


class HelmRefused(Exception):
    """Helm did not render; its words."""


def helm(*arguments: str, stdin: str | None = None) -> str:
    """What Helm printed; raises `HelmRefused`."""
    path = BIN / "helm"
    assert path.exists(), f"install Helm: sh scripts/install-operations.sh {BIN}"
    done = subprocess.run([path, *arguments], capture_output=True, text=True, input=stdin)
    if done.returncode:
        raise HelmRefused(done.stderr + done.stdout)
    return done.stdout


def render(
    values: Path | dict[str, Any], *, kinds: Sequence[str] = KINDS, only: str | None = None
) -> list[dict[str, Any]]:
    """Every manifest for these values, or those of one template."""
    given = yaml.safe_dump(values) if isinstance(values, dict) else values.read_text()
    arguments = ["template", "lorary", str(CHART), "--namespace", "clinic", "--values", "-"]
    for kind in kinds:
        arguments += ["--api-versions", kind]
    if only is not None:
        arguments += ["--show-only", f"templates/{only}"]
    text = helm(*arguments, stdin=given)
    return [document for document in yaml.safe_load_all(text) if document]
