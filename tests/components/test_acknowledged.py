"""What a registry acknowledged works at once in every process, however seldom they look."""

import uuid
from pathlib import Path

import httpx

from registry.client import RegistryClient
from registry.model.access import Secret
from registry.model.aliases import MoveAlias
from registry.model.catalog import Grant
from registry.model.domains import CreateDomain
from registry.model.keys import IssueKey
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import ObjectStore, open_store
from tests.components.test_replicas import Fleet, fleet_over
from tests.support.catalogs import publish_bytes
from tests.support.s3 import BUCKET, S3Server
from tests.support.servers import registry_server

SELDOM = {"LORARY_POLL_SECONDS": "60"}


def ask(url: str, model: str, key: Secret) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Well?"}]}
    headers = {"Authorization": f"Bearer {key.text}"}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=30)


def issue(fleet: Fleet) -> Secret:
    secret = Secret.generate()
    grants = (Grant("infer", "medical"),)
    command = IssueKey(secret.id, f"app {secret.id}", secret.digest, grants)
    fleet.registry.execute(command, fleet.operator.id)
    return secret


def test_a_new_key_version_and_alias_are_served_at_once_by_every_replica(
    store: ObjectStore, store_url: str, tmp_path: Path
) -> None:
    with fleet_over(store, store_url, tmp_path, 2, **SELDOM) as fleet:
        for number in range(3):
            version = fleet.publish(number)
            key = issue(fleet)
            alias = f"candidate-{number}"
            command = MoveAlias("medical", "coder", alias, number + 1)
            fleet.registry.execute(command, fleet.operator.id)
            for url in fleet.urls:
                for model in (version, f"medical/coder@{alias}"):
                    answer = ask(url, model, key)
                    assert answer.status_code == 200, answer.text
                    assert answer.headers["x-lorary-adapter"] == version
        stranger = ask(fleet.urls[0], "medical/coder", Secret.generate())
        assert stranger.status_code == 401
        assert ask(fleet.urls[0], "medical/nothing", key).status_code == 404


def test_what_one_registry_process_acknowledged_the_other_knows(
    s3: S3Server, tmp_path: Path
) -> None:
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    store = open_store(url, s3_endpoint=s3.endpoint)
    operator = Registry.create(store, name="two", key_name="operator")
    with (
        registry_server(url, tmp_path, s3.environment) as first,
        registry_server(url, tmp_path, s3.environment) as second,
        RegistryClient(first, operator.text) as client,
    ):
        registry = Registry(store)
        registry.execute(CreateDomain("medical", Policy(guarded=())), operator.id)
        publish_bytes(registry, operator.id, "medical", "coder", 1)
        registry.close()
        for number in range(5):
            key = client.issue_key(f"app {number}", ["infer:medical", "publish:medical"])["key"]
            with RegistryClient(second, key) as elsewhere:
                assert elsewhere.resolve("medical/coder@1")["version"] == 1
                elsewhere.execute(MoveAlias("medical", "coder", f"a{number}", 1))
            assert client.resolve(f"medical/coder@a{number}")["version"] == 1
