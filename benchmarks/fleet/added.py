"""What Envoy adds: the same load against one trivial replica and through the chart's front.

python -m benchmarks.fleet.added --rounds 8
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.load import Target, alternate, summarise
from tests.support.front import front
from tests.support.servers import free_port, running


def main() -> None:
    """Measure with one caller, and with sixteen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--requests", type=int, default=800)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    figures = []
    with tempfile.TemporaryDirectory() as text, contextlib.ExitStack() as stack:
        folder, port = Path(text), free_port()
        command = [sys.executable, "-m", "tests.support.stub_replica", str(port)]
        url = f"http://127.0.0.1:{port}"
        stack.enter_context(running(command, folder / "stub.log", ready=f"{url}/health"))
        envoy = stack.enter_context(front({"pool": [port]}, folder))
        body = {"model": "medical/coder@7", "messages": [{"role": "user", "content": "x" * 500}]}
        path = "/v1/chat/completions"
        sides = [
            Target(n, f"{u}{path}", body, {}) for n, u in (("direct", url), ("Envoy", envoy.url))
        ]
        for callers in (1, 16):
            direct, through = asyncio.run(
                alternate(
                    sides[0],
                    sides[1],
                    rounds=options.rounds,
                    requests=options.requests,
                    concurrency=callers,
                )
            )
            figures.append(summarise("Envoy", callers, direct, through))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
