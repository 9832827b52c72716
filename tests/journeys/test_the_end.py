"""How a server goes: asked to end in the middle of a stream, it finishes that and takes no more.

It ends the server that all journeys share, so conftest.py puts it last.
"""

import os
import signal
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.journeys.conftest import Site
from tests.journeys.test_app import question


def test_on_sigterm_streams_are_finished_newcomers_refused_and_the_process_ends(
    site: Site,
) -> None:
    port = site.api.rpartition(":")[2]
    process = next(
        p for p in psutil.process_iter(["cmdline"])
        if "serve" in (p.info["cmdline"] or []) and port in p.info["cmdline"]
    )  # fmt: skip
    messages: Any = question("medical")
    pieces = site.client().chat.completions.create(
        model="medical", messages=messages, max_tokens=60, stream=True, temperature=0,
        stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
    )  # fmt: skip
    first = next(iter(pieces))
    os.kill(process.pid, signal.SIGTERM)
    site.settle(lambda: httpx.get(f"{site.api}/health").status_code == 503)
    with pytest.raises(openai.InternalServerError) as refused:
        site.client().chat.completions.create(model="medical", messages=messages, max_tokens=1)
    assert refused.value.code == "shutting_down"
    assert refused.value.response.headers["retry-after"]
    rest = list(pieces)
    assert first.choices
    # vLLM joins tokens into one piece when the reader is slow, so tokens are counted, not pieces.
    assert [p.choices[0].finish_reason for p in rest if p.choices][-1] == "length"
    assert rest[-1].usage is not None
    assert rest[-1].usage.completion_tokens == 60
    process.wait(60)
