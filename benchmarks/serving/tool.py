"""A third party's load generator, unmodified, against several adapters by their Lorary names.

aiperf (NVIDIA's successor to genai-perf) is installed into an environment of its own under the
cache folder. Its part for LoRA is a list of models and a strategy that gives each prompt one of
them; here half of the names are pinned versions and half are aliases. It streams chat completions
with a Lorary key as its API key. Its own summary is printed, and the replica's metrics must say
that every adapter got its share and that nothing failed.
"""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.peers import peer
from benchmarks.serving.library import DOMAIN
from benchmarks.serving.pair import Pair

AIPERF = "aiperf==0.13.0"
ADAPTERS = 6
AT_ONCE = 4
SHOWN = {
    "request_throughput": "requests per second",
    "output_token_throughput": "tokens per second",
    "time_to_first_token": "time to first token, ms",
    "inter_token_latency": "between tokens, ms",
}


def measure(pair: Pair, *, quick: bool) -> dict[str, Any]:
    """aiperf's summary; raises unless every request was answered by the adapter it named."""
    requests = 12 if quick else 48
    pair.await_commit(pair.library.name_production(ADAPTERS))
    names = [
        f"{DOMAIN}/large{number}@1" if number % 2 else f"{DOMAIN}/large{number}"
        for number in range(ADAPTERS)
    ]
    before = _answered(pair)
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(peer("aiperf", AIPERF) / "aiperf"), "profile",
            "--model-names", ",".join(names), "--model-selection-strategy", "round-robin",
            "--url", pair.gated.url, "--api-key", pair.library.key.text,
            "--endpoint-type", "chat", "--streaming", "--tokenizer", str(pair.setting.model),
            "--request-count", str(requests), "--concurrency", str(AT_ONCE),
            "--synthetic-input-tokens-mean", "32", "--output-tokens-mean", "16",
            "--num-dataset-entries", str(requests), "--random-seed", "1",
            "--extra-inputs", "ignore_eos:true", "--extra-inputs", "min_tokens:16",
            "--ui", "none", "--no-gpu-telemetry", "--output-artifact-dir", folder,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"aiperf failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        summary = json.loads(next(Path(folder).rglob("profile_export_aiperf.json")).read_text())
    after = _answered(pair)
    shares = {key: after[key] - before.get(key, 0) for key in after}
    shares = {key: count for key, count in shares.items() if count}
    print(f"\naiperf, {requests} streamed chats over {ADAPTERS} adapters, {AT_ONCE} at once")
    for key, title in SHOWN.items():
        print(f"  {title:26} {summary[key]['avg']:8.2f}")
    print("  answers by adapter         " + ", ".join(f"{k} {v:.0f}" for k, v in shares.items()))
    wanted = {(f"large{number}", "200"): requests / ADAPTERS for number in range(ADAPTERS)}
    if shares != wanted:
        raise SystemExit(f"wanted {wanted} answers by adapter and status, found {shares}")
    return {"summary": {key: summary[key] for key in SHOWN}, "requests": requests}


def _answered(pair: Pair) -> dict[tuple[str, str], float]:
    """Answers so far by adapter and status, as the replica counts them."""
    found: dict[tuple[str, str], float] = {}
    for series, value in pair.metrics().items():
        if series.startswith("lorary_requests_total{"):
            labels = dict(
                part.split("=", 1) for part in series.partition("{")[2].rstrip("}").split(",")
            )
            key = labels["adapter"].strip('"'), labels["status"].strip('"')
            found[key] = found.get(key, 0) + value
    return found
