"""An S3 server that ignores conditional writes is refused before a registry is begun or served."""

import os
import subprocess
import uuid
from collections.abc import Iterator

import pytest

from registry.registry import Registry
from registry.store import open_store
from tests.support.s3 import BUCKET, S3Server
from tests.support.servers import BIN
from tests.support.stripping import stripping_proxy


@pytest.fixture
def ignoring(s3: S3Server) -> Iterator[str]:
    """The endpoint of a server that ignores `If-None-Match`."""
    with stripping_proxy(s3.endpoint) as endpoint:
        yield endpoint


def lorary(*arguments: str, store: str, endpoint: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LORARY_STORE": store, "LORARY_S3_ENDPOINT": endpoint}
    command = [str(BIN / "lorary"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_init_and_the_service_refuse_it_by_name_and_leave_nothing(
    s3: S3Server, ignoring: str
) -> None:
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    refused = lorary("init", store=url, endpoint=ignoring)
    assert refused.returncode != 0
    assert "ignores If-None-Match" in refused.stderr
    assert "conditional writes" in refused.stderr
    store = open_store(url, s3_endpoint=s3.endpoint)
    assert list(store.list("")) == []

    Registry.create(store, name="sound", key_name="operator")
    before = {info.key for info in store.list("")}
    refused = lorary("serve-registry", store=url, endpoint=ignoring)
    assert refused.returncode != 0
    assert "ignores If-None-Match" in refused.stderr
    assert {info.key for info in store.list("")} == before


def test_the_same_server_without_the_proxy_is_taken(s3: S3Server) -> None:
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    done = lorary("init", store=url, endpoint=s3.endpoint)
    assert done.returncode == 0, done.stderr
    keys = [info.key for info in open_store(url, s3_endpoint=s3.endpoint).list("")]
    assert keys == ["log/00000000000000000001.json"]
