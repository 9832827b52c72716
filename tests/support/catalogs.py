"""Catalogs with something in them, for tests of what stands above the log."""

import hashlib

from adapters.admission import Facts
from registry.model.bases import RegisterBase
from registry.model.catalog import File, Version
from registry.model.versions import PublishVersion
from registry.registry import Registry
from registry.store.blobs import Blobs, content_digest

FACTS = Facts(rank=4, alpha=8, rslora=False, target_modules=("q_proj",), parameters=64, tensors=2)


def files(seed: int) -> tuple[File, ...]:
    """A listing of one file that differs by seed."""
    data = f"weights {seed}".encode()
    return (File("adapter_model.safetensors", len(data), hashlib.sha256(data).hexdigest()),)


def publish_bytes(registry: Registry, actor: str, domain: str, adapter: str, seed: int) -> None:
    """Publish a version past admission, its one blob stored."""
    blobs, before = Blobs(registry.store), registry.refresh().sequence
    shapes = blobs.put_bytes(b"{}")
    blobs.put_bytes(f"weights {seed}".encode())
    registry.execute(RegisterBase("tiny", "0" * 64, shapes, read_at=before), actor)
    listed = files(seed)
    digest = content_digest(listed)
    command = PublishVersion(domain, adapter, digest, "tiny", listed, FACTS, before)
    registry.execute(command, actor)


VERSION = Version(
    domain="medical",
    adapter="coder",
    number=1,
    digest=content_digest(files(1)),
    base="tiny",
    files=files(1),
    facts=FACTS,
    publisher="p",
    published="2026-01-01T00:00:00Z",
)
"""A version of no registry."""
