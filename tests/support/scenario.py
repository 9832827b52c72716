"""A few minutes in the life of a site, told in seconds: enough that every panel has something to
show. Everything is done as people and apps do it, by commands and requests."""

import contextlib
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from adapters.base_model import BaseModel
from adapters.confidence import EVALUATED, Calibration
from eval.served import engine_of
from registry.model.access import Secret
from registry.model.aliases import MoveAlias
from registry.model.canary import SplitAlias
from registry.model.catalog import File, Grant, Version
from registry.model.domains import CreateDomain
from registry.model.evaluations import RecordEvaluation
from registry.model.evidence import Engine, SuiteResult, Tally
from registry.model.feedback import GiveFeedback
from registry.model.keys import IssueKey
from registry.model.policies import Policy
from registry.model.trials import Bounds
from registry.publish.publishing import publish
from registry.registry import Registry
from registry.store.blobs import Blobs
from tests.support.adapters import write_adapter

DOMAIN, ADAPTER = "probe", "coder"
SHELF, BATCH = "shelf", 8
"""A domain that gives every answer as it comes, and how many adapters it has."""
PATH = f"{DOMAIN}/{ADAPTER}"
CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Scene:
    """Where it plays: a registry over its store, the operator's key, the front and the registry's
    own address; `base` as registered under `base.name`."""

    registry: Registry
    operator: Secret
    base: BaseModel
    api: str
    service: str


def prepare(scene: Scene) -> None:
    """A domain that abstains, an adapter that was evaluated, went forward, back, and is split."""
    registry, actor = scene.registry, scene.operator.id
    policy = Policy(guarded=("stable",), abstain=True, target_risk=0.05)
    registry.execute(CreateDomain(DOMAIN, policy), actor)
    evaluator = Secret.generate()
    command = IssueKey(evaluator.id, "evaluator", evaluator.digest, (Grant("evaluate", DOMAIN),))
    registry.execute(command, actor)
    engine = engine_of(f"{scene.api}/v1", scene.operator.text, scene.base.name)
    for number in range(1, 3):
        version = small_adapter(scene, ADAPTER, number)
        _evaluate(registry, version, evaluator.id, engine)
        registry.execute(MoveAlias(DOMAIN, ADAPTER, "production", number), actor)
    registry.execute(MoveAlias(DOMAIN, ADAPTER, "production", 1), actor)
    bounds = Bounds(min_requests=10_000)  # counted by, and never crossed here
    registry.execute(SplitAlias(DOMAIN, ADAPTER, "production", 2, 50, bounds), actor)
    registry.execute(CreateDomain(SHELF, Policy(guarded=())), actor)
    for number in range(BATCH):
        small_adapter(scene, f"a{number}", 100 + number, domain=SHELF)
        registry.execute(MoveAlias(SHELF, f"a{number}", "production", 1), actor)
    now = int(time.time())
    registry.execute(GiveFeedback(DOMAIN, ADAPTER, 1, "chatcmpl-1", now, actor, "positive"), actor)


def small_adapter(scene: Scene, adapter: str, seed: int, domain: str = DOMAIN) -> Version:
    """The next version of an adapter with random weights, published past the service."""
    base = scene.base
    few = {name: shape for name, shape in base.modules.items() if name.endswith(".q_proj")}
    slim = BaseModel(base.name, base.digest, few, base.known_as)
    blobs = Blobs(scene.registry.store)
    with tempfile.TemporaryDirectory() as folder:
        made = write_adapter(Path(folder, "adapter"), slim, rank=4, seed=seed)
        files = [
            File(path.name, path.stat().st_size, blobs.put_bytes(path.read_bytes()))
            for path in sorted(made.iterdir())
        ]
    return publish(
        scene.registry,
        domain=domain,
        adapter=adapter,
        base=base.name,
        files=files,
        actor=scene.operator.id,
    )


def _evaluate(registry: Registry, version: Version, evaluator: str, engine: Engine) -> None:
    report = Blobs(registry.store).put_bytes(json.dumps({"of": str(version.ref)}).encode())
    result = SuiteResult(
        suite="codes", digest="1" * 64, held_out="2" * 64, tallies={"accuracy": Tally(70, 100)}
    )
    calibration = Calibration(method="temperature", threshold=0.999, target_risk=0.05, n=100)
    registry.execute(
        RecordEvaluation(
            version.domain,
            version.adapter,
            version.number,
            version.digest,
            report,
            (result,),
            calibration,
            engine=engine,
        ),
        evaluator,
    )


def play(scene: Scene, client: httpx.Client) -> None:
    """One round of what apps, people and strangers do."""
    headers = {"Authorization": f"Bearer {scene.operator.text}"}
    for number in range(BATCH):
        _ask(client, scene, f"{SHELF}/a{number}", headers, stream=True)
    for caller in range(6):
        # The domain abstains, so it answers only as it was evaluated.
        certified: dict[str, Any] = {"max_tokens": EVALUATED.max_tokens}
        _ask(client, scene, PATH, headers, user=f"caller {caller}", **certified)
        _ask(client, scene, f"{PATH}@2", {**headers, "X-Lorary-Confidence": "true"}, **certified)
    _ask(client, scene, PATH, {"Authorization": "Bearer lry_none_none"})
    _ask(client, scene, f"{DOMAIN}/nothing", headers)
    for path in (f"/api/v1/resolve/{PATH}", "/api/v1/adapters", "/api/v1/resolve/none/none"):
        client.get(f"{scene.service}{path}", headers=headers)
    grants = [{"role": "infer", "domain": DOMAIN}]
    body = {"name": f"app {time.time()}", "grants": grants}
    client.post(f"{scene.service}/api/v1/keys", json=body, headers=headers)


def _ask(
    client: httpx.Client, scene: Scene, model: str, headers: dict[str, str], **more: Any
) -> None:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "What is hypertension?"}],
        "max_tokens": 4,
        **more,
    }
    with contextlib.suppress(httpx.TransportError):
        client.post(f"{scene.api}{CHAT}", json=body, headers=headers)
