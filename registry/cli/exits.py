"""How `lorary` ends: one sentence for a person, one exit code for a script, never a traceback."""

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import typer
from pydantic import ValidationError

from adapters.errors import LoraryError
from adapters.terminal import plain
from registry.cli.extras import explain
from registry.errors import RegistryMissing, Unauthenticated
from registry.model.access import ADVICE

DONE, NO, USAGE, UNKNOWN, INTERNAL, INTERRUPTED = 0, 1, 2, 3, 70, 130
"""The exit codes; `registry.cli.help.EXIT_CODES` says what each means."""

_REMEDIES = {
    errno.ENOSPC: "The disk is full. Free space there, or name another place.",
    errno.EDQUOT: "Your disk quota is used up. Free space there, or name another place.",
    errno.EACCES: "You may not do that there. Change the permissions, or name another place.",
    errno.EPERM: "You may not do that there. Change the permissions, or name another place.",
    errno.EROFS: "That disk is read-only. Name another place.",
    errno.ENOENT: "There is no such file or folder. Check the path.",
    errno.EISDIR: "That is a folder. Name a file.",
    errno.ENOTDIR: "A part of that path is a file, not a folder. Check the path.",
    errno.EEXIST: "That exists already. Name another place.",
    errno.ENAMETOOLONG: "That name is too long. Choose a shorter one.",
    errno.EADDRINUSE: "That port is in use. Choose another one with --port.",
    errno.EMFILE: "Too many files are open. Raise the limit: ulimit -n 4096",
}


def run(build: Callable[[], Any], arguments: Sequence[str], *, obj: Any = None) -> int:
    """Run `lorary` with these arguments and return its exit code; messages go to standard error.

    build: makes the command. obj: what commands of other packages find in their context.
    """
    try:
        try:
            code = build().main(list(arguments), prog_name="lorary", standalone_mode=False, obj=obj)
        finally:
            _flush()
    except BrokenPipeError:  # the reader has read enough, such as `head`
        return DONE
    except (KeyboardInterrupt, typer.Abort):
        _tell("Interrupted. Nothing more is done.")
        return INTERRUPTED
    except Exception as error:
        code, message = described(error)
        _tell(message)
        return code
    return code if isinstance(code, int) else DONE


def _flush() -> None:
    """Write what was printed; output that cannot be written is dropped, so that it fails once."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def described(error: Exception) -> tuple[int, str]:
    """The exit code for an error, and what to say about it."""
    match error:
        case Unauthenticated():
            text = error.message.partition(ADVICE)[0].strip()
            return NO, f"{text} Set LORARY_KEY to a valid key."
        case LoraryError():
            return _code(error), error.message
        case typer.TyperException():
            return USAGE, _usage(error)
        case ValidationError():
            return USAGE, _settings(error)
        case ModuleNotFoundError() if advice := explain(error):
            return NO, advice
        case OSError() if error.errno in _REMEDIES:
            where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
            wrong = error.errno in (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
            return USAGE if wrong else NO, f"{where}{_REMEDIES[error.errno]}"
        case MemoryError():
            return NO, "There is not enough memory. Close other programs, or ask for less."
        case _:
            return INTERNAL, _internal(error)


def _code(error: LoraryError) -> int:
    """400 is a request that cannot be read; 5xx except 500 is one that was not answered."""
    if error.status == 400 or isinstance(error, RegistryMissing):
        return USAGE
    return UNKNOWN if error.status in (502, 503, 504) else NO


def _usage(error: Any) -> str:
    """Click's message as a sentence, with where to read more."""
    text = " ".join(str(error.format_message()).split())
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "lorary"
    return f"{text}{'' if text.endswith(('.', '?')) else '.'} See: {command} --help"


def _settings(error: ValidationError) -> str:
    problems = []
    for problem in error.errors(include_input=False, include_url=False):
        name = "_".join(str(part) for part in problem["loc"]).upper()
        where = f"LORARY_{name}: " if name else ""
        problems.append(f"{where}{problem['msg'].removeprefix('Value error, ')}")
    return f"{'; '.join(problems)}. Correct the setting; what each may be: lorary config"


def _internal(error: Exception) -> str:
    what = f"{type(error).__name__}: {error}"[:200]
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="lorary-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.writelines(traceback.format_exception(error))
    except OSError:
        return f"An error in Lorary itself ({what}). Please report it."
    return f"An error in Lorary itself ({what}). Please report it with {file.name}"


def _tell(message: str) -> None:
    print(plain(f"lorary: {message}"), file=sys.stderr)
