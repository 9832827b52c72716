"""`lorary --help` and its like: sections, whole summaries, examples, one vocabulary of verbs."""

import re
import shlex
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from reference.command_line import commands, help_of
from registry.cli import build
from registry.cli.help import SECTIONS, VERBS, parts, summary
from registry.cli.renamed import RENAMED, current
from tests.support.commands import refusal

APP = build()
COMMANDS = dict(commands())


def named(path: tuple[str, ...]) -> str:
    return " ".join(("lorary", *path))


def plain(text: str) -> str:
    return " ".join(text.split())


def test_lorary_alone_shows_its_help() -> None:
    alone = CliRunner().invoke(APP, [])
    assert alone.exit_code == 0
    assert alone.stdout.rstrip() == CliRunner().invoke(APP, ["--help"]).stdout.rstrip()


def test_a_group_alone_shows_its_help() -> None:
    for path, command in COMMANDS.items():
        if hasattr(command, "commands"):
            alone = CliRunner().invoke(APP, list(path))
            assert alone.exit_code == 0
            assert "Usage:" in alone.stdout


def test_version_is_the_packages() -> None:
    shown = CliRunner().invoke(APP, ["--version"])
    assert (shown.exit_code, shown.stdout.split()[0]) == (0, "lorary")
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", shown.stdout.split()[1])


def test_shell_completion_can_be_installed_and_shown() -> None:
    assert "--install-completion" in help_of(APP, ())
    # Typer asks for the shell that called it; with nothing to do after it, sh would be replaced.
    command = f"{sys.executable} -c 'from registry.cli import main; main()' --show-completion; true"
    script = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "_LORARY_COMPLETE" in script.stdout


def test_every_command_stands_in_a_section_and_its_summary_is_whole_at_80_columns() -> None:
    shown = help_of(APP, ())
    assert max(map(len, shown.splitlines())) <= 80
    assert "..." not in shown.partition("\n\n")[2]  # but for its usage
    for path, command in COMMANDS.items():
        if len(path) == 1:
            assert command.rich_help_panel in SECTIONS, f"{named(path)}: name its section"
        above = plain(help_of(APP, path[:-1]))
        assert plain(summary(command.help)) in above, named(path)


@pytest.mark.parametrize("path", COMMANDS, ids=named)
def test_help_has_an_example_that_runs_and_explains_every_option(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    examples = command.examples()
    assert examples, f"{named(path)} has no example"
    shown = help_of(APP, path)
    for example in examples:
        assert f"  {example}\n" in f"{shown}\n"
        assert example.startswith(named(path)), example
        words = shlex.split(example.partition(" && ")[0].partition(" > ")[0])
        assert not refusal(words), example
    for parameter in command.params:
        assert parameter.name == "help" or getattr(parameter, "help", None), parameter.name


def test_second_words_are_verbs_of_one_vocabulary() -> None:
    used = {path[-1] for path in COMMANDS if len(path) == 2}
    assert used <= VERBS.keys(), f"use a known verb, or explain it: {used - VERBS.keys()}"
    assert VERBS.keys() <= used, f"nobody uses {VERBS.keys() - used}"


def test_old_names_still_work_and_say_what_is_new(capsys: pytest.CaptureFixture[str]) -> None:
    top = {path for path in COMMANDS if len(path) == 1}
    for old, new in RENAMED.items():
        assert old not in top
        assert new in top
        assert current([*old, "ls", "--json"]) == [*new, "ls", "--json"]
        assert f"is now `lorary {' '.join(new)}`" in capsys.readouterr().err
    assert current(["ls"]) == ["ls"]
    assert not capsys.readouterr().err
    assert CliRunner().invoke(APP, ["alias", "split", "--help"]).exit_code == 0


def test_a_docstring_is_parted_into_text_and_examples() -> None:
    text = "Do it. And more.\n\nMore text.\n\nExample: lorary do\n    it --now\n"
    assert parts(text) == ("Do it. And more.\n\nMore text.", ["lorary do it --now"])
    assert summary(text) == "Do it."
