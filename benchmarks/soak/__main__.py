"""Everything that can happen to serving, at once, and every answer judged.

    python -m benchmarks.soak --minutes 30         # or: make soak
    python -m benchmarks.soak                      # the short form that `make test` runs

A real S3 server, a registry's service and several replicas, of which the first runs vLLM with the
small model. Callers ask for adapters by pinned name, alias, path and domain, whole and streamed,
and some leave in the middle. Meanwhile aliases move, versions are published and revoked, the object
store goes away and comes back, replicas get SIGTERM and SIGKILL, and there are more adapters than
slots, memory or disk have room for. Each version says a word of its own, so every answer is judged
by its headers and by its text. Exit status 1: a promise was broken.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks.soak import drawing
from benchmarks.soak.soaking import SHORT, long, soak


def main() -> None:
    """Soak, print the report, and draw it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, help="how long; unset: the short form")
    parser.add_argument("--vllm", type=int, default=2, help="replicas that run vLLM, long form")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--plot", type=Path, help="draw it into this file")
    options = parser.parse_args()
    plan = SHORT if options.minutes is None else long(options.minutes, options.vllm)
    report = soak(plan, Progress())
    print(report.text())
    if options.json:
        options.json.write_text(json.dumps(report.figures(), indent=2) + "\n")
    if options.plot:
        drawing.draw(report, options.plot)
    sys.exit(0 if report.kept else 1)


class Progress:
    """One line that is written over on a terminal; elsewhere a line now and then."""

    def __init__(self) -> None:
        self._last = -60.0

    def __call__(self, text: str) -> None:
        """Show `text`."""
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self._last > 15:
            self._last = time.monotonic()
            print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
