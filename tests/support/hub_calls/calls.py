"""A call, the scene it plays in, and its outcome."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["works", "not offered", "refused", "asks huggingface.co", "absent", "fault"]
SECONDS = 60
"""A command that takes longer counts as one that never ends."""
MAIN = """
import sys
try:
    from huggingface_hub.cli.hf import main
except ImportError:
    from huggingface_hub.commands.huggingface_cli import main
sys.argv[0] = "hf"
main()
"""


class Absent(Exception):
    """This version of huggingface_hub has no such call."""


@dataclass(frozen=True)
class Scene:
    """What the registry holds before the first call, and folders to publish.

    `kept` has versions 1, 2 and 3; alias `live` names 1 and `production` 2. `fresh` has version 1
    and no alias. `new` has nothing yet, nor have `large`, `refused`, `card` and `shell`.
    """

    domain: str
    folders: dict[str, str]
    """By name: `first`, `second` and `third` are adapters, `pickled` has a pickle, too."""
    commits: list[str]
    """The commit ids of the versions of `kept`."""
    work: str

    def repo(self, name: str) -> str:
        """The repository's id."""
        return f"{self.domain}/{name}"

    def bytes(self, folder: str, name: str) -> bytes:
        """A file of one of the folders."""
        return Path(self.folders[folder], name).read_bytes()


@dataclass(frozen=True)
class Call:
    """Something people do, and what they should meet."""

    name: str
    run: Callable[[Any, Scene], None]
    """Takes `huggingface_hub.HfApi()`; raises what the client raises, or `AssertionError`."""
    words: str | None
    """What the client shows of a refusal; None: the call works."""


CALLS: list[Call] = []


def call(name: str, words: str | None = None) -> Callable[[Callable[[Any, Scene], None]], Any]:
    """Register a function as the call called `name`."""

    def register(run: Callable[[Any, Scene], None]) -> Callable[[Any, Scene], None]:
        CALLS.append(Call(name, run, words))
        return run

    return register


def outcome(made: Call, api: Any, scene: Scene) -> tuple[Outcome, str]:
    """What a call comes to, and the reason."""
    try:
        made.run(api, scene)
    except Absent:
        return "absent", ""
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        if made.words is not None and made.words in " ".join(said.split()):
            return "not offered" if "not offered" in said else "refused", said
        if "https://huggingface.co/" in str(getattr(getattr(error, "request", None), "url", "")):
            return "asks huggingface.co", said
        return "fault", said
    return ("works", "") if made.words is None else ("fault", f"not refused: {made.words}")


def method(of: Any, name: str) -> Any:
    """A method that not every version has."""
    try:
        return getattr(of, name)
    except AttributeError:
        raise Absent from None


def hf(*arguments: str) -> str:
    """Run the `hf` command, `huggingface-cli` in older versions; what it prints."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired as expired:
        raise AssertionError(f"it does not end: {str(expired.stderr)[-1500:]}") from None
    printed = " ".join((done.stdout + done.stderr).split())
    unknown = ("No such command", "invalid choice", "No such option", "unrecognized arguments")
    if done.returncode and any(word in printed for word in unknown):
        raise Absent
    if done.returncode:
        raise RuntimeError(printed[-3000:])
    return printed
