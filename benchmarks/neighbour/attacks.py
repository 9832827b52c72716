"""The worst requests that the gateway lets through, class by class. Pure but for slow bodies.

Each class makes a new body for each number, so that nothing it costs is paid by a cache.
"""

from collections.abc import Callable
from typing import Any

from serving.grammars.gatekeeper import MAX_WAITING_OF_KEY
from serving.request.body import MAX_HINTS
from serving.request.constraints import MAX_SCHEMA_DEPTH, MAX_SCHEMA_VALUES
from serving.request.fields import MAX_CHOICES, MAX_ITEMS, MAX_MESSAGES, MAX_SEQUENCES, MAX_TOOLS
from serving.request.json_text import MAX_VALUES

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
PREFETCH = "/v1/adapters/prefetch"
LONG = 1_900
"""Tokens of a long answer; the server's context has 2,048."""
AT_ONCE = max(4, MAX_WAITING_OF_KEY // 2)
"""Requests that the attacker has under way."""

Make = Callable[[int], tuple[str, dict[str, Any]]]


def chat(number: int, **fields: Any) -> tuple[str, dict[str, Any]]:
    """A long chat with these fields."""
    asked = {
        "messages": [{"role": "user", "content": f"{number}: tell a story."}],
        "max_tokens": LONG,
    }
    return CHAT, asked | {"ignore_eos": True} | fields


def completion(number: int, **fields: Any) -> tuple[str, dict[str, Any]]:
    """A long completion with these fields."""
    asked = {"prompt": f"{number} times", "max_tokens": LONG, "ignore_eos": True}
    return COMPLETIONS, asked | fields


def schema(number: int) -> dict[str, Any]:
    """Many properties, none of them required."""
    names = [f"p{number}_{n}" for n in range(MAX_SCHEMA_VALUES // 8)]
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}}


def lengths(number: int) -> dict[str, Any]:
    """A length, which xgrammar compiles slowly."""
    return {"type": "string", "minLength": 5, "maxLength": 400 + number}


def rules(number: int, count: int) -> str:
    """A grammar that many paths lead through."""
    lines = [f'r{n} ::= r{n + 1} | "a" r{n + 1} | r{n + 1} "b"' for n in range(count)]
    return "\n".join(["root ::= r0", *lines, f'r{count} ::= "z{number}"'])


def outputs(number: int, **fields: Any) -> tuple[str, dict[str, Any]]:
    """A chat whose answer is constrained."""
    return chat(number, structured_outputs=fields, ignore_eos=False)


def deep() -> dict[str, Any]:
    """A schema as deep as may be."""
    nested: dict[str, Any] = {"type": "string"}
    for _ in range(MAX_SCHEMA_DEPTH // 2 - 1):
        nested = {"type": "object", "properties": {"a": nested}}
    return nested


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """A strict function."""
    function = {"name": name, "parameters": parameters, "strict": True}
    return {"type": "function", "function": function}


def formatted(number: int, wanted: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A chat in a response format."""
    named = {"name": "x", "schema": wanted}
    return chat(
        number, response_format={"type": "json_schema", "json_schema": named}, ignore_eos=False
    )


CLASSES: dict[str, Make] = {
    "one long answer": lambda n: chat(n),
    "seed": lambda n: chat(n, seed=n),
    "prompts x choices": lambda n: completion(
        n, prompt=[[5 + n % 99]] * (MAX_SEQUENCES // MAX_CHOICES), n=MAX_CHOICES
    ),
    "many prompts": lambda n: completion(n, prompt=[f"{n} {m}" for m in range(MAX_SEQUENCES)]),
    "long prompts": lambda n: completion(
        n, prompt=[[5 + (n + m) % 999] * 2_000 for m in range(MAX_SEQUENCES)], max_tokens=16
    ),
    "text above the context": lambda n: completion(n, prompt=f"{n} " + "word " * 700_000),
    "stop": lambda n: chat(n, stop=["x" * 255 + str(m) for m in range(4)], n=MAX_CHOICES),
    "logit_bias": lambda n: chat(n, logit_bias={str(m): -100 for m in range(1_024)}, n=MAX_CHOICES),
    "bad_words": lambda n: chat(n, bad_words=[f"{'ab' * 30}{m}" for m in range(64)], n=MAX_CHOICES),
    "allowed_token_ids": lambda n: chat(
        n, allowed_token_ids=list(range(1_000, 5_096)), n=MAX_CHOICES
    ),
    "logprobs": lambda n: chat(n, logprobs=True, top_logprobs=20, n=MAX_CHOICES),
    "penalties": lambda n: chat(n, presence_penalty=1, repetition_penalty=1.1, n=MAX_CHOICES),
    "min_tokens": lambda n: chat(n, min_tokens=LONG, n=MAX_CHOICES, ignore_eos=False),
    "truncated": lambda n: completion(
        n, prompt="word " * 50_000, truncate_prompt_tokens=2_000, max_tokens=16
    ),
    "schema": lambda n: formatted(n, schema(n)),
    "schema, lengths": lambda n: formatted(n, lengths(n)),
    "schema, allOf": lambda n: formatted(
        n,
        {"allOf": [{"type": "string", "pattern": f".*a.{{{n % 9 + m}}}.*"} for m in range(16)]},
    ),
    "schema, 16 answers": lambda n: chat(
        n, structured_outputs={"json": schema(n)}, n=MAX_CHOICES, ignore_eos=False
    ),
    "regex": lambda n: outputs(n, regex="((([a-z]{0,20}){0,20}){0,20}){0,20}!" + str(n)),
    "regex, lengths": lambda n: outputs(n, regex=f"[a-z]{{{n % 50 + 1},{2_000 + n}}}"),
    "grammar": lambda n: outputs(n, grammar=rules(n, 120)),
    "grammar, ambiguous": lambda n: outputs(
        n, grammar=f"root ::= x\nx ::= [a-z] x | x [a-z] | [{n % 9}]"
    ),
    "choice": lambda n: outputs(n, choice=[f"{'ab' * 120}{n} {m}" for m in range(1_000)]),
    "tools": lambda n: chat(
        n, tools=[tool(f"f{m}", lengths(n + m)) for m in range(MAX_TOOLS)], tool_choice="required"
    ),
    "many messages": lambda n: chat(
        n, messages=[{"role": "user", "content": [{"type": "text", "text": ""}] * 2}] * MAX_MESSAGES
    ),
    "many parts": lambda n: (
        RESPONSES,
        {"input": [{"role": "assistant", "content": [{"type": "text", "text": f"{n}"}] * 8}] * 512},
    ),
    "many items": lambda n: (
        RESPONSES,
        {"input": [{"type": "function_call_output", "call_id": f"{n}", "output": "x"}] * MAX_ITEMS},
    ),
    "deep JSON": lambda n: chat(n, tools=[tool("f", deep())] * MAX_TOOLS, tool_choice="none"),
    "many values": lambda n: completion(n, prompt=[[7] * (MAX_VALUES // 4)] * 4),
    "hints": lambda n: (PREFETCH, {"models": ["bench/only@1"] * (MAX_HINTS - n % 2)}),
}
"""Slow bodies are a class of their own: see `benchmarks.neighbour.__main__`."""
