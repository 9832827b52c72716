"""An adapter's cold start: from a name that the replica never saw to its first token.

Beside the sum of its limits, measured in the same run and in turn: the bare download of the same
bytes from the same S3 server, and bare vLLM's load of the same files from a local disk
with the first token after it. Every adapter has weights of its own (19.5 MB), so that nothing is
cached anywhere but in the S3 server's memory, where one read before has put it for both sides.
"""

import asyncio
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import boto3
import httpx
from botocore.config import Config
from matplotlib.figure import Figure

from benchmarks.load import spread
from benchmarks.serving.library import Fresh
from benchmarks.serving.pair import Pair
from benchmarks.serving.streams import SETTLE, Ask, client, stream
from registry.store.blobs import blob_key
from tests.support.s3 import BUCKET

GOAL = 1.2
PHASES = {
    "disk": 'lorary_cold_load_phase_seconds_sum{phase="download"}',
    "engine": 'lorary_cold_load_phase_seconds_sum{phase="engine"}',
}
"""Where the replica's own metrics put a cold start's seconds."""


def measure(pair: Pair, *, quick: bool) -> dict[str, Any]:
    """Each adapter's seconds, and those of its limits."""
    count = 6 if quick else 16
    adapters = [pair.library.fresh() for _ in range(count)]
    pair.await_commit(pair.library.registry.catalog.sequence)
    rows = asyncio.run(_all(pair, adapters))
    ratios = [row["cold"] / (row["download"] + row["load"]) for row in rows]
    print(f"\nCold start from S3 to the first token, {count} adapters; ms, median [min .. max]")
    for title, key in (
        ("Lorary, from S3 to the first token", "cold"),
        ("  of it download and verification", "disk"),
        ("  of it the engine's load", "engine"),
        ("limit: bare download", "download"),
        ("limit: bare vLLM, load and first token", "load"),
    ):
        print(f"  {title:40} {spread([1000 * row[key] for row in rows], '.0f')}")
    print(f"  {'cold start / sum of its limits':40} {spread(ratios, '.2f')}   (goal {GOAL})")
    return {"rows": rows, "ratio": median(ratios), "ratios": ratios, "goal": GOAL}


async def _all(pair: Pair, adapters: list[Fresh]) -> list[dict[str, float]]:
    """One adapter after the other; which side is first alternates."""
    s3 = boto3.client(
        "s3",
        endpoint_url=os.environ["LORARY_S3_ENDPOINT"],
        config=Config(s3={"addressing_style": "path"}),
    )
    rows = []
    async with client(pair.gated) as gated, client(pair.bare) as bare:
        for index, adapter in enumerate(adapters):
            row: dict[str, float] = {}
            await asyncio.to_thread(_download, s3, adapter)  # so that S3 has it in memory for both
            for side in ("ours", "limits") if index % 2 else ("limits", "ours"):
                await asyncio.sleep(SETTLE)
                if side == "ours":
                    row |= await _cold(pair, gated, adapter)
                else:
                    row["download"] = await asyncio.to_thread(_download, s3, adapter)
                    row["load"] = await _load(bare, adapter)
            rows.append(row)
    return rows


async def _cold(pair: Pair, gated: httpx.AsyncClient, adapter: Fresh) -> dict[str, float]:
    before = pair.metrics()
    answer = await stream(gated, Ask(adapter.name, 2))
    after = pair.metrics()
    phases = {phase: after[name] - before.get(name, 0.0) for phase, name in PHASES.items()}
    return {"cold": answer.first, **phases}


async def _load(bare: httpx.AsyncClient, adapter: Fresh) -> float:
    """Seconds of bare vLLM's load of the local directory, and to its first token."""
    body = {"lora_name": adapter.name, "lora_path": str(adapter.directory)}
    began = time.perf_counter()
    (await bare.post("/v1/load_lora_adapter", json=body)).raise_for_status()
    took = time.perf_counter() - began
    took += (await stream(bare, Ask(adapter.name, 2))).first
    await bare.post("/v1/unload_lora_adapter", json={"lora_name": adapter.name})
    return took


def _download(s3: Any, adapter: Fresh) -> float:
    """Seconds of reading the files, one after the other; nothing is done with the bytes."""
    began = time.perf_counter()
    for file in adapter.files:
        key = f"bench/{blob_key(file.sha256)}"
        body = s3.get_object(Bucket=BUCKET, Key=key)["Body"]
        if sum(len(piece) for piece in body.iter_chunks(1 << 20)) != file.size:
            raise SystemExit("S3 gave other bytes")
    return time.perf_counter() - began


def draw(figures: dict[str, Any], path: Path) -> None:
    """Each adapter's cold start beside its limits, one upon the other."""
    rows = figures["rows"]
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots()
    below = [0.0] * len(rows)
    for key, label, colour in (
        ("download", "limit: bare download", "#9db8cc"),
        ("load", "limit: bare vLLM, load of a local file and first token", "#1f5f8b"),
    ):
        heights = [1000 * row[key] for row in rows]
        places = [x - 0.2 for x in range(len(rows))]
        axes.bar(places, heights, 0.4, bottom=below, label=label, color=colour)
        below = heights
    axes.bar(
        [x + 0.2 for x in range(len(rows))],
        [1000 * row["cold"] for row in rows],
        0.4,
        label="Lorary, from S3 to the first token",
        color="#c0692b",
    )
    axes.set_xticks([])
    axes.set_xlabel(f"each adapter (median ratio {figures['ratio']:.2f}, goal {figures['goal']})")
    axes.set_ylabel("milliseconds")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.35)
    axes.legend(loc="upper left", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
