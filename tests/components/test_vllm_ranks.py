"""Two data-parallel ranks of real vLLM: every adapter answers for itself, on both.

What transformers and PEFT compute for the same text is the reference.
"""

import asyncio
import itertools
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from safetensors.numpy import save

from adapters.base_model import BaseModel
from registry.model.access import Secret
from registry.model.aliases import MoveAlias
from registry.model.bases import RegisterBase
from registry.model.catalog import File, Grant
from registry.model.domains import CreateDomain
from registry.model.keys import IssueKey
from registry.model.policies import Policy
from registry.model.versions import PublishVersion
from registry.registry import Registry
from registry.store import LocalStore
from registry.store.blobs import Blobs, content_digest
from tests.support.adapters import tensors, write_described
from tests.support.catalogs import FACTS
from tests.support.servers import BIN, free_port, running
from tests.support.tiny_model import one_thread, write_tiny_model

pytest.importorskip("vllm")
RANKS, SLOTS, NAMES = 2, 2, 4
"""Ranks, slots of each, and adapters in host memory."""
ADAPTERS = [f"number-{number}" for number in range(8)]
PROMPTS = ["What is it?", "A tag of the statements", "word " * 60]
"""The last one is computed in more than one step."""
FAULTY = "overflowing"
TOP = 5
CLOSE = 2e-3


@dataclass
class Server:
    """A server of two ranks, and what made it."""

    url: str
    key: str
    operator: str
    folder: Path

    async def first_tokens(self, asked: list[tuple[str, str]]) -> list[list[float]]:
        """The highest log-probabilities of each answer's first token, all asked at once."""
        async with httpx.AsyncClient(headers=self.headers, timeout=600) as client:
            replies = await asyncio.gather(
                *(client.post(f"{self.url}/v1/completions", json=body(*one)) for one in asked)
            )
        found = []
        for (name, _), reply in zip(asked, replies, strict=True):
            assert reply.status_code == 200, reply.text
            assert reply.headers["x-lorary-adapter"] == f"demo/{name}@1"
            (top,) = reply.json()["choices"][0]["logprobs"]["top_logprobs"]
            found.append(sorted(top.values(), reverse=True)[:TOP])
        return found

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def metrics(self) -> str:
        headers = {"Authorization": f"Bearer {self.operator}"}
        return httpx.get(f"{self.url}/metrics", headers=headers, timeout=30).text

    def total(self, name: str, label: str = "") -> float:
        """The sum of a metric's series that have `label`."""
        found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", self.metrics(), re.M)
        assert found, name
        return sum(float(value) for labels, value in found if label in labels)


def body(name: str, prompt: str, **fields: Any) -> dict[str, Any]:
    return {"model": f"demo/{name}", "prompt": prompt, "temperature": 0,
            "max_tokens": 1, "logprobs": TOP, "return_tokens_as_token_ids": True,
            **fields}  # fmt: skip


def publish(registry: Registry, actor: str, name: str, directory: Path) -> None:
    blobs = Blobs(registry.store)
    files = tuple(
        File(path.name, path.stat().st_size, blobs.put_bytes(path.read_bytes()))
        for path in sorted(directory.iterdir())
    )
    command = PublishVersion("demo", name, content_digest(files), "tiny", files, FACTS)
    registry.execute(command, actor)
    registry.execute(MoveAlias("demo", name, "production", 1), actor)


def written(folder: Path, base: BaseModel, name: str, seed: int, scale: float) -> Path:
    weights = {module: (scale * a).astype("<f4") for module, a in tensors(base, seed=seed).items()}
    targets = sorted({module.rpartition(".")[2] for module in base.modules})
    return write_described(folder / name, base, save(weights), r=4, target_modules=targets)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("ranks")
    base = write_tiny_model(folder / "base", heads=2)
    described = BaseModel.from_directory(base, "tiny")
    store = LocalStore(folder / "store")
    operator = Registry.create(store, name="test", key_name="operator")
    registry = Registry(store)
    registry.execute(RegisterBase("tiny", described.digest, "1" * 64), operator.id)
    registry.execute(CreateDomain("demo", Policy(guarded=())), operator.id)
    for seed, name in enumerate(ADAPTERS):
        publish(registry, operator.id, name, written(folder, described, name, seed, 4.0))
    publish(registry, operator.id, FAULTY, written(folder, described, FAULTY, 0, 1e37))
    secret = Secret.generate()
    grants = (Grant("infer", "*"),)
    registry.execute(IssueKey(secret.id, "app", secret.digest, grants), operator.id)
    registry.close()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running(
        [str(BIN / "lorary"), "serve", "--port", str(port), "--",
         f"--data-parallel-size={RANKS}", "--dtype=float32", "--max-num-seqs=8"],
        folder / "serve.log",
        ready=f"{url}/health",
        environment={
            "LORARY_STORE": str(store.root),
            "LORARY_MODEL": str(base),
            "LORARY_BASE_NAME": "tiny",
            "LORARY_MAX_LORAS": str(SLOTS),
            "LORARY_MAX_CPU_LORAS": str(NAMES),
            "LORARY_MAX_MODEL_LEN": "1024",
            "LORARY_HOME": str(folder / "home"),
            "LORARY_RECONCILE_SECONDS": "0.2",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else all ranks have the same cores
            "OMP_NUM_THREADS": "1",
        },
        seconds=400,
    ):  # fmt: skip
        yield Server(url, secret.text, operator.text, folder)


