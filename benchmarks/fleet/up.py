"""A fleet to look at, until interrupted.

    make fleet                      # or: python -m benchmarks.fleet.up --replicas 2

Two vLLM replicas with random-weight adapters of the small model on an S3 server, the registry, the
chart's Envoy and a Prometheus with the chart's alerts. Everything listens on 127.0.0.1.
"""

import argparse
import json
import os
import signal
import tempfile
import threading
from pathlib import Path

from benchmarks.fleet.site import fleet, names, open_front, watch


def main() -> None:
    """Start, tell where everything is, wait."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--adapters", type=int, default=12)
    parser.add_argument("--once", action="store_true", help="end as soon as everything answers")
    options = parser.parse_args()
    ending = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ending.set())
    with tempfile.TemporaryDirectory(prefix="lorary-fleet-") as folder:
        print(f"Starting {options.replicas} vLLM replicas; logs are in {folder} ...", flush=True)
        with fleet(Path(folder), replicas=options.replicas, adapters=options.adapters) as made:
            envoy = open_front(made, "affinity")
            made.settle(options.replicas)
            watching = watch(made, "affinity")
            key = made.folder / "operator.key"
            key.touch(mode=0o600)
            key.write_text(made.scene.operator.text)
            print(f"the API      {envoy.url}/v1        (Envoy; key in {key})")
            for replica in made.replicas:
                print(f"  replica {replica.number}  {replica.url}")
            print(f"the registry {made.scene.service}")
            print(f"the bucket   {made.store} at {os.environ['LORARY_S3_ENDPOINT']}")
            print(f"Prometheus   {watching.url}/alerts")
            print(f"Envoy        {envoy.stats}/stats/prometheus")
            body = {
                "model": names(options.adapters)[0],
                "max_tokens": 8,
                "messages": [{"role": "user", "content": "Hello"}],
            }
            print(f"\n  curl -s {envoy.url}/v1/chat/completions \\")
            print(f'    -H "Authorization: Bearer $(cat {key})" \\')
            print("    -H 'content-type: application/json' \\")
            print(f"    -d '{json.dumps(body)}'\n", flush=True)
            if not options.once:
                print("Ctrl-C ends everything.", flush=True)
                ending.wait()


if __name__ == "__main__":
    main()
