"""`lorary` commands as documents show them, held to the command line itself."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import typer
from typer._click.exceptions import MissingParameter, UsageError

from registry.cli import build

APP = typer.main.get_command(build())
BLOCK = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = ("", "sh", "bash")
HEREDOC = re.compile(r"<<'?(\w+)'?.*?^\1$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(lorary [^`\n]+)`")
SUBSTITUTION = re.compile(r"\"\$\((lorary [^()]*)\)\"")
"""Within quotes, where shlex does not look."""
OPERATORS = set("();<>|&")
BEFORE = {"until", "do", "then", "if", "exec", "nohup", "!"}
"""Words after which a command begins."""


def blocks(page: str) -> list[str]:
    """The page's blocks of shell commands, in order."""
    return [found["text"] for found in BLOCK.finditer(page) if found["kind"] in SHELL]


def shown(page: str) -> Iterator[tuple[list[str], bool]]:
    """Each `lorary` command on the page as words, and whether all of it is there.

    Commands within a sentence may leave arguments out.
    """
    for block in blocks(page):
        yield from ((words, True) for words in commands(block))
    for inline in INLINE.findall(BLOCK.sub("", page)):
        yield from ((words, False) for words in commands(inline))


def commands(script: str) -> Iterator[list[str]]:
    """The `lorary` commands of a shell script, each as words."""
    text = HEREDOC.sub("", script).replace("\\\n", " ")
    for inner in SUBSTITUTION.findall(text):
        yield from commands(inner)
    # shlex would end a comment at the end of the text: newlines are operators here.
    lexer = shlex.shlex(
        " ; ".join(re.sub(r"(^|\s)#.*", "", line) for line in text.splitlines()),
        posix=True,
        punctuation_chars=True,
    )
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    begins, within = True, False
    for token in (*lexer, ";"):
        if set(token) <= OPERATORS:
            if within:
                yield words
            words, begins, within = [], True, False
        elif within:
            words.append(token)
        elif begins and token == "lorary":
            words, within = [token], True
        else:
            begins = begins and (token in BEFORE or re.match(r"\w+=", token) is not None)


def refusal(words: list[str], *, whole: bool = True) -> str:
    """Why the command line refuses the command; "" if it takes it. Its files need not be here.

    whole: whether arguments that are missing count.
    """
    command: Any = APP
    context = command.make_context(words[0], words[1:2] or ["--help"], resilient_parsing=True)
    rest = words[1:]
    while hasattr(command, "commands"):
        if not rest or rest[0].startswith("-"):
            return "" if not whole or rest else "a command is missing"
        if rest[0] not in command.commands:
            return f"no such command: {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    files = [word for word in rest if "." in word or "/" in word]
    try:
        command.make_context(words[0], rest, parent=context)
    except UsageError as error:
        why = error.format_message()
        incomplete = isinstance(error, MissingParameter) or "requires an argument" in why
        return "" if (incomplete and not whole) or any(file in why for file in files) else why
    except typer.Exit:  # --help
        return ""
    return ""
