"""Which grammars a request makes vLLM compile, and who waits for whom until they were tried."""

import asyncio
import json
from typing import Any

import pytest

from serving.errors import EngineNotAttached, LimitReached
from serving.grammars.gatekeeper import MAX_WAITING_OF_KEY, Gatekeeper, RefusedGrammar
from serving.grammars.process import TrialProcess
from serving.grammars.protocol import Kind, Limits, Setup, Verdict
from serving.grammars.wanted import grammars

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
TEXT = json.dumps(SCHEMA, separators=(",", ":"))
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
STRICT = {"type": "function", "function": {"name": "g", "parameters": SCHEMA, "strict": True}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({}, []),
        ({"structured_outputs": {"json": SCHEMA}}, [("json", TEXT)]),
        ({"structured_outputs": {"json": TEXT}}, [("json", TEXT)]),
        ({"structured_outputs": {"regex": "a+"}}, [("regex", "a+")]),
        ({"structured_outputs": {"grammar": "g"}}, [("grammar", "g")]),
        ({"structured_outputs": {"choice": ["a", '"']}}, [("choice", 'root ::= "a" | "\\""')]),
        ({"structured_outputs": {"json_object": True}}, []),
        ({"structured_outputs": {"structural_tag": "{}"}}, [("structural_tag", "{}")]),
        ({"response_format": {"type": "text"}}, []),
        ({"response_format": FORMAT}, [("json", TEXT)]),
        ({"response_format": {"type": "structural_tag"}},
         [("structural_tag", '{"type":"structural_tag"}')]),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}},
         [("json", TEXT)]),
        ({"tools": [TOOL, STRICT]}, [("json", TEXT)]),
        ({"tools": [TOOL, STRICT], "tool_choice": "none"}, []),
        ({"tools": [TOOL, STRICT], "tool_choice": "required"}, [("json", TEXT)] * 2),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
         [("json", TEXT)]),
        ({"tools": [{"type": "function", "name": "f", "parameters": SCHEMA}],
          "tool_choice": {"type": "function", "name": "f"}}, [("json", TEXT)]),
        ({"tools": [TOOL], "tool_choice": "required", "response_format": FORMAT},
         [("json", TEXT)] * 2),
    ],
)  # fmt: skip
def test_every_way_to_ask_for_a_grammar_is_seen(
    body: dict[str, Any], wanted: list[tuple[Kind, str]]
) -> None:
    assert grammars(body) == wanted


class Tried(TrialProcess):
    """Notes what is tried at once, and takes a moment for each."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(Setup("", 0, Limits()))
        self.verdict = verdict
        self.tried: list[str] = []
        self.running: list[str] = []
        self.together: set[tuple[str, ...]] = set()

    async def try_grammar(self, kind: Kind, spec: str) -> Verdict:
        """As the real one."""
        self.tried.append(spec)
        self.running.append(spec)
        self.together.add(tuple(sorted(self.running)))
        await asyncio.sleep(0.01)
        self.running.remove(spec)
        return self.verdict


def keeper_of(verdict: Verdict) -> tuple[Gatekeeper, Tried]:
    """A gatekeeper whose grammars all get `verdict`."""
    keeper, process = Gatekeeper(Limits(seconds=1.0)), Tried(verdict)
    keeper._process = process
    return keeper, process


def test_a_key_tries_one_grammar_at_a_time_and_none_twice() -> None:
    async def work() -> None:
        keeper, process = keeper_of(Verdict(0))
        asked = [("one", f"1-{n}") for n in range(3)] + [("two", "2-0"), ("two", "1-0")]
        await asyncio.gather(*(keeper.check(key, [("regex", s)], 1) for key, s in asked))
        await keeper.check("three", [("regex", "2-0")], 1)
        assert sorted(process.tried) == ["1-0", "1-1", "1-2", "2-0"]
        of_one = [sum(spec.startswith("1-") for spec in together) for together in process.together]
        assert max(of_one) == 1
        assert ("1-0", "2-0") in process.together, "another key does not wait for it"

    asyncio.run(work())


def test_more_new_grammars_than_may_wait_get_retry_after() -> None:
    async def work() -> None:
        keeper, process = keeper_of(Verdict(0))
        many = [keeper.check("one", [("regex", str(n))], 1) for n in range(MAX_WAITING_OF_KEY + 1)]
        found = await asyncio.gather(*many, return_exceptions=True)
        assert [type(one) for one in found if one is not None] == [LimitReached]
        assert len(process.tried) == MAX_WAITING_OF_KEY

    asyncio.run(work())


def test_a_caller_who_leaves_does_not_start_the_next_one_beside_it() -> None:
    async def work() -> None:
        keeper, process = keeper_of(Verdict(0))
        first = asyncio.create_task(keeper.check("one", [("regex", "1-0")], 1))
        await asyncio.sleep(0.001)
        first.cancel()
        await keeper.check("one", [("regex", "1-1")], 1)
        assert process.together == {("1-0",), ("1-1",)}

    asyncio.run(work())


@pytest.mark.parametrize(
    ("verdict", "parts", "sequences", "words"),
    [
        (Verdict(0, problem="It is bad."), 1, 1, "It is bad."),
        (Verdict(0, seconds=0.6), 2, 1, "too long"),
        (Verdict(0, mask_ms=20.0), 1, 16, "320 ms for each token"),
    ],
)
def test_what_a_whole_request_may_cost_is_bounded(
    verdict: Verdict, parts: int, sequences: int, words: str
) -> None:
    keeper, _ = keeper_of(verdict)
    wanted: list[tuple[Kind, str]] = [("regex", str(n)) for n in range(parts)]
    with pytest.raises(RefusedGrammar, match=words):
        asyncio.run(keeper.check("one", wanted, sequences))


def test_a_verdict_that_only_a_busy_machine_gave_is_not_kept() -> None:
    async def work() -> None:
        keeper, process = keeper_of(Verdict(0, problem="Too busy.", final=False))
        for _ in range(2):
            with pytest.raises(RefusedGrammar):
                await keeper.check("one", [("regex", "x")], 1)
        assert process.tried == ["x", "x"]

    asyncio.run(work())


def test_without_an_engine_nothing_is_tried() -> None:
    with pytest.raises(EngineNotAttached):
        asyncio.run(Gatekeeper(Limits()).check("one", [("regex", "x")], 1))


def test_without_a_tokenizer_that_can_be_read_every_grammar_is_refused_by_that_reason() -> None:
    async def work() -> None:
        keeper = Gatekeeper(Limits())
        keeper.refuse_all("xgrammar cannot read this base model's tokenizer.")
        await keeper.start()
        with pytest.raises(RefusedGrammar, match="tokenizer"):
            await keeper.check("key", [("regex", "a+")], sequences=1)

    asyncio.run(work())
