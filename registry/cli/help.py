"""How `--help` reads: commands in sections, summaries in full, examples that can be copied."""

import inspect
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

SECTIONS = ("Set up", "Publish", "Evaluate", "Release", "Serve", "Train", "Govern")
"""The sections of `lorary --help`, in their order. A command names its own at registration
(`rich_help_panel`)."""

VERBS = {
    "add": "register something that exists elsewhere",
    "check": "report every problem",
    "close": "accept nothing more",
    "complaints": "open a review of answers that users complained about",
    "create": "make something new",
    "dead-letters": "list events that could not be delivered",
    "decide": "rule on a finding of harm",
    "default": "choose what a short name means",
    "engine": "name the engine whose evidence counts",
    "erase": "delete texts and keep the verdicts",
    "export": "write to a file",
    "import": "read from a file",
    "issue": "make a new API key",
    "ls": "list",
    "new": "write a folder to begin with",
    "open": "begin a review",
    "policy": "show or change a policy, or write a first one",
    "pull": "download",
    "push": "upload as a new version",
    "retire": "delete files, keep the history",
    "retry": "try again",
    "revoke": "make unusable for good",
    "rm": "remove",
    "rollback": "return to the version before",
    "set": "point an alias at a version",
    "show": "show one thing in detail",
    "start": "begin to send traffic",
    "stop": "send no more traffic",
    "write": "write files to a folder",
}
"""What the second words of commands mean, in every group."""

EXIT_CODES = {
    0: "Done, or the answer is yes.",
    1: "Refused or failed, or the answer is no: `gate` found a requirement that is not met, "
    "`verify` found damage.",
    2: "Wrong usage: a command, an argument, a file or a setting that cannot be used as given.",
    3: "Not known: a registry, server or store did not answer, or is busy. Retry later.",
    70: "An error in Lorary itself. The message names a file with the details.",
    130: "Interrupted with Ctrl-C.",
}
"""What a script learns from how `lorary` ends."""


def parts(text: str | None) -> tuple[str, list[str]]:
    """What a docstring says about a command, and its examples."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    about = [one for one in paragraphs if not one.startswith("Example: ")]
    examples = [one for one in paragraphs if one.startswith("Example: ")]
    return "\n\n".join(about), [" ".join(one.split()[1:]) for one in examples]


def summary(text: str | None) -> str:
    """The first sentence of a docstring."""
    first = " ".join(parts(text)[0].partition("\n\n")[0].split())
    sentence, stop, _ = first.partition(". ")
    return sentence + stop.strip()


class _Explained:
    """Help with the examples at its end."""

    help: str | None

    def examples(self) -> list[str]:
        """What can be copied into a terminal."""
        return parts(self.help)[1]

    def format_help_text(self, _context: Any, formatter: Any) -> None:
        """Write what the command does."""
        about, _ = parts(self.help)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(about)

    def format_epilog(self, _context: Any, formatter: Any) -> None:
        """Write the examples, each on one line however long."""
        if examples := self.examples():
            with formatter.section("Examples"):
                for example in examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")


class HelpCommand(_Explained, TyperCommand):
    """A command with help as above."""


class HelpGroup(_Explained, TyperGroup):
    """Commands under one name. Without a command it shows its help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As any group, but nothing to do is no mistake."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()
        return super().parse_args(ctx, args)

    def examples(self) -> list[str]:
        """Its own, or else the first one of each of its commands."""
        own = super().examples()
        return own or [
            example for _, command in self._shown() for example in command.examples()[:1]
        ]

    def format_commands(self, _ctx: Any, formatter: Any) -> None:
        """Write the commands by section, with their summaries in full."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self._shown():
            title = command.rich_help_panel or "Commands"
            sections.setdefault(title, []).append((name, summary(command.help)))
        wide = max((len(name) for rows in sections.values() for name, _ in rows), default=0)
        for title in sorted(sections, key=_place):
            with formatter.section(title):
                formatter.write_dl([(f"{name:{wide}}", said) for name, said in sections[title]])

    def _shown(self) -> Iterator[tuple[str, Any]]:
        for name, command in self.commands.items():
            if not command.hidden:
                yield name, command


def _place(title: str) -> int:
    return SECTIONS.index(title) if title in SECTIONS else len(SECTIONS)


def dress(app: typer.Typer) -> None:
    """Give every command and group of `app` this kind of help."""
    for command in app.registered_commands:
        command.cls = HelpCommand
    for group in app.registered_groups:
        group.cls = HelpGroup
        if group.typer_instance is not None:
            dress(group.typer_instance)
