"""Batches of several replicas that share a bucket: one works, and if it dies another goes on."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from registry.store import open_store
from tests.components.test_replicas import Fleet, fleet_over
from tests.support.s3 import BUCKET, s3_server

LINES = 100


def until(good: Callable[[], Any], seconds: float) -> Any:
    """What `good` returns once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := good()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.2)
    return found


def lines() -> bytes:
    """Each takes a second to answer."""
    messages = [{"role": "user", "content": "1"}]
    asked = {"method": "POST", "url": "/v1/chat/completions"}
    return b"\n".join(
        json.dumps(
            {"custom_id": f"n{n}", **asked, "body": {"model": "tiny", "messages": messages}}
        ).encode()
        for n in range(LINES)
    )


def answered(folder: Path, number: int) -> int:
    """Requests that a replica has answered, by its log."""
    return (folder / f"replica-{number}.log").read_text().count('"event":"request"')


def test_a_batch_of_a_killed_replica_is_continued_and_no_line_stands_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server(tmp_path) as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        url = f"s3://{BUCKET}/fleet"
        store = open_store(url, s3_endpoint=s3.endpoint)
        with fleet_over(store, url, tmp_path, 2, LORARY_DEPLOYMENT="fleet") as fleet:
            check(fleet, tmp_path)


def check(fleet: Fleet, folder: Path) -> None:
    first, second = (
        openai.OpenAI(base_url=f"{one}/v1", api_key=fleet.operator.text, max_retries=0)
        for one in fleet.urls
    )
    file = first.files.create(file=("in.jsonl", lines()), purpose="batch")
    batch = second.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )

    def look(client: openai.OpenAI) -> Any:
        counts = client.batches.retrieve(batch.id).request_counts
        assert counts is not None
        return counts

    until(lambda: look(first).completed, 60)
    worked = [number for number in (0, 1) if answered(folder, number)]
    assert len(worked) == 1, "one replica works on a batch"
    fleet.processes[worked[0]].kill()
    heir = (first, second)[1 - worked[0]]
    before = look(heir).completed
    assert 0 < before < LINES
    ended = until(
        lambda: (found := heir.batches.retrieve(batch.id)).status == "completed" and found, 120
    )
    assert (ended.request_counts.completed, ended.request_counts.failed) == (LINES, 0)
    rows = [json.loads(row) for row in heir.files.content(ended.output_file_id).text.splitlines()]
    assert sorted(row["custom_id"] for row in rows) == sorted(f"n{n}" for n in range(LINES))
    # What was written is not asked again: at most what ran and waited to be written is.
    assert answered(folder, 1 - worked[0]) == LINES - before
