"""Parts of a source divide its units: none is in two, none in none."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.recipe import BadRecipe, Sft
from adapters.training.data import corpus_of, part, seen_before


@given(st.integers(1, 99), st.sets(st.text(), min_size=1))
def test_a_part_and_the_rest_have_no_unit_in_common_and_lack_none(
    percent: int, units: set[str]
) -> None:
    name, first = part(f"medical[:{percent}%]")
    other, rest = part(f"medical[{percent}%:]")
    assert name == other == "medical"
    assert all(first(unit) != rest(unit) for unit in units)


@given(st.text())
def test_the_whole_is_every_unit(unit: str) -> None:
    for source in ("rows.jsonl", "rows.jsonl[:]", "rows.jsonl[0%:100%]"):
        name, among = part(source)
        assert name == "rows.jsonl"
        assert among(unit)


@pytest.mark.parametrize("source", ["x[60%:60%]", "x[70%:60%]", "x[:0%]", "x[:101%]", "x[100%:]"])
def test_a_part_that_holds_nothing_is_refused(source: str) -> None:
    with pytest.raises(BadRecipe, match="is not a part"):
        part(source)


@pytest.mark.parametrize(
    ("source", "earlier", "seen"),
    [
        ("medical[60%:]", "medical[:60%]", False),
        ("medical[60%:]", "medical", True),
        ("medical[60%:]", "medical[:61%]", True),
        ("medical", "medical[90%:]", True),
        ("medical", "legal", False),
    ],
)
def test_what_an_earlier_training_has_seen_is_known_by_its_parts(
    source: str, earlier: str, seen: bool
) -> None:
    assert seen_before(["other.jsonl", source], [earlier]) == [source] * seen


def test_a_part_of_a_file_names_no_review_whose_rows_it_leaves_out(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}?", "completion": "a", "review": f"r{n}"} for n in range(40)]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    corpus = corpus_of(Sft(adapter="demo/part", data=(f"{file}[:50%]",)))
    assert 0 < len(corpus.train) < len(rows)
    assert set(corpus.reviews) == {f"r{row.question[:-1]}" for row in corpus.train}
