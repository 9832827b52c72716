"""What a request is charged: real tokens as vLLM reports them, every prompt, choice and hint."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from registry.model.domains import ChangePolicy
from registry.model.policies import Policy
from serving.errors import TooManyColdLoads
from serving.gate import Gate
from serving.relay import Relay
from serving.request.body import sequences
from serving.request.charges import most_tokens
from serving.request.classification import most_tokens as most_tokens_of_texts
from serving.request.usage import Shown, Usage, ask_for_usage
from serving.tiers.fairness import MAX_OUTSTANDING, ColdLoads, Hints
from tests.support.asking import CHAT, chat, into, leaving_after, scope_of, send_to, whole
from tests.support.catalogs import VERSION
from tests.support.relaying import pieces_of, relayed
from tests.support.replicas import Upstream, answered, make_site
from tests.support.tiers import settled, versions

SSE = b"text/event-stream"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"


def event(*, spaced: bool = False, **fields: Any) -> bytes:
    """An event as vLLM writes it, or with the spaces that JSON allows."""
    text = json.dumps(fields, separators=None if spaced else (",", ":"))
    return b"data: " + text.encode() + b"\n\n"


def usage(prompt: int, made: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


def chunk(index: int, prompt: int, made: int, text: str = "x") -> bytes:
    return event(choices=[{"index": index, "text": text}], usage=usage(prompt, made))


STREAM = (
    chunk(0, 7, 3),  # vLLM joins the tokens that were ready together
    chunk(0, 7, 50, text='"usage": {"completion_tokens": 0}'),
    event(choices=[], usage=usage(7, 50)),
    b"data: [DONE]\n\n",
)


def metered(
    pieces: tuple[bytes, ...],
    kind: bytes,
    *,
    ends: bool = True,
    shown: Shown | None = None,
    **counts: int,
) -> tuple[Relay, bytes]:
    """The relay that an answer has passed, and what it let through."""
    relay, sent = relayed(pieces_of(kind, pieces, ends=ends), VERSION, usage=Usage(shown, **counts))
    return relay, b"".join(message.get("body", b"") for message in sent[1:])


def test_a_streams_tokens_are_those_that_vllm_reports_however_few_its_events() -> None:
    relay, _ = metered(STREAM, SSE)
    assert (relay.usage.prompt_tokens, relay.usage.tokens, relay.charge) == (7, 50, 57)


@pytest.mark.parametrize(
    ("shown", "events", "with_usage"),
    [(Shown(False, False), 3, 0), (Shown(True, False), 4, 1), (Shown(True, True), 4, 3)],
)
def test_a_caller_sees_the_usage_that_it_asked_for(
    shown: Shown, events: int, with_usage: int
) -> None:
    _, passed = metered(STREAM, SSE, shown=shown)
    found = [line.removeprefix(b"data: ") for line in passed.split(b"\n\n") if line]
    assert len(found) == events
    assert sum("usage" in json.loads(e) for e in found[:-1]) == with_usage
    assert [json.loads(e)["choices"][0]["text"] for e in found[:2]] == [
        "x", '"usage": {"completion_tokens": 0}'
    ]  # fmt: skip


json_text = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(('",usage":{', ",", "}", "")),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(("usage", "choices", "index", "a,")), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    fields=st.dictionaries(st.sampled_from(("id", "usage,", "z")), json_text, max_size=3),
    choices=st.lists(st.fixed_dictionaries({"index": st.just(0), "delta": json_text}), max_size=1),
    told=st.none() | st.tuples(st.integers(0, 99), st.integers(0, 99)) | st.just(7),
    last=st.booleans(),
)
def test_usage_is_read_alike_however_the_json_is_written(
    fields: dict[str, Any], choices: list[Any], told: Any, last: bool
) -> None:
    """vLLM writes it last and without spaces: that form is read without parsing the rest."""
    of = usage(*told) if isinstance(told, tuple) else told
    fields = {"choices": choices} | fields
    fields = fields | {"usage": of} if last else {"usage": of} | fields
    found = []
    for spaced in (False, True):
        seen = Usage(Shown(last=False, each=False))
        passed = seen.read_event(event(spaced=spaced, **fields)[:-2])
        shown = None if passed is None else json.loads(passed.removeprefix(b"data: "))
        found.append((seen.reported, seen.tokens, seen.prompt_tokens, shown))
    assert found[0] == found[1]


@given(cut=st.integers(1, 300))
def test_usage_is_read_however_a_stream_is_cut(cut: int) -> None:
    data = b"".join(STREAM)
    pieces = tuple(data[at : at + cut] for at in range(0, len(data), cut))
    relay, passed = metered(pieces, SSE)
    assert relay.charge == 57
    assert passed == data


def test_a_stream_that_breaks_off_is_charged_what_it_had_made() -> None:
    """Two prompts, two choices each."""
    pieces = (chunk(0, 7, 3), chunk(1, 7, 4), chunk(2, 9, 5), chunk(1, 7, 6))
    relay, _ = metered(pieces, SSE, ends=False, n=2, sequences=4)
    assert (relay.usage.prompt_tokens, relay.usage.tokens) == (16, 14)
    assert metered((), SSE, ends=False)[0].charge is None


ECHOED = {
    "tools": [{"parameters": {"usage": {"output_tokens": 0, "input_tokens": 0}}}],
    "metadata": {"usage": '"usage": {"output_tokens": 0}'},
    "output": [{"text": '"usage": {"input_tokens": 0, "output_tokens": 0}'}],
}


def test_only_the_usage_of_the_answer_itself_counts() -> None:
    told = {"input_tokens": 30, "output_tokens": 60}
    whole_answer = json.dumps({"usage": told, **ECHOED}).encode()
    assert metered((whole_answer,), b"application/json")[0].charge == 90
    begun = event(type="response.created", response={"usage": None, **ECHOED})
    ended = event(type="response.completed", response={**ECHOED, "usage": told})
    named = b"event: response.completed\n"
    relay, passed = metered((begun, named + ended), SSE)
    assert (relay.usage.prompt_tokens, relay.usage.tokens) == (30, 60)
    assert passed == begun + named + ended


def test_streams_are_asked_for_their_usage_and_nothing_else_is() -> None:
    body: dict[str, Any] = {"stream": True}
    assert ask_for_usage(body) == Shown(last=False, each=False)
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    body = {"stream": True, "stream_options": {"include_usage": True}}
    assert ask_for_usage(body) == Shown(last=True, each=False)
    for body in ({}, {"stream": False}, {"stream": True, "stream_options": "x"}):
        before = dict(body)
        ask_for_usage(body)
        assert body == before


def test_a_stream_through_the_gate_reports_its_usage_though_nobody_asked(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    upstream, sent = Upstream(pieces=STREAM, kind=SSE), list[Message]()
    data = json.dumps({"model": "medical", "messages": [], "stream": True}).encode()
    gate = Gate(upstream, site.replica)
    asyncio.run(gate(scope_of("POST", CHAT, site.medical), whole(data), into(sent)))
    site.registry.close()
    assert json.loads(upstream.bodies[0])["stream_options"]["continuous_usage_stats"]
    assert b'"usage":' not in answered(sent)[2]


@pytest.mark.parametrize(
    ("body", "count", "most"),
    [
        ({}, 1, 25 + 2048),
        ({"prompt": "x", "n": 3, "max_tokens": 10}, 3, 25 + 30),
        ({"prompt": ["x", "y"], "n": 3, "best_of": 4, "max_tokens": 10}, 8, 25 + 80),
        ({"prompt": [1, 2, 3], "max_tokens": 10}, 1, 3 + 10),
        ({"prompt": [[5]] * 300, "n": 16, "max_tokens": 32}, 4800, 300 + 4800 * 32),
        ({"max_tokens": 10**9}, 1, 2048),
        ({"max_completion_tokens": 5, "max_tokens": None}, 1, 25 + 5),
        ({"max_output_tokens": 5}, 1, 25 + 5),
        ({"prompt": []}, 1, 2048),
    ],
)
def test_every_prompt_and_choice_counts(body: dict[str, Any], count: int, most: int) -> None:
    assert sequences(body) == count
    assert most_tokens(body, 100, 2048) == min(most, count * 2048)


def test_fields_that_a_route_does_not_read_lower_no_estimate() -> None:
    chat = {"messages": [], "prompt": [1], "max_completion_tokens": 500, "max_tokens": 1}
    assert most_tokens(chat, 4_000, 2_048) == 1_000 + 500
    completion = {"prompt": "x", "max_tokens": 500, "max_completion_tokens": 1}
    assert most_tokens(completion, 4_000, 2_048) == 1_000 + 500
    assert most_tokens_of_texts({"messages": [], "input": [1]}, 4_000, 2_048) == 1_001


def test_many_prompts_in_one_request_are_as_many_requests(tmp_path: Path) -> None:
    site = make_site(tmp_path, key_requests_per_minute=40)
    upstream = Upstream()
    body = json.dumps({"model": "medical", "prompt": [[5]] * 10, "n": 3}).encode()
    scope = scope_of("POST", COMPLETIONS, site.medical)
    assert send_to(site, upstream, scope, body)[0] == 200
    assert send_to(site, upstream, scope, body)[0] == 429
    site.registry.close()


def test_a_key_is_held_to_its_tokens_by_streams_too(tmp_path: Path) -> None:
    """Five streams of 50 tokens, each in one event, at 100 a minute."""
    site = make_site(tmp_path, key_tokens_per_minute=100)
    upstream = Upstream(pieces=STREAM, kind=SSE)
    statuses = []
    for _ in range(5):
        sent: list[Message] = []
        body = {"model": "medical", "messages": [], "stream": True, "max_tokens": 20}
        receive = whole(json.dumps(body).encode())
        gate = Gate(upstream, site.replica)
        asyncio.run(gate(scope_of("POST", CHAT, site.medical), receive, into(sent)))
        statuses.append(answered(sent)[0])
    site.registry.close()
    assert statuses[0] == 200
    assert statuses.count(200) <= 2


def test_tools_that_read_as_usage_pass_no_token_limit(tmp_path: Path) -> None:
    site = make_site(tmp_path, key_tokens_per_minute=300)
    told = {"usage": {"input_tokens": 33, "output_tokens": 60}, **ECHOED}
    upstream = Upstream(pieces=(json.dumps(told).encode(),))
    body = json.dumps({"model": "medical", "input": "x", "max_output_tokens": 60}).encode()
    scope = scope_of("POST", RESPONSES, site.medical)
    statuses = [send_to(site, upstream, scope, body)[0] for _ in range(12)]
    site.registry.close()
    assert statuses == [200] * 3 + [429] * 9


class Failing(Upstream):
    """vLLM that answers with an error, or breaks down without an answer."""

    def __init__(self, status: int | None) -> None:
        super().__init__()
        self.status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.status is None:
            raise RuntimeError("the engine's process is gone")
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b'{"error": {}}'})


@pytest.mark.parametrize("status", [400, 500, None])
def test_what_fails_costs_no_tokens(tmp_path: Path, status: int | None) -> None:
    """Each of these requests reserves more than 2,000 tokens."""
    site = make_site(tmp_path, key_tokens_per_minute=5000)
    statuses = [chat(site, Failing(status), "medical", site.medical)[0] for _ in range(10)]
    assert statuses == [status or 500] * 10
    site.registry.close()


def test_hints_are_charged_as_requests(tmp_path: Path) -> None:
    site = make_site(tmp_path, key_requests_per_minute=3)
    many = [str(v.ref) for v in versions(site, 2)]

    def hint(names: list[str]) -> int:
        scope = scope_of("POST", "/v1/adapters/prefetch", site.medical)
        return send_to(site, Upstream(), scope, json.dumps({"models": names}).encode())[0]

    assert hint(many) == 202
    assert hint(many) == 429
    assert hint(many[:1]) == 429, "what was refused was charged as one"
    site.registry.close()


def test_hints_of_many_keys_are_loaded_one_at_a_time_and_in_turn(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    many = versions(site, 40)
    loaded: list[str] = []
    running = most = 0

    async def warm(version: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        loaded.append(version.adapter)
        running -= 1

    async def work() -> None:
        hints = Hints(warm)
        hints.add("greedy", many[:MAX_OUTSTANDING])
        with pytest.raises(TooManyColdLoads):
            hints.add("greedy", many)
        hints.add("modest", many[-1:])
        await settled(lambda: len(loaded) == MAX_OUTSTANDING + 1)

    asyncio.run(work())
    site.registry.close()
    assert most == 1
    assert loaded.index(many[-1].adapter) <= 2


def test_keys_with_many_hints_are_served_one_hint_each_in_turn(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    many = versions(site, 6)
    loaded: list[str] = []

    async def warm(version: Any) -> None:
        loaded.append(version.adapter)

    async def work() -> None:
        hints = Hints(warm)
        hints.add("first", many[:3])
        hints.add("second", many[3:])
        await settled(lambda: len(loaded) == 6)

    asyncio.run(work())
    site.registry.close()
    assert loaded == [f"many-{number}" for number in (0, 3, 1, 4, 2, 5)]


def test_one_keys_cold_requests_do_not_get_ahead_of_anothers(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    many = versions(site, 6)

    async def work() -> None:
        loads = ColdLoads(2)
        entered: list[tuple[str, str]] = []
        go_on = asyncio.Event()

        async def bring(key: str, version: Any) -> None:
            async with loads.enter(key, version):
                entered.append((key, version.adapter))
                await go_on.wait()

        greedy = [asyncio.create_task(bring("greedy", v)) for v in (*many[:5], many[0])]
        modest = asyncio.create_task(bring("modest", many[5]))
        await settled(lambda: len(entered) == 4)
        await asyncio.sleep(0.01)
        assert len(entered) == 4
        assert ("modest", many[5].adapter) in entered
        assert sorted({a for key, a in entered if key == "greedy"}) == [
            many[0].adapter, many[1].adapter
        ]  # fmt: skip
        greedy[4].cancel()
        go_on.set()
        await asyncio.gather(modest, *greedy, return_exceptions=True)
        assert len(entered) == 6
        assert not loads._lines

    asyncio.run(work())
    site.registry.close()


@pytest.mark.parametrize("kind", [SSE, b"application/json"])
def test_an_answer_whose_caller_left_is_charged(tmp_path: Path, kind: bytes) -> None:
    """A stream what it made, a whole answer what it had reserved: leaving is no way around."""
    site = make_site(tmp_path, key_tokens_per_minute=1000)
    left = asyncio.Event()

    async def engine(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != CHAT:
            await Upstream()(scope, receive, send)
            return
        await receive()
        if kind == SSE:
            headers = [(b"content-type", kind)]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": STREAM[1], "more_body": True})
        left.set()
        await receive()

    async def work() -> None:
        data = json.dumps(
            {"model": "medical", "messages": [], "stream": kind == SSE, "max_tokens": 900}
        ).encode()
        scope = scope_of("POST", CHAT, site.medical)
        await Gate(engine, site.replica)(scope, leaving_after(data, left), into([]))

    asyncio.run(work())
    bucket = site.replica.limits.tokens._buckets[site.medical.id]
    site.registry.close()
    assert bucket.wait(1000 - 57 if kind == SSE else 1000 - 900 - 30) < 1
    assert bucket.wait(1000 - 50 if kind == SSE else 1000 - 900) > 0


def test_salts_differ_by_tenant_and_cannot_be_chosen(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    upstream = Upstream()
    assert chat(site, upstream, "medical", site.medical, cache_salt="mine")[0] == 400
    for model, key in (
        ("medical", site.medical), ("medical/coder@1", site.medical), ("legal/clauses", site.legal),
        ("tiny", site.medical), ("tiny", site.legal),
    ):  # fmt: skip
        assert chat(site, upstream, model, key)[0] == 200
    salts = [json.loads(body)["cache_salt"] for body in upstream.bodies]
    assert salts[0] == salts[1]
    assert len(set(salts)) == 4
    site.publish("legal", "coder", b"legal coder")
    chat(site, upstream, "legal/coder", site.legal)
    assert json.loads(upstream.bodies[-1])["cache_salt"] == salts[2], "a domain's, not a name's"
    separate = Policy(guarded=(), prefix_cache="key")
    site.registry.execute(ChangePolicy("medical", separate, weaken=True), site.operator.id)
    site.replica.follower.refresh()
    chat(site, upstream, "medical", site.medical)
    chat(site, upstream, "tiny", site.medical)
    *_, of_domain, of_base = [json.loads(body)["cache_salt"] for body in upstream.bodies]
    assert of_domain == of_base == salts[3], "both are the salt of the key"
    again = make_site(tmp_path / "another")
    chat(again, upstream, "medical", again.medical)
    assert json.loads(upstream.bodies[-1])["cache_salt"] not in salts
    again.registry.close()
    site.registry.close()
