"""Classification heads on real vLLM: each request gets its own adapter's head, and no other's.

What transformers and PEFT compute for the same text is the reference.
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from msgspec.structs import replace
from safetensors.numpy import save

from adapters.base_model import BaseModel
from adapters.heads import LABELS, Head
from registry.model.access import Secret
from registry.model.catalog import File
from registry.model.versions import PublishVersion
from registry.registry import Registry
from registry.store import LocalStore
from registry.store.blobs import Blobs, content_digest
from tests.support.adapters import head_tensors, tensors, write_described
from tests.support.catalogs import FACTS
from tests.support.published import published
from tests.support.servers import BIN, free_port, running
from tests.support.tiny_model import one_thread, write_tiny_model

pytest.importorskip("vllm")
NAMES = {"two": ["no", "yes"], "five": list("abcde"), "one": None}
WIDTH = 64
TEXTS = ["x", "A tag of the statements", "word " * 60, "What is it? " * 30]
"""The last two are computed in more than one step."""


@dataclass
class Server:
    """A server that classifies, and what made it."""

    url: str
    key: str
    operator: str
    store: Path
    folder: Path
    base: Path

    def ask(self, path: str, **body: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.post(f"{self.url}{path}", headers=headers, json=body, timeout=120)

    def publish_unchecked(self, name: str, files: dict[str, bytes], head: Head) -> None:
        """The version in the log, as a Lorary that did not look at it would have admitted it."""
        blobs = Blobs(LocalStore(self.store))
        listed = tuple(File(n, len(data), blobs.put_bytes(data)) for n, data in files.items())
        registry = Registry(LocalStore(self.store))
        try:
            command = PublishVersion(
                "demo", name, content_digest(listed), "tiny", listed, replace(FACTS, head=head)
            )
            registry.execute(command, Secret.parse(self.operator).id)
        finally:
            registry.close()


def saved(base: BaseModel, size: int, seed: int) -> dict[str, np.ndarray]:
    """LoRA and head, large enough that another adapter's would show."""
    head = {name: 8 * a for name, a in head_tensors(size, WIDTH, seed=seed).items()}
    return {**{n: 4 * a for n, a in tensors(base, seed=seed).items()}, **head}


def write_head(folder: Path, base: BaseModel, weights: bytes, labels: Sequence[str] | None) -> Path:
    targets = sorted({module.rpartition(".")[2] for module in base.modules})
    write_described(
        folder, base, weights, r=4, target_modules=targets, task_type="SEQ_CLS",
        modules_to_save=["classifier", "score"],
    )  # fmt: skip
    if labels:
        (folder / LABELS).write_text(json.dumps(labels))
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("classify")
    base = write_tiny_model(folder / "base", heads=2)
    described = BaseModel.from_directory(base, "tiny")
    store = folder / "store"
    heads = {
        name: write_head(
            folder / name, described, save(saved(described, len(labels or "1"), seed)), labels
        )
        for seed, (name, labels) in enumerate(NAMES.items())
    }
    keys = published(store, described, heads)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(BIN / "lorary"), "serve", "--task", "classify", "--port", str(port)]
    with running(
        [*command, "--", "--dtype=float32", "--enforce-eager"],
        folder / "serve.log",
        ready=f"{url}/health",
        environment={
            "LORARY_STORE": str(store),
            "LORARY_MODEL": str(base),
            "LORARY_BASE_NAME": "tiny",
            "LORARY_MAX_LABELS": "8",
            "LORARY_MAX_MODEL_LEN": "1024",
            "LORARY_HOME": str(folder / "home"),
        },
        seconds=400,
    ):
        yield Server(url, keys.apps[0], keys.operator, store, folder, base)


