"""How soon every one of several replicas refuses a version that was revoked.

    python -m benchmarks.revocation                # three replicas, 60 revocations, a few minutes

A real S3 server, a registry's service, and replicas that each run the real gate in a process of
their own, around an engine that only reads files: a request is refused before it reaches an engine.
Each revocation comes at a random moment of the replicas' polls. Every replica is asked every 20 ms
until it answers 410, and then once more for a completion. Exit status 1: p99 is above two seconds.
"""

import argparse
import asyncio
import json
import math
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

import httpx

from adapters.names import AdapterRef
from benchmarks.load import percentile
from benchmarks.soak.report import REVOKED_WITHIN
from benchmarks.soak.site import Site
from benchmarks.soak.troubles import until_refused
from benchmarks.soak.truth import Told
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.model.versions import RevokeVersion
from tests.support.adapters import TINY, write_adapter

BIN_SECONDS = 0.1


def main() -> None:
    """Measure, and print the distribution."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.revocation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--revocations", type=int, default=60)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        site = Site(folder, vllm=0, light=options.replicas, cache_bytes=1 << 30, base=TINY.name)
        try:
            rows = asyncio.run(measure(site, options.revocations))
        finally:
            site.close()
    last = [max(row) for row in rows]
    show(rows, last)
    if options.json:
        options.json.write_text(json.dumps({"seconds": rows, "until_the_last": last}) + "\n")
    sys.exit(0 if percentile(last, 0.99) <= REVOKED_WITHIN else 1)


async def measure(site: Site, revocations: int) -> list[list[float]]:
    """For each revocation, the seconds until each replica refused the version."""
    registry, chance, rows = site.registry, random.Random(0), list[list[float]]()
    registry.add_base(TINY)
    registry.execute(CreateDomain("medical", Policy(guarded=())))
    for replica in site.replicas:
        replica.start()
    await asyncio.gather(*(replica.ready() for replica in site.replicas))
    for number in range(revocations):
        made = write_adapter(site.folder / "made", seed=number)
        ref = str((await asyncio.to_thread(registry.push, made, "medical/coder"))["ref"])
        await _served(site, ref)
        await asyncio.sleep(chance.random())
        await asyncio.to_thread(
            registry.execute, RevokeVersion(*AdapterRef.parse_version(ref), "measured")
        )
        told = Told(0, time.monotonic())
        took = await asyncio.gather(
            *(until_refused(replica, ref, site.app, told) for replica in site.replicas)
        )
        rows.append([math.inf if seconds is None else seconds for seconds in took])
        await _completions(site, ref, 410)
        print(f"\r{number + 1} of {revocations}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return rows


async def _served(site: Site, ref: str) -> None:
    """Wait until every replica knows the version, and let each answer with it."""
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {site.app}"}) as client:
        for replica in site.replicas:
            for _ in range(600):
                if (await client.get(f"{replica.url}/v1/models/{ref}")).status_code == 200:
                    break
                await asyncio.sleep(0.05)
    await _completions(site, ref, 200)


async def _completions(site: Site, ref: str, status: int) -> None:
    """Ask every replica once; raises unless each answers with that status."""
    body = {"model": ref, "prompt": "Well?"}
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {site.app}"}) as client:
        for replica in site.replicas:
            reply = await client.post(f"{replica.url}/v1/completions", json=body)
            if reply.status_code != status:
                raise SystemExit(f"{replica.name} answered {reply.status_code}, not {status}")


def show(rows: list[list[float]], last: list[float]) -> None:
    """The distributions as a table and as bars."""
    each = [seconds for row in rows for seconds in row]
    print(f"{len(rows)} revocations, {len(rows[0])} replicas; seconds from the acknowledgement")
    for text, values in (("until one replica refuses", each), ("until every one does", last)):
        print(
            f"  {text:<28} p50 {median(values):.2f}   p95 {percentile(values, 0.95):.2f}   "
            f"p99 {percentile(values, 0.99):.2f}   most {max(values):.2f}"
        )
    counted = Counter(int(seconds / BIN_SECONDS) for seconds in last if seconds < math.inf)
    print("  until every one does:")
    for index in range(max(counted, default=0) + 1):
        print(f"    {index * BIN_SECONDS:.1f} s  {'#' * counted[index]}")


if __name__ == "__main__":
    main()
