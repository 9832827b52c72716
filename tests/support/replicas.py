"""A replica over a local store, without vLLM: for tests of the gate and of the cache."""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from starlette.types import Message, Receive, Scope, Send

from adapters.heads import Head
from registry.model.access import Secret
from registry.model.aliases import MoveAlias
from registry.model.bases import RegisterBase
from registry.model.catalog import File, Grant
from registry.model.domains import CreateDomain, SetDefaultAdapter
from registry.model.keys import IssueKey
from registry.model.policies import Policy
from registry.model.versions import PublishVersion
from registry.registry import Registry
from registry.store import LocalStore
from registry.store.blobs import Blobs, content_digest
from serving.replica import Replica
from serving.settings import ServingSettings
from tests.support.catalogs import FACTS
from tests.support.vllm_engine import VllmEngine

BASE = "tiny"


@dataclass
class Site:
    """A registry with two domains, keys for each, and a replica that has read it."""

    folder: Path
    registry: Registry
    operator: Secret
    medical: Secret
    legal: Secret
    replica: Replica
    engine: VllmEngine
    """The engine that the replica drives."""

    def publish(
        self,
        domain: str,
        adapter: str,
        weights: bytes,
        base: str = BASE,
        head: Head | None = None,
    ) -> None:
        """The next version, its files stored, and production moved to it."""
        blobs = Blobs(self.registry.store)
        files = tuple(
            File(name, len(data), blobs.put_bytes(data))
            for name, data in (
                ("adapter_config.json", b"{}"), ("adapter_model.safetensors", weights)
            )
        )  # fmt: skip
        actor = self.operator.id
        facts = replace(FACTS, head=head)
        self.registry.execute(
            PublishVersion(domain, adapter, content_digest(files), base, files, facts), actor
        )
        number = len(self.registry.catalog.adapters[f"{domain}/{adapter}"].versions)
        self.registry.execute(MoveAlias(domain, adapter, "production", number), actor)
        self.replica.follower.refresh()


def make_site(folder: Path, **settings: Any) -> Site:
    """`medical/coder` (the default) and `legal/clauses`, one version each."""
    store = LocalStore(folder / "store")
    operator = Registry.create(store, name="test", key_name="operator")
    registry = Registry(store)
    for base in (BASE, "other"):
        registry.execute(RegisterBase(base, "0" * 64, "1" * 64), operator.id)
    keys = {}
    for domain in ("medical", "legal"):
        registry.execute(CreateDomain(domain, Policy(guarded=())), operator.id)
        keys[domain] = Secret.generate()
        grants = (Grant("infer", domain),)
        secret = keys[domain]
        registry.execute(IssueKey(secret.id, domain, secret.digest, grants), operator.id)
    settings = {"base_name": BASE, "model": str(folder / "no tokenizer to read"), **settings}
    replica = Replica(ServingSettings(store=str(store.root), home=folder / "home", **settings))
    replica.follower.refresh()
    engine = VllmEngine()
    replica.attach(engine.driven(), engine.tried(), engine.places, on_cpu=False)
    site = Site(folder, registry, operator, keys["medical"], keys["legal"], replica, engine)
    site.publish("medical", "coder", b"medical one")
    site.publish("legal", "clauses", b"legal one")
    registry.execute(SetDefaultAdapter("medical", "coder"), operator.id)
    replica.follower.refresh()
    return site


@dataclass
class Upstream:
    """What stands where vLLM would: it records what reaches it and answers in pieces."""

    scopes: list[Scope] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    pieces: tuple[bytes, ...] = (b'{"ok": ', b"true}")
    pause: float = 0.0
    kind: bytes = b"application/json"
    failing: str = ""
    """The pinned name of a version that answers nothing but errors."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        message = await receive()
        self.scopes.append(scope)
        self.bodies.append(message.get("body", b""))
        failing = self.failing and json.loads(self.bodies[-1])["model"] == self.failing
        await send(
            {
                "type": "http.response.start",
                "status": 500 if failing else 200,
                "headers": [(b"content-type", self.kind)],
            }
        )
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(self.pause)
        await send({"type": "http.response.body", "body": b""})


def answered(messages: list[Message]) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of recorded ASGI messages."""
    start = messages[0]
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], headers, b"".join(m.get("body", b"") for m in messages[1:])
