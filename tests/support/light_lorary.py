"""A `lorary` for tests of the demo: answers every command at once, and serves with no model.

Each server has a child of its own, as vLLM has, that lives until it is ended, too.
"""

import json
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NoReturn

ANSWER = {
    "id": "x", "object": "chat.completion", "created": 0, "model": "x",
    "choices": [{"index": 0, "finish_reason": "stop",
                 "message": {"role": "assistant", "content": "I do not know."}}],
}  # fmt: skip


def main(arguments: list[str]) -> None:
    """Do as the command would, as far as the demo looks at it."""
    match arguments:
        case ["small-model", *_]:
            print(json.dumps({"path": "/nowhere"}))
        case ["ls", *_]:
            print("[]")
        case ["show", *_]:
            print(json.dumps({"evaluations": []}))
        case ["key", *_]:
            print(json.dumps({"key": "lry_light"}))
        case ["init", *_]:
            key_file = Path(arguments[arguments.index("--key-file") + 1])
            key_file.parent.mkdir(parents=True, exist_ok=True)
            key_file.write_text("lry_operator\n")
        case ["serve" | "serve-registry", "--port", port]:
            serve(int(port))


def serve(port: int) -> None:
    """Answer every request until SIGTERM, which ends the child, too."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(f"pids {os.getpid()} {child.pid}", flush=True)

    def end(*_: object) -> NoReturn:
        child.terminate()
        child.wait()
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    ThreadingHTTPServer(("127.0.0.1", port), _Handler).serve_forever()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._reply({"status": "ok"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._reply(ANSWER)

    def _reply(self, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


if __name__ == "__main__":
    main(sys.argv[1:])
