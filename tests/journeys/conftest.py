"""One real site for all journeys: trained adapters, a registry, and vLLM behind the gate.

The base model and the adapters are made on first use and kept under LORARY_HOME, as the demo does.
"""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest

from adapters.base_model import BaseModel
from adapters.children import started
from adapters.home import SMALL_MODEL, default_model, home
from adapters.names import DEFAULT_ALIAS
from adapters.packs import PACKS
from registry.client import RegistryClient
from registry.model.aliases import MoveAlias
from registry.model.domains import CreateDomain, SetDefaultAdapter
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import LocalStore
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


def training_of(domain: str) -> tuple[Path, Sequence[str]]:
    """Where a domain's adapter is kept, and the command that trains it unless it is there.

    The demo's own, if it trained one here; else one that was asked no general questions, which take
    a tenth of the training.
    """
    demo = home() / "demo" / "adapters" / domain
    directory, changes = (
        (demo, []) if demo.exists() else (home() / "journeys" / domain, ["forgetting=false"])
    )
    command = [str(BIN / "lorary"), "train", domain, *changes, "--out", str(directory), "--reuse"]
    return directory, command


@pytest.fixture(scope="session")
def training(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], dict[str, Path]]]:
    """The three adapters in the making, unless the same plan made them before; what waits for them.

    All at once, each with its share of the cores: a training leaves much of a second core idle.
    """
    run_lorary("small-model")
    logs = tmp_path_factory.mktemp("training")
    threads = max(1, (os.cpu_count() or 1) // len(PACKS))
    directories, processes = {}, {}
    with contextlib.ExitStack() as stack:
        for domain in PACKS:
            directories[domain], command = training_of(domain)
            processes[domain] = stack.enter_context(
                started(
                    command,
                    stack.enter_context((logs / domain).open("wb")),
                    environment={"OMP_NUM_THREADS": str(threads)},
                )
            )

        def ended() -> dict[str, Path]:
            for domain, process in processes.items():
                assert process.wait() == 0, (logs / domain).read_text(errors="replace")[-4000:]
            return directories

        yield ended


@pytest.fixture(scope="session")
def trained(training: Callable[[], dict[str, Path]]) -> dict[str, Path]:
    """The three trained adapters."""
    return training()


@pytest.fixture(scope="session")
def site(
    training: Callable[[], dict[str, Path]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Everything started, published and promoted. vLLM starts while the adapters are trained."""
    folder = tmp_path_factory.mktemp("site")
    store = LocalStore(folder / "store")
    operator = Registry.create(store, name="site", key_name="operator").text
    port = free_port()
    api = f"http://127.0.0.1:{port}"
    with (
        registry_server(store.url, folder) as registry,
        RegistryClient(registry, operator) as client,
    ):
        client.add_base(BaseModel.from_directory(default_model(), SMALL_MODEL))
        for domain in PACKS:
            client.execute(CreateDomain(domain, Policy(guarded=())))
        app = client.issue_key("app", ["infer:*"])["key"]
        doctor = client.issue_key("dr", ["infer:medical"])["key"]
        serving = client.issue_key("replicas", ["serve:*"])["key"]
        made = Site(api, registry, str(store.root), folder, operator, app, doctor)
        with running(
            [str(BIN / "lorary"), "serve", "--port", str(port), "--", *TOOLS],
            folder / "serve.log",
            ready=f"{api}/health",
            environment={
                "LORARY_STORE": store.url,
                "LORARY_REGISTRY_URL": registry,
                "LORARY_SERVING_KEY": serving,
                "LORARY_ADAPTER_CACHE": str(folder / "cache"),
                "LORARY_CACHE_BYTES": str(CACHE_BYTES),
                "LORARY_MAX_CPU_LORAS": str(ENGINE_NAMES),
            },
            seconds=1500,
        ):
            for domain, directory in training().items():
                adapter = PACKS[domain].adapter
                client.push(directory, f"{domain}/{adapter}")
                client.execute(MoveAlias(domain, adapter, DEFAULT_ALIAS, 1))
                client.execute(SetDefaultAdapter(domain, adapter))
            made.settle(lambda: {*PACKS} <= {model.id for model in made.client().models.list()})
            yield made
            for each in made.clients.values():
                each.close()
