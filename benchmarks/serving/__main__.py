"""How one replica serves, each figure beside its limit or a peer, both sides in one run.

    python -m benchmarks.serving                     # every part, the small model on this CPU
    python -m benchmarks.serving cold stall --quick
    make bench-serving ARGS="working-set --plot docs/figures --json serving.json"
    python -m benchmarks.serving callers batch working-set --model /models/llama-8b \\
        --base-name llama-8b --slots 32 --places 256 --callers 1,64,256 --tokens 64 --words 196 \\
        --loaders 8 --sizes 1000 -- --gpu-memory-utilization 0.4

  gate         what a gateway adds: Lorary's gate and LiteLLM's proxy before an upstream that
               answers at once
  callers      requests a second through Lorary and on bare vLLM, by the number of callers
  answers      whether the named adapter answers, beside bare vLLM
  batch        what different adapters in a batch cost, with each --variant
  cold         an adapter's way from its store to its first token, beside the sum of its limits
  working-set  throughput and memory with 1 to 10,000 published adapters under Zipf traffic
  stall        time between the tokens of running streams while other adapters are loaded
  cliff        throughput and time to the first token as the adapters pass the engine's slots
  tool         a third party's load generator (aiperf), unmodified, against several adapters

All but the first use real vLLM, with any base model, any hardware and any of vLLM's options (after
--); by default the small model on this CPU, and a real S3 server. On two cores each part in full
takes two to nine minutes, and --quick is sized for a quarter of that; to start both servers takes
two of them. The two need 8 GB of memory. LiteLLM and aiperf are installed into environments of
their own under the cache folder the first time. A part that fails is reported, and the next is run.
"""

import argparse
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving import (
    answers,
    batch,
    callers,
    cliff,
    cold,
    gateways,
    setting,
    stall,
    tool,
    working_set,
)
from benchmarks.serving.pair import pair

PARTS: dict[str, Any] = {
    "gate": gateways,
    "answers": answers,
    "callers": callers,
    "batch": batch,
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
    parser.add_argument("--logs", type=Path, metavar="DIR", help="keep the servers' logs there")
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="TITLE:VARIABLE=VALUE",
        help="measure `lorary serve` with another setting, too; for callers and batch",
    )
    setting.add_arguments(parser)
    own, vllms = _divided(sys.argv[1:])
    options = parser.parse_args(own)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))  # so that servers end, too
    chosen = options.parts or list(PARTS)
    if unknown := set(chosen) - PARTS.keys():
        parser.error(f"there is no part {unknown.pop()!r}; choose from {', '.join(PARTS)}")
    measured = setting.read(options, vllms)
    variants = {
        title: dict([setting_.split("=", 1)])
        for title, setting_ in (one.split(":", 1) for one in options.variant)
    }
    figures: dict[str, Any] = {"made on": measured.label()}
    failed = False
    print(json.dumps(figures["made on"]), flush=True)
    with tempfile.TemporaryDirectory() as text, contextlib.ExitStack() as stack:
        folder = Path(text)
        if options.logs:
            stack.callback(_keep, folder, options.logs)
        servers = None
        for name in chosen:
            began = time.perf_counter()
            try:
                if name == "gate":
                    figures[name] = gateways.measure(quick=options.quick)
                else:
                    servers = servers or stack.enter_context(pair(folder, measured, variants))
                    figures[name] = PARTS[name].measure(servers, quick=options.quick)
            except Exception as error:
                if servers is None:
                    raise
                failed = True
                print(f"  {name} failed: {error!r}", flush=True)
                figures[name] = {"failed": repr(error)}
            print(f"  ({name} took {time.perf_counter() - began:.0f} s)", flush=True)
            if options.json:
                options.json.write_text(json.dumps(figures) + "\n")
            if options.plot and "failed" not in figures[name] and hasattr(PARTS[name], "draw"):
                options.plot.mkdir(parents=True, exist_ok=True)
                PARTS[name].draw(figures[name], options.plot / f"serving-{name}.png")
    sys.exit(failed)


def _divided(given: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Our arguments, and vLLM's: those after `--`."""
    at = given.index("--") if "--" in given else len(given)
    return list(given[:at]), tuple(given[at + 1 :])


def _keep(folder: Path, where: Path) -> None:
    where.mkdir(parents=True, exist_ok=True)
    for log in folder.glob("*.log"):
        shutil.copy(log, where / log.name.replace(" ", "-"))


if __name__ == "__main__":
    main()
