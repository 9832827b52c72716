"""Grammars tried in a process of their own: xgrammar, a tokenizer, bounds by the kernel."""

import asyncio
import json
import time

import pytest
import xgrammar
from transformers import PreTrainedTokenizerFast

from adapters.home import default_model
from adapters.small_model import build
from serving.grammars.gatekeeper import Gatekeeper, RefusedGrammar
from serving.grammars.protocol import Kind, Limits

PERSON = {
    "$defs": {"place": {"type": "object", "properties": {"city": {"type": "string"}}}},
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 40}, "at": {"$ref": "#/$defs/place"}},
    "required": ["name", "at"],
}
HARMLESS: list[tuple[Kind, str]] = [
    ("json", json.dumps(PERSON)),
    ("regex", r"[A-TV-Z]\d\d(\.\d{1,4})?"),
    ("grammar", 'root ::= "yes" | "no"'),
    ("grammar", 'start: "yes" | "no"'),
    ("structural_tag", json.dumps({"type": "structural_tag", "format": {"type": "any_text"}})),
]
RULES = "\n".join(f'r{n} ::= r{n + 1} | "a" r{n + 1} | r{n + 1} "b"' for n in range(340))
LONG = {"type": "string"}
HARMFUL: list[tuple[Kind, str]] = [
    ("regex", "((([a-z]{0,20}){0,20}){0,20}){0,20}!"),
    ("grammar", f'root ::= r0\n{RULES}\nr340 ::= "z"'),
    ("grammar", "root ::= x\nx ::= [a-z] x | x [a-z] | [a-z]"),
    ("grammar", 'root ::= x*\nx ::= y | y x | x y\ny ::= [a-z]* | y y'),
    ("json", json.dumps({"properties": {f"p{n}": LONG | {"maxLength": 90 + n} for n in range(9)}})),
    ("regex", "(?=a)b("),
    ("grammar", "root ::= nowhere"),
    ("json", "{"),
    ("json", '{"type": 7}'),
    ("json", '{"$ref": "#"}'),
    ("grammar", "root ::= root"),
    ("grammar", 'root ::= "a" b\nb ::= b "c"'),
    ("structural_tag", "{}"),
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> tuple[str, int]:
    """The small model's, as the server hands it over."""
    build(default_model())
    loaded = PreTrainedTokenizerFast.from_pretrained(default_model())
    size = len(loaded)
    return xgrammar.TokenizerInfo.from_huggingface(loaded, vocab_size=size).serialize_json(), size


async def refusals(keeper: Gatekeeper, wanted: list[tuple[Kind, str]]) -> list[str]:
    """For each grammar why it is refused, or nothing."""
    found = []
    for one in wanted:
        try:
            await keeper.check("key", [one], sequences=1)
            found.append("")
        except RefusedGrammar as error:
            found.append(error.message)
    return found


def test_what_costs_too_much_is_refused_and_the_process_lives_on(
    tokenizer: tuple[str, int],
) -> None:
    async def work() -> None:
        # A hundred times what harmless ones take: a loaded machine counts more than they compute.
        keeper = Gatekeeper(Limits(seconds=2.5, read_seconds=0.5), free=True)
        keeper.attach(*tokenizer)
        try:
            assert await refusals(keeper, HARMLESS) == [""] * len(HARMLESS)
            began = time.monotonic()
            refused = await refusals(keeper, HARMFUL)
            first = time.monotonic() - began
            assert all("is refused" in message for message in refused), refused
            assert "/project/" not in "".join(refused)
            began = time.monotonic()
            assert await refusals(keeper, HARMFUL) == refused
            assert time.monotonic() - began < first / 10, "verdicts are remembered"
            assert await refusals(keeper, [("grammar", 'root ::= "afterwards"')]) == [""]
        finally:
            await keeper.process.stop()

    asyncio.run(work())


def test_a_process_that_was_killed_is_started_again(tokenizer: tuple[str, int]) -> None:
    async def work() -> None:
        keeper = Gatekeeper(Limits(seconds=20), free=True)
        keeper.attach(*tokenizer)
        try:
            await keeper.process.start()
            held_up = asyncio.create_task(refusals(keeper, HARMFUL[1:2]))
            await asyncio.sleep(0.5)
            await keeper.process.stop()
            assert "too long" in (await held_up)[0]
            assert await refusals(keeper, HARMLESS[:1]) == [""]
        finally:
            await keeper.process.stop()

    asyncio.run(work())
