"""One real site for all journeys: trained adapters, a registry, and vLLM behind the gate.

The base model and the adapters are made on first use and kept under LORARY_HOME, as the demo does.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest

from adapters.home import SMALL_MODEL, default_model, home
from adapters.packs import PACKS
from tests.support.servers import BIN, free_port, registry_server, running

CACHE_BYTES = 110_000_000
"""The disk's bound in these journeys: five adapters of the small model's rank 16."""
ENGINE_NAMES = 6
"""Adapters that the engine's memory holds, and so the names it knows."""
TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser=hermes")
"""What vLLM needs before it takes tools."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The journey that ends the shared server comes last."""
    items.sort(key=lambda item: item.path.stem == "test_the_end")


@dataclass
class Site:
    """Where everything listens, and the keys."""

    api: str
    registry: str
    store: str
    folder: Path
    operator: str
    app: str
    """May infer in every domain."""
    doctor: str
    """May infer in the medical domain only."""
    clients: dict[str, openai.OpenAI] = field(default_factory=dict)

    def lorary(self, *arguments: str) -> Any:
        """A `lorary` command as the operator; its JSON answer."""
        return run_lorary(*arguments, LORARY_REGISTRY_URL=self.registry, LORARY_KEY=self.operator)

    def client(self, key: str | None = None) -> openai.OpenAI:
        """The ordinary OpenAI client."""
        wanted = key or self.app
        if wanted not in self.clients:
            self.clients[wanted] = openai.OpenAI(
                base_url=f"{self.api}/v1", api_key=wanted, max_retries=0
            )
        return self.clients[wanted]

    def settle(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        """Wait until `condition` holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it never settled"
            time.sleep(0.1)

    def async_client(self) -> openai.AsyncOpenAI:
        """The same, for many requests at once."""
        return openai.AsyncOpenAI(base_url=f"{self.api}/v1", api_key=self.app, max_retries=0)


def run_lorary(*arguments: str, **variables: str) -> Any:
    """A `lorary` command; its JSON answer."""
    done = subprocess.run(
        [str(BIN / "lorary"), *arguments, "--json"],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def adapter_directory(domain: str) -> Path:
    """Where a trained adapter is kept: the demo's own place."""
    return home() / "demo" / "adapters" / domain


@pytest.fixture(scope="session")
def trained() -> dict[str, Path]:
    """The three adapters, trained unless the same plan made them before."""
    run_lorary("small-model")
    for domain in PACKS:
        run_lorary("train", domain, "--out", str(adapter_directory(domain)), "--reuse")
    return {domain: adapter_directory(domain) for domain in PACKS}


@pytest.fixture(scope="session")
def site(trained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Everything started, published and promoted."""
    folder = tmp_path_factory.mktemp("site")
    store = str(folder / "store")
    key_file = folder / "operator.key"
    run_lorary("init", "--key-file", str(key_file), LORARY_STORE=store)
    operator = key_file.read_text().strip()
    port = free_port()
    api = f"http://127.0.0.1:{port}"
    with registry_server(store, folder) as registry:
        made = Site(api, registry, store, folder, operator, "", "")
        made.lorary("base", "add", str(default_model()), "--name", SMALL_MODEL)
        for domain, directory in trained.items():
            path = f"{domain}/{PACKS[domain].adapter}"
            made.lorary("domain", "create", domain, "--no-guard")
            made.lorary("push", str(directory), path, "--alias", "production")
            made.lorary("domain", "default", domain, PACKS[domain].adapter)
        made.app = made.lorary("keys", "issue", "app", "--grant", "infer:*")["key"]
        made.doctor = made.lorary("keys", "issue", "dr", "--grant", "infer:medical")["key"]
        serving = made.lorary("keys", "issue", "replicas", "--grant", "serve:*")["key"]
        with running(
            [str(BIN / "lorary"), "serve", "--port", str(port), "--", *TOOLS],
            folder / "serve.log",
            ready=f"{api}/health",
            environment={
                "LORARY_STORE": store,
                "LORARY_REGISTRY_URL": registry,
                "LORARY_SERVING_KEY": serving,
                "LORARY_ADAPTER_CACHE": str(folder / "cache"),
                "LORARY_CACHE_BYTES": str(CACHE_BYTES),
                "LORARY_MAX_CPU_LORAS": str(ENGINE_NAMES),
            },
            seconds=300,
        ):
            yield made
            for client in made.clients.values():
                client.close()
