"""Fixtures for every level: one real S3 server a session, stores of both kinds."""

import functools
import gc
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from httpx import create_ssl_context
from hypothesis import HealthCheck, settings

from registry.store import LocalStore, ObjectStore, open_store
from tests.support.s3 import BUCKET, S3Server, s3_server

settings.register_profile(
    "default", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")


def pytest_collection_finish() -> None:
    """Keep modules and tests out of later garbage collections: each would take a second longer, and
    every training collects several times."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _certificates_are_read_once() -> Iterator[None]:
    """httpx reads all certificates for each client anew, which takes 66 ms of computing; most tests
    ask by clients of one request, and none speaks TLS."""
    with pytest.MonkeyPatch.context() as patch:
        once = functools.cache(create_ssl_context)
        patch.setattr("httpx._transports.default.create_ssl_context", once)
        yield


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The session's S3 server, its variables set for boto3."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(params=["local", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store's address: every test that takes it runs on both kinds."""
    if request.param == "local":
        return str(tmp_path / "store")
    request.getfixturevalue("s3")
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def store(store_url: str) -> ObjectStore:
    """An empty store of either kind."""
    return open_store(store_url, s3_endpoint=os.environ.get("LORARY_S3_ENDPOINT"))


@pytest.fixture
def s3_store(s3: S3Server) -> ObjectStore:
    """An empty store on the S3 server."""
    return open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}", s3_endpoint=s3.endpoint)


@pytest.fixture
def local_store(tmp_path: Path) -> LocalStore:
    """An empty local store."""
    return LocalStore(tmp_path / "store")
