"""What others wrote reaches a terminal as text: no markup, no control characters."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from adapters.home import default_model
from adapters.terminal import plain
from registry.cli import build
from registry.cli.commands import read_command
from registry.cli.output import escaped, progress_bar, say, table, warn
from registry.cli.reviewing import import_tasks, read_rows
from registry.errors import BadRequest
from registry.model.canary import SplitAlias

HOSTILE = [
    "[/bold] x",
    "[link=http://evil/]click[/link] [red]APPROVED[/red]",
    "[/x] \x1b[31mred\x1b]0;pwn\x07",
    "\u202ereversed",
    "a\u200bb",
    "\x9b31m",
    "\ud800",
    "\r overwritten",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_others_texts_are_shown_as_they_are_without_controls(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table(["title"], [[text]])
    say(text)
    warn(text)
    with progress_bar(quiet=False) as advance:
        advance(text, 1, 2)
    shown = capsys.readouterr()
    for line in (shown.out, shown.err):
        assert not {"\x07", "\x9b", "\u202e", "\u200b", "\ud800"} & set(line)
        assert "]0;pwn\x07" not in line
    assert "\x1b" not in shown.out
    if text.startswith("["):
        assert text.partition("\x1b")[0] in shown.out


def test_a_table_cuts_nothing_however_narrow_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    item, version, state = "8ccfa2ad247a6e03", "radiology/modality-of-images@12", "blocks promotion"
    table(["item", "version", "state", "experts"], [[item, version, state, "1 of 2"]])
    shown = capsys.readouterr().out
    assert item in shown
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown


@given(st.text())
def test_plain_text_has_no_controls_and_stays_if_it_had_none(text: str) -> None:
    assert all(c.isprintable() or c in "\n\t" or c.isspace() for c in plain(text))
    if text.isprintable():
        assert plain(text) == text
    escaped(text)


def test_a_complaint_with_u2028_is_one_row(tmp_path: Path) -> None:
    rows = [{"id": "1", "prompt": "first\u2028second\u2029third\x85", "answer": "y"}]
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    assert read_rows(file) == rows


UNREADABLE = ['{"id"', '{"id": "\\ud800"}', '{"id": "1", "id": "2"}', "[" * 100_000]
"""JSON that is none, that cannot be sent, that says two things, and that nests too deep."""


@pytest.mark.parametrize("text", UNREADABLE)
def test_a_row_that_cannot_be_read_is_refused_with_its_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text('{"id": "1"}\n\n' + text + "\n")
    with pytest.raises(BadRequest, match=r"answers\.jsonl is not JSON Lines: line 3: "):
        read_rows(file)


@pytest.mark.parametrize("text", UNREADABLE)
def test_tasks_that_cannot_be_read_are_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "tasks.json"
    file.write_text(text)
    with pytest.raises(BadRequest, match=r"tasks\.json is not JSON: "):
        import_tasks("medical/coder@1", file)


@pytest.mark.parametrize(
    "field", ["domain=\udcff", "candidate=\udcff", "bounds=" + "[" * 100_000, "alias=a\nb"]
)
def test_a_command_that_cannot_be_sent_is_refused_with_its_usage(field: str) -> None:
    fields = ["domain=medical", "adapter=coder", "alias=production", "candidate=1", "percent=5"]
    assert read_command(SplitAlias, fields)
    with pytest.raises(BadRequest, match=r"Write: SplitAlias domain=\.\.\. adapter="):
        read_command(SplitAlias, [*fields, field])


def test_the_small_models_directory_can_be_put_into_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORARY_HOME", str(tmp_path))
    default_model().mkdir(parents=True)
    (default_model() / "config.json").write_text("{}")
    assert CliRunner().invoke(build(), ["small-model"]).stdout == f"{default_model()}\n"