@pytest.fixture(scope="module")
def expected(server: Server) -> dict[tuple[str, str], list[float]]:
    """The probabilities by transformers and PEFT, of each adapter for each text."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(server.base)
    found = {}
    with one_thread(), torch.no_grad():
        for name, labels in NAMES.items():
            model = AutoModelForSequenceClassification.from_pretrained(
                server.base, num_labels=len(labels or "1"), dtype=torch.float32
            )
            adapted = PeftModel.from_pretrained(model, server.folder / name).eval()
            for text in TEXTS:
                logits = adapted(**tokenizer(text, return_tensors="pt")).logits[0]
                probs = logits.softmax(-1) if labels else logits.sigmoid()
                found[name, text] = probs.tolist()
    return found


def test_each_adapters_own_head_answers_with_its_labels(
    server: Server, expected: dict[tuple[str, str], list[float]]
) -> None:
    for name, labels in NAMES.items():
        reply = server.ask("/classify", model=f"demo/{name}", input=TEXTS)
        assert reply.status_code == 200, reply.text
        assert reply.headers["x-lorary-adapter"] == f"demo/{name}@1"
        body = reply.json()
        assert body["usage"]["prompt_tokens"] == sum(map(len, TEXTS)), "a tokenizer of bytes"
        for text, item in zip(TEXTS, body["data"], strict=True):
            wanted = expected[name, text]
            np.testing.assert_allclose(item["probs"], wanted, atol=2e-3)
            if labels:
                assert item["label"] == labels[int(np.argmax(wanted))]
    rounded = [np.round(expected["five", text], 2).tolist() for text in TEXTS]
    assert len({tuple(one) for one in rounded}) == len(TEXTS), "the texts can be told apart"


def test_heads_of_different_sizes_share_a_batch_and_do_not_mix(
    server: Server, expected: dict[tuple[str, str], list[float]]
) -> None:
    asked = [(name, text) for _ in range(6) for text in TEXTS for name in NAMES]

    async def all_at_once() -> list[httpx.Response]:
        headers = {"Authorization": f"Bearer {server.key}"}
        async with httpx.AsyncClient(headers=headers, timeout=120) as client:
            return await asyncio.gather(
                *(
                    client.post(
                        f"{server.url}/classify", json={"model": f"demo/{name}", "input": text}
                    )
                    for name, text in asked
                )
            )

    for (name, text), reply in zip(asked, asyncio.run(all_at_once()), strict=True):
        assert reply.status_code == 200, reply.text
        (item,) = reply.json()["data"]
        np.testing.assert_allclose(item["probs"], expected[name, text], atol=2e-3)


def test_a_head_of_one_row_scores_and_reranks(
    server: Server, expected: dict[tuple[str, str], list[float]]
) -> None:
    scored = server.ask("/score", model="demo/one", text_1="", text_2=TEXTS)
    assert scored.status_code == 200, scored.text
    scores = [item["score"] for item in scored.json()["data"]]
    wanted = [expected["one", text][0] for text in TEXTS]
    np.testing.assert_allclose(scores, wanted, atol=2e-3)
    ranked = server.ask("/rerank", model="demo/one", query="", documents=TEXTS, top_n=2)
    assert ranked.headers["x-lorary-adapter"] == "demo/one@1"
    order = [item["index"] for item in ranked.json()["results"]]
    assert order == np.argsort(wanted)[::-1][:2].tolist()
    assert server.ask("/score", model="demo/five", text_1="a", text_2="b").status_code == 409


def test_logits_are_given_if_asked(server: Server) -> None:
    reply = server.ask("/classify", model="demo/five", input="x", use_activation=False)
    assert sum(reply.json()["data"][0]["probs"]) != pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "size", "width", "told"),
    [("narrow", 3, 32, "incompatible weight shape"), ("many", 9, WIDTH, "incompatible weight")],
)
def test_a_head_that_does_not_fit_is_refused_by_vllm_before_a_step(
    server: Server, name: str, size: int, width: int, told: str
) -> None:
    described = BaseModel.from_directory(server.base, "tiny")
    weights = {**tensors(described), **head_tensors(size, width)}
    folder = write_head(server.folder / name, described, save(weights), None)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    labels = tuple("abcdefgh"[: min(size, 8)])
    server.publish_unchecked(name, files, Head(size=len(labels), labels=labels))
    reply = server.ask("/classify", model=f"demo/{name}@1", input="x")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_refused")
    assert told in reply.json()["error"]["message"]
    assert server.ask("/classify", model="demo/two", input="x").status_code == 200


def test_a_head_of_nan_is_refused_and_hurts_nobody(
    server: Server, expected: dict[tuple[str, str], list[float]]
) -> None:
    described = BaseModel.from_directory(server.base, "tiny")
    weights = {**tensors(described), **head_tensors(3, WIDTH)}
    first = next(iter(weights))
    weights[first] = np.full_like(weights[first], np.inf)
    folder = write_head(server.folder / "nan", described, save(weights), None)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    server.publish_unchecked("nan", files, Head(size=3, labels=("a", "b", "c")))
    reply = server.ask("/classify", model="demo/nan@1", input="x")
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "adapter_faulty")
    for text in TEXTS:
        reply = server.ask("/classify", model="demo/five", input=text)
        np.testing.assert_allclose(
            reply.json()["data"][0]["probs"], expected["five", text], atol=2e-3
        )
