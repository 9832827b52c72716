"""A caller's trace goes on in the engine and in the log; what is malformed goes nowhere."""

import json

import pytest
from starlette.types import Scope

from serving.request.headers import inner
from serving.request.trace import MOST_STATE_BYTES, trace_headers, trace_id
from tests.support.asking import CHAT, chat, scope_of, send_to
from tests.support.replicas import Site, Upstream

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
VALID = f"00-{TRACE}-00f067aa0ba902b7-01"


def headers(scope: Scope) -> dict[bytes, bytes]:
    return dict(scope["headers"])


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "trace",
        f"00-{TRACE}-00f067aa0ba902b7",
        f"00-{TRACE}-00f067aa0ba902b7-01-more",
        f"00-{TRACE}-00f067aa0ba902b7-01\n",
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"0-{TRACE}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
        f"00-{TRACE[:-1]}-00f067aa0ba902b7-01",
        f"00-{TRACE}0-00f067aa0ba902b7-01",
        f"00-{TRACE}-00f067aa0ba902b7-zz",
        f"01-{TRACE}-00f067aa0ba902b7-01-{'x' * 201}",
        f" {VALID}",
    ],
)
def test_a_malformed_trace_is_not_passed_on(parent: str) -> None:
    scope = scope_of("POST", CHAT, None, traceparent=parent, tracestate="vendor=1")
    passed = headers(inner(scope, CHAT, b""))
    assert b"traceparent" not in passed
    assert b"tracestate" not in passed, "it means nothing without its parent"
    assert trace_id(scope) is None


@pytest.mark.parametrize("parent", [VALID, f"cc-{TRACE}-00f067aa0ba902b7-01-what-comes-later"])
def test_a_trace_is_passed_on_as_it_came(parent: str) -> None:
    scope = scope_of("POST", CHAT, None, traceparent=parent, tracestate="vendor=1")
    passed = headers(inner(scope, CHAT, b""))
    assert passed[b"traceparent"] == parent.encode()
    assert passed[b"tracestate"] == b"vendor=1"
    assert trace_id(scope) == TRACE


def test_two_parents_are_none_and_a_state_is_bounded() -> None:
    parent = (b"traceparent", VALID.encode())
    assert trace_headers([parent, parent]) == []
    long = (b"tracestate", b"v=" + b"x" * MOST_STATE_BYTES)
    half = (b"tracestate", b"v=" + b"x" * (MOST_STATE_BYTES // 2))
    assert trace_headers([parent, long]) == [parent]
    assert trace_headers([parent, half]) == [parent, half]
    assert trace_headers([parent, half, half]) == [parent]
    assert trace_headers([parent, (b"tracestate", b"v=\x00")]) == [parent]


def test_log_lines_of_answers_and_refusals_carry_the_trace(
    site: Site, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "lorary.serving")
    for model in ("medical", "legal"):
        body = json.dumps({"model": model, "messages": []}).encode()
        scope = scope_of("POST", CHAT, site.medical, traceparent=VALID)
        send_to(site, upstream, scope, body)
    chat(site, upstream, "medical", site.medical)
    records = [json.loads(record.message) for record in caplog.records]
    assert [record["event"] for record in records] == ["request", "refused", "request"]
    assert [record.get("trace") for record in records] == [TRACE, TRACE, None]
    assert headers(upstream.scopes[0])[b"traceparent"] == VALID.encode()
