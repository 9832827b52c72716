"""Random bodies near the bounds, made from the table of bounds itself. Pure."""

import random
from typing import Any

from benchmarks.neighbour import attacks
from serving.request import bounds
from serving.request.bounds import Bound
from serving.request.fields import FIELDS, RESPONSES_FIELDS

_SCHEMAS: list[Any] = [
    {}, {"$ref": "#"}, {"$ref": "#/x"}, {"enum": []}, {"type": "x"}, {"type": []}, {"not": {}},
    {"const": None}, {"minimum": 1e308}, {"multipleOf": 0}, {"items": False}, {"required": "x"},
    {"type": "object", "properties": {"a": {"type": "string", "maxLength": 9}}},
]  # fmt: skip
_REGEXES = ["", "(", "a{0,99999}", "\\", "[", "(?i)a", "^$", "\x00", ".{0,400}", "(a|b)*c"]
_GRAMMARS = [" ", "root ::= root", 'root ::= ""', "start: start", 'root ::= "a"*', "start: /a+/"]
_TEXTS = ["", "x" * 5_000, "\x00", "\U0001f600" * 500, "<|im_start|>" * 100]
_SPECIAL: dict[str, list[Any]] = {
    "messages": [
        [{"role": role, "content": text}]
        for role in ("user", "system", "tool", "x")
        for text in _TEXTS
    ],
    "prompt": [
        "", "x" * 9_000, [0], [1] * 2_047, [2**31 - 1], [49_151, 49_152], ["", "x"], [[1], [2]],
    ],
    "input": [
        "", "x", [{"role": "assistant", "content": [{"type": "output_text", "text": ""}]}],
        [{"type": "function_call", "call_id": "a", "name": "f", "arguments": "{"}],
        [{"type": "reasoning", "summary": []}], [{"role": "x", "content": ""}],
    ],
    "tools": [
        [{"type": "function", "function": {"name": name, "parameters": schema}}]
        for name in ("", "f", "\n", "f" * 128)
        for schema in _SCHEMAS
    ],
    "tool_choice": ["auto", "required", {"type": "function", "function": {"name": "f"}}],
    "structured_outputs": [
        *({"regex": regex} for regex in _REGEXES), *({"grammar": text} for text in _GRAMMARS),
        *({"json": schema} for schema in [*_SCHEMAS, "", "{"]),
        *({"choice": choice} for choice in ([""], ["a"] * 9, ["\x00"], ['"'], ["\ud7ff"])),
        {}, {"json_object": False}, {"json_object": True}, {"structural_tag": "{}"},
    ],
    "response_format": [
        {"type": "json_object"}, {"type": "structural_tag"},
        *({"type": "structural_tag", "format": {"type": "regex", "pattern": r}} for r in _REGEXES),
        *({"type": "json_schema", "json_schema": {"name": "", "schema": s}} for s in _SCHEMAS),
    ],
    "text": [{"format": {"type": "json_schema", "name": "x", "schema": s}} for s in _SCHEMAS],
    "reasoning_effort": ["low", "none", "x"],
}  # fmt: skip


def body_near_the_bounds(choose: random.Random) -> tuple[str, dict[str, Any]]:
    """A path and a body with a few fields at their bounds, a short one most of the time."""
    if choose.random() < 0.1:
        return choose.choice([*attacks.CLASSES.values()])(choose.randrange(10**6))
    path = choose.choice((attacks.CHAT, attacks.COMPLETIONS, attacks.RESPONSES))
    fields = RESPONSES_FIELDS if path == attacks.RESPONSES else FIELDS
    body: dict[str, Any] = {"max_output_tokens" if path == attacks.RESPONSES else "max_tokens": 4}
    asked = {attacks.CHAT: "messages", attacks.COMPLETIONS: "prompt"}.get(path, "input")
    body[asked] = [{"role": "user", "content": "x"}] if asked == "messages" else "x"
    for name in choose.sample(sorted(fields), choose.randint(1, 4)):
        if name not in ("model", "user"):
            body[name] = near(name, fields[name], choose)
    return path, body


def near(name: str, bound: Bound, choose: random.Random) -> Any:
    """A value at the bound or a little within it, seldom beyond."""
    if name in _SPECIAL and choose.random() < 0.8:
        return choose.choice(_SPECIAL[name])
    match bound:
        case bounds.Text(most):
            return choose.choice("x\n\u00e9\U0001f600\x00") * choose.choice((0, 1, most))
        case bounds.Whole(least, most):
            return choose.choice((least, 0, 1, 5, most - 1, most))
        case bounds.Number(least, most):
            return choose.choice((least, 0, 1e-300, 1, most, (least + most) / 2))
        case bounds.Flag():
            return choose.random() < 0.5
        case bounds.OneOf(values):
            return choose.choice(values)
        case bounds.ListOf(item, most, least):
            count = choose.choice((least, 1, min(most, 4_096)))
            return [near("", item, choose) for _ in range(count)]
        case bounds.MapOf(_, _, value, most):
            return {str(n): near("", value, choose) for n in range(choose.choice((1, most)))}
        case bounds.Either(choices):
            return near("", choose.choice(choices), choose)
        case bounds.Shape(members):
            picked = choose.sample(sorted(members), choose.randint(0, len(members)))
            return {member: near(member, members[member], choose) for member in picked}
        case _:
            return choose.choice(("x", 7, [], {}))
