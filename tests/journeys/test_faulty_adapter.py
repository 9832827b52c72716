"""An adapter whose weights overflow: it hurts nobody on real vLLM, and is refused by name."""

import json
import struct
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

from adapters.home import SMALL_MODEL
from adapters.packs import PACKS
from registry.model.access import Secret
from registry.model.catalog import File
from registry.model.versions import PublishVersion
from registry.registry import Registry
from registry.store import LocalStore
from registry.store.blobs import Blobs, content_digest
from tests.journeys.conftest import Site
from tests.support.catalogs import FACTS

LONG = "word " * 130
"""Above one block of the KV cache on a CPU: 128 tokens."""


def overflowing() -> dict[str, bytes]:
    """An adapter of finite float32 weights with which the first layer's queries are infinite."""
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {
        f"{module}.lora_A.weight": np.full((8, 576), 3e38, "<f4"),
        f"{module}.lora_B.weight": np.full((576, 8), 3e38, "<f4"),
    }
    header, data = {}, b""
    for name, factor in factors.items():
        offsets = [len(data), len(data) + factor.nbytes]
        header[name] = {"dtype": "F32", "shape": list(factor.shape), "data_offsets": offsets}
        data += factor.tobytes()
    text = json.dumps(header).encode()
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": SMALL_MODEL,
        "r": 8,
        "lora_alpha": 16,
        "target_modules": ["q_proj"],
        "bias": "none",
    }
    return {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": struct.pack("<Q", len(text)) + text + data,
    }


def publish_unchecked(site: Site, domain: str, adapter: str) -> str:
    """The adapter in the log, as a Lorary that did not look at weights' sizes admitted it."""
    store = LocalStore(Path(site.store))
    blobs = Blobs(store)
    files = tuple(
        File(name, len(data), blobs.put_bytes(data)) for name, data in overflowing().items()
    )
    registry = Registry(store)
    try:
        command = PublishVersion(domain, adapter, content_digest(files), SMALL_MODEL, files, FACTS)
        registry.execute(command, Secret.parse(site.operator).id)
    finally:
        registry.close()
    return f"{domain}/{adapter}@1"


def test_an_adapter_that_overflows_hurts_nobody_and_is_refused_by_name(site: Site) -> None:
    models = [SMALL_MODEL, *(f"{domain}/{pack.adapter}" for domain, pack in PACKS.items())]

    def texts(prompt: str) -> list[str]:
        return [ask(site, model, prompt) for model in models]

    expected = texts("What is hypertension?")
    assert all(expected)
    culprit = publish_unchecked(site, "legal", "overflowing")
    site.settle(lambda: known(site, culprit))
    for _ in range(2):
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            ask(site, culprit, LONG)
        assert refused.value.code == "adapter_faulty"
        assert culprit in str(refused.value)
    assert texts("What is hypertension?") == expected
    assert all(texts("Name a bone of the hand."))  # a prompt that is in no cache
    health = httpx.get(f"{site.api}/health").json()
    assert (health["status"], health["engine"], health["adapters"]["faulty"]) == ("ok", "ok", 1)


def ask(site: Site, model: str, prompt: str) -> str:
    """What the model answers in a few tokens, the same each time."""
    answer = site.client().chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": prompt}],
        max_tokens=12,
        temperature=0,
    )
    return answer.choices[0].message.content or ""


def known(site: Site, model: str) -> bool:
    """Whether the replica has read of the version."""
    key = {"authorization": f"Bearer {site.app}"}
    return httpx.get(f"{site.api}/v1/models/{model}", headers=key).status_code == 200
