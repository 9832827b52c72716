"""An OpenAI API whose answers the test decides: for what stands above the API.

The real one answers in tests/journeys/test_evaluation.py.
"""

import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from registry.model.evidence import Engine

ENGINE = Engine(
    name="vllm 0.32.0", device="cpu", dtype="float32", quantization="", base="0" * 64,
    settings={"max_model_len": "2048"},
)  # fmt: skip
Answer = Callable[[str, str], tuple[str, float]]
"""From the model's name and the question: the answer and how probable it is."""


@dataclass
class Oracle:
    """What is asked of it, and how it answers."""

    answer: Answer
    digests: dict[str, str]
    asked: list[tuple[str, str]] = field(default_factory=list)
    broken_after: int | None = None
    """How many questions it answers before it fails, if it shall."""
    url: str = ""
    engine: Engine = ENGINE
    """What it says that it runs."""
    answering: Engine | None = None
    """What its answers say, if that is something else."""

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        if "input" in body:
            return self.classified(body)
        question = body["messages"][-1]["content"]
        text, probability = self.answer(body["model"], question)
        self.asked.append((body["model"], question))
        listed = [{"token": text, "logprob": math.log(probability), "bytes": None,
                   "top_logprobs": []}]  # fmt: skip
        choice = {
            "index": 0, "finish_reason": "stop", "logprobs": {"content": listed},
            "message": {"role": "assistant", "content": text},
        }  # fmt: skip
        return {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"],
                "choices": [choice]}  # fmt: skip

    def classified(self, body: dict[str, Any]) -> dict[str, Any]:
        """What `/classify` answers."""
        data = []
        for text in body["input"]:
            label, probability = self.answer(body["model"], text)
            self.asked.append((body["model"], text))
            data.append({"label": label, "probs": [1 - probability, probability]})
        return {"id": "classify-x", "model": body["model"], "data": data}


@contextmanager
def serving(oracle: Oracle) -> Iterator[Oracle]:
    """The oracle on a port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            told = {
                "id": self.path.rpartition("/")[2],
                "engine": msgspec.to_builtins(oracle.engine),
            }
            data = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            failing = oracle.broken_after is not None and len(oracle.asked) >= oracle.broken_after
            reply = {"error": {"message": "broken"}} if failing else oracle.reply(body)
            data = json.dumps(reply).encode()
            self.send_response(400 if failing else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if digest := oracle.digests.get(body["model"]):
                self.send_header("x-lorary-digest", digest)
            answering = oracle.answering or oracle.engine
            self.send_header("x-lorary-engine", answering.fingerprint)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: requests are recorded."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    oracle.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield oracle
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
