"""The drill of docs/how-to/operate.md on a real S3 server: a bucket is copied while it is written,
lost, and the copy takes its place."""

import threading
import uuid
from pathlib import Path

import httpx

from adapters.names import AdapterRef
from registry.maintain.verify import verify
from registry.model.aliases import MoveAlias
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import ObjectStore, open_store
from tests.support.catalogs import publish_bytes
from tests.support.s3 import BUCKET, S3Server
from tests.support.servers import registry_server

ORDER = ("log/", "blobs/", "checkpoints/")
"""Commits first: every blob that a copied commit names was there before it, and still is."""


def copy(source: ObjectStore, target: ObjectStore) -> None:
    """What `aws s3 sync` does, one prefix after the other."""
    for prefix in ORDER:
        for info in list(source.list(prefix)):
            target.put(info.key, source.get(info.key), "overwrite")


def test_a_copy_made_while_the_bucket_is_written_is_whole_and_takes_its_place(
    s3: S3Server, s3_store: ObjectStore, tmp_path: Path
) -> None:
    operator = Registry.create(s3_store, name="hospital", key_name="operator")
    registry, ending = Registry(s3_store), threading.Event()
    registry.execute(CreateDomain("medical", Policy(guarded=())), operator.id)
    publish_bytes(registry, operator.id, "medical", "coder", 0)
    registry.execute(MoveAlias("medical", "coder", "production", 1), operator.id)

    def write() -> None:
        seed = 1
        while not ending.is_set():
            publish_bytes(registry, operator.id, "medical", "coder", seed)
            registry.execute(MoveAlias("medical", "coder", "production", seed + 1), operator.id)
            seed += 1

    writer = threading.Thread(target=write)
    writer.start()
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    backup = open_store(url, s3_endpoint=s3.endpoint)
    try:
        copy(s3_store, backup)
    finally:
        ending.set()
        writer.join()
    last = registry.refresh()
    registry.close()

    report = verify(backup)
    assert report.sound, report.findings
    restored = Registry(backup)
    found = restored.refresh()
    assert 0 < found.sequence <= last.sequence
    same = s3_store.get(f"log/{found.sequence:020d}.json")
    assert backup.get(f"log/{found.sequence:020d}.json") == same, "a prefix of the log that was"

    # The bucket is gone; the copy is served, with the same keys, and written.
    restored.execute(CreateDomain("legal", Policy()), operator.id)
    restored.close()
    with registry_server(url, tmp_path, s3.environment) as service:
        headers = {"Authorization": f"Bearer {operator.text}"}
        shown = httpx.get(f"{service}/api/v1/resolve/medical/coder", headers=headers).json()
        assert shown["version"] == found.resolve(AdapterRef.parse("medical/coder")).number
        domains = httpx.get(f"{service}/api/v1/domains", headers=headers).json()
        assert {domain["name"] for domain in domains} == {"medical", "legal"}


def test_a_copy_that_lacks_something_says_what(s3: S3Server, s3_store: ObjectStore) -> None:
    operator = Registry.create(s3_store, name="hospital", key_name="operator")
    registry = Registry(s3_store)
    registry.execute(CreateDomain("medical", Policy(guarded=())), operator.id)
    publish_bytes(registry, operator.id, "medical", "coder", 0)
    version = registry.refresh().resolve(AdapterRef.parse("medical/coder@1"))
    registry.close()
    backup = open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}", s3_endpoint=s3.endpoint)
    copy(s3_store, backup)
    digest = version.files[0].sha256
    [lost] = [info.key for info in backup.list("blobs/") if digest in info.key]
    backup.delete(lost)
    assert any(digest[:12] in finding for finding in verify(backup).findings)
    backup.put(lost, s3_store.get(lost), "create")
    assert verify(backup).sound

    # A hole in the log is not taken for its end.
    backup.delete("log/00000000000000000002.json")
    assert not verify(backup).sound
