"""Embeddings with adapters on real vLLM, beside what transformers and PEFT compute."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from safetensors.numpy import save

from adapters.base_model import BaseModel
from tests.support.adapters import tensors, write_described
from tests.support.published import published
from tests.support.servers import BIN, free_port, running
from tests.support.tiny_model import one_thread, write_tiny_model

pytest.importorskip("vllm")
TEXTS = ["x", "Which is it?", "word " * 60]
"""The last is computed in more than one step."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embeddings")
    base = write_tiny_model(folder / "base", heads=2)
    described = BaseModel.from_directory(base, "tiny")
    targets = sorted({module.rpartition(".")[2] for module in described.modules})
    for seed, name in enumerate(("one", "two")):
        weights = save({n: 4 * a for n, a in tensors(described, seed=seed).items()})
        write_described(folder / name, described, weights, r=4, target_modules=targets)
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[openai.OpenAI]:
    described = BaseModel.from_directory(folder / "base", "tiny")
    made = {name: folder / name for name in ("one", "two")}
    keys = published(folder / "store", described, made)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running(
        [str(BIN / "lorary"), "serve", "--port", str(port), "--", "--runner=pooling",
         "--convert=embed", "--dtype=float32", "--enforce-eager"],
        folder / "serve.log",
        ready=f"{url}/health",
        environment={
            "LORARY_STORE": str(folder / "store"),
            "LORARY_MODEL": str(folder / "base"),
            "LORARY_BASE_NAME": "tiny",
            "LORARY_MAX_MODEL_LEN": "1024",
            "LORARY_HOME": str(folder / "home"),
        },
        seconds=400,
    ):  # fmt: skip
        yield openai.OpenAI(base_url=f"{url}/v1", api_key=keys.apps[0], max_retries=0)


def expected(folder: Path, adapter: str | None) -> np.ndarray:
    """The last token's hidden state of each text, of length 1."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(folder / adapter))
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    found = []
    with one_thread(), torch.inference_mode():
        for text in TEXTS:
            ids = tokenizer(text, return_tensors="pt")
            state = model(**ids, output_hidden_states=True).hidden_states[-1][0, -1]
            found.append((state / state.norm()).numpy())
    return np.array(found)


@pytest.mark.parametrize("adapter", [None, "one", "two"])
def test_embeddings_are_those_of_the_adapter_that_was_named(
    folder: Path, client: openai.OpenAI, adapter: str | None
) -> None:
    model = "tiny" if adapter is None else f"demo/{adapter}"
    whole = client.embeddings.create(model=model, input=TEXTS, encoding_format="float")
    got = np.array([item.embedding for item in whole.data])
    assert np.allclose(got, expected(folder, adapter), atol=2e-3)
    packed = client.embeddings.create(model=model, input=TEXTS)  # in base64
    assert np.allclose([item.embedding for item in packed.data], got, atol=1e-6)
    assert whole.usage.prompt_tokens > 60


def test_an_answer_waits_for_no_statistics_that_never_come(client: openai.OpenAI) -> None:
    seconds = []
    for _ in range(5):
        began = time.monotonic()
        client.embeddings.create(model="demo/one", input="x")
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 0.9


def test_text_is_refused_by_name(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "x"}]
    with pytest.raises(openai.NotFoundError, match="embeddings alone"):
        client.chat.completions.create(model="demo/one", messages=messages)


def test_a_batch_of_embeddings_is_answered(client: openai.OpenAI) -> None:
    lines = "\n".join(
        json.dumps({"custom_id": text, "method": "POST", "url": "/v1/embeddings",
                    "body": {"model": "demo/two", "input": text}})
        for text in TEXTS
    )  # fmt: skip
    file = client.files.create(file=("in.jsonl", lines.encode()), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
    )
    deadline = time.monotonic() + 60
    while (found := client.batches.retrieve(batch.id)).status != "completed":
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    assert found.output_file_id is not None
    rows = client.files.content(found.output_file_id).text.splitlines()
    assert {json.loads(row)["custom_id"] for row in rows} == set(TEXTS)
