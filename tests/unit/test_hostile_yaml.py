"""YAML from strangers: what expands, constructs or nests is refused, in time linear in its size."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.card import MAX_CARD_BYTES, parse_card
from adapters.errors import InvalidAdapter
from adapters.plain_yaml import MAX_BYTES, InvalidYaml, load_yaml
from tests.support.steps import steps

HOSTILE = {
    "anchor": "a: &x [1]\nb: *x",
    "anchor of punctuation": "a: &- [1]\nb: *-",
    "anchor without space": "a: [&x 1,*x]",
    "merge of an alias": "a: &x {b: 1}\n<<: *x",
    "anchor on a key": "&x a: 1",
    "anchor after a flow bracket": "[&x y]",
    "tag": "a: !!bool abc",
    "own tag": "a: !x 1",
    "python tag": "a: !!python/object/apply:os.system [ls]",
    "tag by its address": "a: !<tag:yaml.org,2002:int> x",
    "tag directive": "%TAG ! tag:yaml.org,2002:\n---\na: !bool abc",
    "long integer": "a: " + "9" * 5000,
    "long integer in base 60": "a: 1" + ":59" * 5000,
    "long hexadecimal": "a: 0x" + "f" * 50_000,
    "deep flow": "[" * 5000,
    "deep block": "".join(f"{' ' * n}a:\n" for n in range(300)),
    "many values": "[" + "a," * 60_000 + "a]",
    "many bytes": "a: " + "x" * MAX_BYTES,
    "key twice": "a: 1\na: 2",
    "list as key": "? [a]\n: b",
    "two documents": "a: 1\n---\nb: 2",
    "control character": "a: \x00",
    "tab": "a:\n\t- b",
    "open quote": "a: 'b",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_yaml_is_refused(text: str) -> None:
    with pytest.raises(InvalidYaml) as refused:
        load_yaml(text)
    assert refused.value.status == 400
    assert len(refused.value.message) < 300


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ('a: "multiply by *x and &y"', {"a": "multiply by *x and &y"}),
        ("a: > \n  see *x\n", {"a": "see *x\n"}),
        ("a: 5 *x", {"a": "5 *x"}),
        ("a: R&D  # *x &y", {"a": "R&D"}),
        ("a: 2026-02-30", {"a": "2026-02-30"}),
        ("a: 2026-01-01T10:00:00Z", {"a": "2026-01-01T10:00:00Z"}),
        ("<<: {a: 1}", {"<<": {"a": 1}}),
        ("a: =", {"a": "="}),
        ("a: [1, 0.5, true, null, x]", {"a": [1, 0.5, True, None, "x"]}),
    ],
)
def test_ordinary_yaml_is_read(text: str, value: Any) -> None:
    assert load_yaml(text) == value


@given(st.text(alphabet=st.sampled_from("ab01:-&*!?|>'\"%@`{}[],#\n \t<=._~+exo\x85\u2028")))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(InvalidYaml):
        load_yaml(text)


@pytest.mark.parametrize(
    "line",
    ["# a" + " " * 3200 + "b", "#" * 3200, "# " + "#" * 3200, "# a" + " #" * 1600, "---", "# a"],
    ids=lambda line: line[:6],
)
def test_reading_a_card_takes_steps_in_proportion_to_its_lines(line: str) -> None:
    few, many = (
        steps(lambda n=n: parse_card("\n".join([line] * n).encode()))  # type: ignore[misc]
        for n in (20, 200)
    )
    assert many <= 11 * few
    assert few <= 20 * 12, "a bounded number of steps per line, however long it is"


def test_no_regular_expression_is_run_on_a_card() -> None:
    import adapters.card

    assert not hasattr(adapters.card, "re")
    assert parse_card(b"# a" + b" " * (MAX_CARD_BYTES - 4) + b"b").sections


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        ("# One\n\n## Two ##\ntext\n####### seven\n#no\n", ("One", "Two")),
        ("---\nlicense: mit\n---\n# Use\r\n", ("Use",)),
        ("---\r\nlicense: mit\r\n---\r\n# Use\r\n", ("Use",)),
        ("---\n# One\n", ("One",)),
        ("# C#\n## F# #\n#\n# #\n", ("C#", "F#")),
    ],
)
def test_headings_are_found(text: str, sections: tuple[str, ...]) -> None:
    assert parse_card(text.encode()).sections == sections


@pytest.mark.parametrize(
    "data", [b"---\na: !!bool abc\n---\n# x", b"---\n- a\n---\n", b"\xed\xa0\x80"]
)
def test_a_card_that_cannot_be_read_is_the_publishers_fault(data: bytes) -> None:
    with pytest.raises(InvalidAdapter):
        parse_card(data)
