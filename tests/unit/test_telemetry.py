"""What operators see of answers: counted as they pass, bounded, and never what was said."""

import asyncio
import json
from datetime import UTC, datetime

import pytest
from prometheus_client import REGISTRY
from starlette.types import Message, Receive, Scope, Send

from registry.times import parse as utc
from serving.gate import Gate
from serving.telemetry.metrics import BY_ADAPTER, REFUSALS, SERIES, TOKENS, Series
from tests.support.asking import CHAT, chat, into, scope_of, send_to, whole
from tests.support.replicas import Site, Upstream, answered


def sample(name: str) -> float:
    labels = {"domain": "medical", "adapter": "coder", "version": "1"}
    return REGISTRY.get_sample_value(name, labels) or 0.0


def chat_stream(site: Site, upstream: Upstream) -> None:
    body = json.dumps({"model": "medical", "messages": [], "stream": True}).encode()
    scope = scope_of("POST", CHAT, site.medical)
    asyncio.run(Gate(upstream, site.replica)(scope, whole(body), into([])))


def test_an_answer_is_counted_as_it_passes(site: Site) -> None:
    before = sample("lorary_tokens_total")
    firsts = sample("lorary_time_to_first_token_seconds_count")
    others = sample("lorary_time_per_output_token_seconds_count")
    plain = Upstream(pieces=(b'{"usage": {"prompt_tokens": 7, ', b'"completion_tokens": 5}}'))
    chat(site, plain, "medical", site.medical)
    assert sample("lorary_tokens_total") == before + 5
    events = tuple(
        b'data: {"choices": [{"index": 0}], "usage": {"prompt_tokens": 2, "completion_tokens": %d}}'
        b"\n\n" % made
        for made in (1, 3, 4)
    )
    chat_stream(site, Upstream(pieces=(*events, b"data: [DONE]\n\n"), kind=b"text/event-stream"))
    assert sample("lorary_tokens_total") == before + 9
    assert sample("lorary_time_to_first_token_seconds_count") == firsts + 1
    assert sample("lorary_time_per_output_token_seconds_count") == others + 1


def test_series_of_versions_are_bounded() -> None:
    series = Series(most=3)
    for number in range(10):
        labels = ("bounded", "a", str(number))
        series.touch(labels)
        TOKENS.labels(*labels).inc()
    kept = [
        sample.labels["version"]
        for sample in next(iter(TOKENS.collect())).samples
        if sample.labels["domain"] == "bounded" and sample.name.endswith("_total")
    ]
    assert kept == ["7", "8", "9"]


def test_a_version_that_is_asked_for_all_the_time_keeps_its_series() -> None:
    series = Series(most=3)
    for number in range(10):
        for labels in (("kept", "busy", "1"), ("kept", "seldom", str(number))):
            series.touch(labels)
            TOKENS.labels(*labels).inc()
    counted = [
        (sample.labels["adapter"], sample.labels["version"], sample.value)
        for sample in next(iter(TOKENS.collect())).samples
        if sample.labels["domain"] == "kept" and sample.name.endswith("_total")
    ]
    assert sorted(counted) == [("busy", "1", 10), ("seldom", "8", 1), ("seldom", "9", 1)]


def test_a_long_answer_leaves_no_series_that_is_never_forgotten(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SERIES, "most", 2)

    class Slow(Upstream):
        """While it answers, so many others are asked for that the asked version is forgotten."""

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            ask_for("during")
            await super().__call__(scope, receive, send)

    def ask_for(adapter: str) -> None:
        for number in range(3):
            SERIES.touch(("others", adapter, str(number)))

    chat(site, Slow(), "medical", site.medical)
    ask_for("after")
    domains = {
        sample.labels["domain"]
        for metric in BY_ADAPTER
        for sample in next(iter(metric.collect())).samples
    }
    assert "medical" not in domains


def test_an_error_that_is_unexpected_gets_openais_envelope_and_by_place_only(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "lorary.serving")

    async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise KeyError("my secret illness")

    sent: list[Message] = []
    counted = REFUSALS.labels("internal_error")
    before = counted._value.get()
    body = json.dumps({"model": "medical", "messages": []}).encode()
    scope = scope_of("POST", CHAT, site.medical)
    asyncio.run(Gate(broken, site.replica)(scope, whole(body), into(sent)))
    status, _, answer = answered(sent)
    assert (status, json.loads(answer)["error"]["code"]) == (500, "internal_error")
    (told,) = [r for r in map(json.loads, caplog.messages) if r["event"] == "failed"]
    assert told["error"] == "KeyError"
    assert "test_telemetry.py" in told["at"][-1]
    assert "illness" not in caplog.text
    assert counted._value.get() == before + 1, "operators' error budget holds it"


def test_the_access_log_says_who_asked_what_and_never_the_texts(
    site: Site, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "lorary.serving")
    secret = [{"role": "user", "content": "my secret illness"}]
    body = json.dumps({"model": "medical", "messages": secret}).encode()
    send_to(site, upstream, scope_of("POST", CHAT, site.medical), body)
    chat(site, upstream, "legal", site.medical)
    records = [json.loads(record.message) for record in caplog.records]
    assert [record["event"] for record in records] == ["request", "refused"]
    ages = [datetime.now(UTC) - utc(record["time"]) for record in records]
    assert all(0 <= age.total_seconds() < 60 for age in ages)
    assert records[0]["key"] == records[1]["key"] == site.medical.id
    assert (records[0]["model"], records[0]["status"]) == ("medical/coder@1", 200)
    assert (records[1]["status"], records[1]["code"]) == (403, "forbidden")
    assert "illness" not in caplog.text
    assert site.medical.secret not in caplog.text
