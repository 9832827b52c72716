"""How one replica serves, each figure beside its limit or a peer, both sides in one run.

    python -m benchmarks.serving                     # every part
    python -m benchmarks.serving cold stall --quick
    make bench-serving ARGS="working-set --plot docs/figures --json serving.json"

  gate         what a gateway adds: Lorary's gate and LiteLLM's proxy before an upstream that
               answers at once
  cold         an adapter's way from S3 to its first token, beside the sum of its limits
  working-set  throughput and memory with 1 to 10,000 published adapters under Zipf traffic
  stall        time between the tokens of running streams while other adapters are loaded
  cliff        throughput and time to the first token as the adapters pass the engine's slots
  tool         a third party's load generator (aiperf), unmodified, against several adapters

All but the first use real vLLM with the small model and a real S3 server. On two cores each part in
full takes two to nine minutes, and --quick is sized for six minutes in all on an idle machine; to
start both servers takes two of them. The two need 8 GB of memory. LiteLLM and aiperf are installed
into environments of their own under the cache folder the first time.
"""

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.serving import cliff, cold, gateways, stall, tool, working_set
from benchmarks.serving.pair import pair

Part = Callable[..., dict[str, Any]]
PARTS: dict[str, Any] = {
    "gate": gateways,
    "cold": cold,
    "working-set": working_set,
    "stall": stall,
    "cliff": cliff,
    "tool": tool,
}


def main() -> None:
    """Run the chosen parts and print them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer and smaller rounds")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw each part into this folder")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))  # so that servers end, too
    chosen = options.parts or list(PARTS)
    if unknown := set(chosen) - PARTS.keys():
        parser.error(f"there is no part {unknown.pop()!r}; choose from {', '.join(PARTS)}")
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        servers = None
        for name in (part for part in PARTS if part in chosen):
            began = time.perf_counter()
            if name == "gate":
                figures[name] = gateways.measure(quick=options.quick)
            else:
                servers = servers or stack.enter_context(pair(Path(folder)))
                figures[name] = PARTS[name].measure(servers, quick=options.quick)
            print(f"  ({name} took {time.perf_counter() - began:.0f} s)", flush=True)
            if options.plot and hasattr(PARTS[name], "draw"):
                options.plot.mkdir(parents=True, exist_ok=True)
                PARTS[name].draw(figures[name], options.plot / f"serving-{name}.png")
            if options.json:
                options.json.write_text(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
