"""A team promotes a new version while apps are in the middle of streaming answers."""

import asyncio
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from adapters.packs import PACKS
from tests.journeys.conftest import Site

PATH = f"financial/{PACKS['financial'].adapter}"
WITHIN = 1.5
"""Seconds within which every process that follows must use the new version."""

FOLLOWER = """
import sys, time
from registry.log.follower import Follower
from registry.store import open_store
follower = Follower(open_store(sys.argv[1]))
follower.start()
while True:
    adapter = follower.catalog.adapters.get(sys.argv[2])
    if adapter and adapter.aliases.get("production") == 2:
        print(time.time(), flush=True)
        break
    time.sleep(0.005)
"""


def second_version(first: Path, folder: Path) -> Path:
    """The same adapter a little weaker: other bytes, another version."""
    made = folder / "second"
    shutil.copytree(first, made)
    weights = load_file(made / "adapter_model.safetensors")
    scaled = {name: tensor * 0.97 for name, tensor in weights.items()}
    save_file(scaled, made / "adapter_model.safetensors")
    return made


def test_no_stream_fails_or_mixes_versions_and_new_requests_use_the_new_one_in_time(
    site: Site, trained: dict[str, Path], tmp_path: Path
) -> None:
    pushed = site.lorary("push", str(second_version(trained["financial"], tmp_path)), PATH)
    assert pushed["version"] == 2
    follower = subprocess.Popen(
        [sys.executable, "-c", FOLLOWER, site.store, PATH], stdout=subprocess.PIPE, text=True
    )
    streams, probes, moved = asyncio.run(move_while_streaming(site))
    seen = float(follower.communicate(timeout=30)[0])
    assert seen - moved <= WITHIN
    for models, finish in streams:
        assert len(models) > 20
        assert set(models) == {f"{PATH}@1"}, "a stream that began on @1 ends on @1"
        assert finish == "length"
    assert all(model in (f"{PATH}@1", f"{PATH}@2") for _, model in probes)
    late = [model for began, model in probes if began - moved > WITHIN]
    assert late
    assert set(late) == {f"{PATH}@2"}
    order = [model for _, model in sorted(probes)]
    assert order == sorted(order), "once the new version was used, the old one never was again"
    site.lorary("alias", "set", f"{PATH}@1", "production")


async def move_while_streaming(
    site: Site,
) -> tuple[list[tuple[list[str], str]], list[tuple[float, str]], float]:
    """Per stream its chunks' model names and end; per later request its start and model; when the
    alias was moved."""
    async with site.async_client() as client:
        streams = [asyncio.create_task(stream(client, number)) for number in range(6)]
        await asyncio.sleep(3)
        command = ["alias", "set", f"{PATH}@2", "production"]
        await asyncio.to_thread(site.lorary, *command)
        moved = time.time()
        probes = []
        while time.time() < moved + 2 * WITHIN or not all(task.done() for task in streams):
            began = time.time()
            reply = await client.chat.completions.create(
                model="financial", messages=[{"role": "user", "content": "x"}], max_tokens=1
            )
            probes.append((began, reply.model))
        return [await task for task in streams], probes, moved


async def stream(client: Any, number: int) -> tuple[list[str], str]:
    chunks = await client.chat.completions.create(
        model="financial",
        messages=[{"role": "user", "content": f"Tell me about assets, part {number}"}],
        stream=True,
        max_tokens=80,
        extra_body={"ignore_eos": True, "min_tokens": 80},
    )
    models, finish = [], ""
    async for chunk in chunks:
        models.append(chunk.model)
        finish = chunk.choices[0].finish_reason or finish
    return models, finish