@pytest.fixture(scope="module")
def expected(server: Server) -> dict[tuple[str, str], list[float]]:
    """The highest log-probabilities of a first token, of each adapter for each prompt."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(server.folder / "base")
    found = {}
    with one_thread(), torch.no_grad():
        for name in ADAPTERS:
            model = AutoModelForCausalLM.from_pretrained(
                server.folder / "base", dtype=torch.float32
            )
            adapted = PeftModel.from_pretrained(model, server.folder / name).eval()
            for prompt in PROMPTS:
                logits = adapted(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
                found[name, prompt] = logits.log_softmax(-1).topk(TOP).values.tolist()
    for prompt in PROMPTS:
        for one, other in itertools.combinations(ADAPTERS, 2):
            apart = np.abs(np.subtract(found[one, prompt], found[other, prompt])).max()
            assert apart > 3 * CLOSE, f"{one} could answer for {other}"
    return found


def test_each_adapter_answers_for_itself_on_both_ranks_and_no_rank_reads_files_by_itself(
    server: Server, expected: dict[tuple[str, str], list[float]]
) -> None:
    """Twice as many adapters as host memory holds, in turn: each is loaded and removed often."""
    for _ in range(3):
        for four in (ADAPTERS[:4], ADAPTERS[4:], ADAPTERS[2:6]):
            asked = [(name, prompt) for name in four for prompt in PROMPTS] * 2
            found = asyncio.run(server.first_tokens(asked))
            np.testing.assert_allclose(found, [expected[one] for one in asked], atol=CLOSE)
    for rank in range(RANKS):
        finished = server.total("vllm:request_success_total", f'engine="{rank}"')
        assert finished > 50, f"rank {rank} answered {finished} requests"
    checks = server.total("lorary_residency_checks_total")
    time.sleep(1)
    assert server.total("lorary_residency_checks_total") > checks > 1
    assert server.total("lorary_residency_divergence_total") == 0
    assert server.total("lorary_engine_names") <= NAMES


def test_as_many_adapters_run_at_once_as_both_ranks_have_slots(server: Server) -> None:
    async def all_at_once() -> int:
        most = 0
        async with httpx.AsyncClient(headers=server.headers, timeout=600) as client:

            async def one(name: str) -> None:
                asked = body(name, "x", max_tokens=450, ignore_eos=True)
                reply = await client.post(f"{server.url}/v1/completions", json=asked)
                assert reply.status_code == 200, reply.text

            tasks = [asyncio.create_task(one(name)) for name in ADAPTERS[:4]]
            while not all(task.done() for task in tasks):
                seen = await asyncio.to_thread(server.metrics)
                info = re.search(r'^vllm:lora_requests_info{max_lora="(\d+)",(.*)}', seen, re.M)
                if info is not None:
                    assert int(info[1]) == RANKS * SLOTS
                    named = re.search(r'running_lora_adapters="([^"]*)"', info[2])
                    most = max(most, len(set(filter(None, (named or ["", ""])[1].split(",")))))
                await asyncio.sleep(0.05)
            await asyncio.gather(*tasks)
        return most

    assert asyncio.run(all_at_once()) == RANKS * SLOTS


def test_an_overflowing_adapter_is_refused_and_both_ranks_go_on(
    server: Server, expected: dict[tuple[str, str], list[float]]
) -> None:
    refused = httpx.post(
        f"{server.url}/v1/completions", headers=server.headers, json=body(FAULTY, "x"), timeout=600
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "adapter_faulty")
    asked = [(name, prompt) for name in ADAPTERS for prompt in PROMPTS]
    found = asyncio.run(server.first_tokens(asked))
    np.testing.assert_allclose(found, [expected[one] for one in asked], atol=CLOSE)
    health = httpx.get(f"{server.url}/health", timeout=30).json()
    assert (health["status"], health["engine"]) == ("ok", "ok")
    assert server.total("lorary_residency_divergence_total") == 0


def test_where_vllm_chooses_the_rank_the_answers_are_right_too(server: Server) -> None:
    async def answers() -> list[str]:
        async with httpx.AsyncClient(headers=server.headers, timeout=600) as client:

            async def one(name: str) -> str:
                reply = await client.post(
                    f"{server.url}/v1/responses",
                    json={"model": f"demo/{name}", "input": "x", "temperature": 0,
                          "max_output_tokens": 8, "store": False},
                )  # fmt: skip
                assert reply.status_code == 200, reply.text
                assert reply.headers["x-lorary-adapter"] == f"demo/{name}@1"
                return str(reply.json()["output"])

            return await asyncio.gather(*(one(name) for name in ADAPTERS[:4] * 3))

    found = [re.sub(r"'id': '[^']*'", "", text) for text in asyncio.run(answers())]
    assert found[:4] == found[4:8] == found[8:]
    assert len(set(found)) == 4
