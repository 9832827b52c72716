"""A newcomer's terminal: fresh clones, demos in them, and the documents' own commands.

Each clone installs and trains everything anew, hence `make walkthrough` apart from `make test`.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from adapters.children import started
from tests.support.browser import chromium
from tests.support.commands import blocks
from tests.support.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
REFUSED = re.compile(r"^(?P<command>(?:LORARY_KEY=\S+ )?lorary .*?) +# refused.*$", re.MULTILINE)
"""A command that the document says is refused."""


@dataclass
class Terminal:
    """One shell in `folder`, which keeps its variables from block to block."""

    shell: subprocess.Popen[bytes]
    folder: Path
    log: Path
    ports: Mapping[str, str]
    """Of the documents, and those that are used instead."""
    printed: str = ""
    blocks: int = 0

    def follow(self, commands: str) -> str:
        """Type commands and wait for their end; what they print. A refusal must be one.

        Raises AssertionError with all that was printed if one fails.
        """
        commands = re.sub(
            rf"\b({'|'.join(self.ports)})\b", lambda found: self.ports[found[0]], commands
        )
        commands = REFUSED.sub(r"if \g<command>; then echo 'not refused'; exit 99; fi", commands)
        self.blocks += 1
        script, end = self.log.with_suffix(f".{self.blocks}.sh"), f"end of block {self.blocks}"
        script.write_text(commands)
        assert self.shell.stdin is not None
        self.shell.stdin.write(f"source '{script}' < /dev/null; echo '{end}'\n".encode())
        self.shell.stdin.flush()
        while end not in (now := self.log.read_text(errors="replace")):
            assert self.shell.poll() is None, f"{commands}\n---\n{now[-6000:]}"
            time.sleep(0.1)
        new, self.printed = now[len(self.printed) :].replace(end, ""), now
        return new

    def variable(self, name: str) -> str:
        """A variable of the shell."""
        return self.follow(f'echo "${name}"').strip()

    def in_production(self, adapter: str) -> str:
        """The version to which `production` was moved last."""
        moves = self.follow(f"lorary alias ls {adapter}").strip().splitlines()
        alias, _before, version, *_ = moves[-1].split()
        assert alias == "production", moves
        return version


@dataclass
class Newcomer:
    """Opens terminals, and clones the project into them."""

    base: Path
    stack: ExitStack
    ports: Mapping[str, str] = field(
        default_factory=lambda: {port: str(free_port()) for port in ("8000", "8100")}
    )

    def clone(self) -> Path:
        """A fresh clone of what is committed."""
        folder = self.base / "lorary"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        return folder

    def terminal(self, folder: Path) -> Terminal:
        """A shell of the newcomer's own: it ends at the first command that fails."""
        log = self.base / f"{folder.name}.terminal"
        ours = [name for name in os.environ if name.startswith("LORARY_") and name != "LORARY_HOME"]
        with log.open("wb") as out:
            shell = subprocess.Popen(
                ["env", *(f"--unset={name}" for name in ours), "bash", "-euo", "pipefail"],
                cwd=folder, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.stack.callback(leave, shell)
        terminal = Terminal(shell, folder, log, self.ports)
        terminal.follow("trap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT")
        return terminal

    def demo(self, clone: Path, arguments: str = "") -> None:
        """`make demo` in the clone, until it stays up."""
        log = self.base / "demo.log"
        ports = f"--port {self.ports['8000']} --registry-port {self.ports['8100']}"
        command = ["make", "-C", str(clone), "demo", f"ARGS={arguments} {ports}"]
        ours = {"LORARY_HOME": str(clone / ".cache" / "lorary"), "PYTHON": sys.executable}
        with log.open("wb") as out:
            demo = self.stack.enter_context(started(command, out, environment=ours))
        while "Press Ctrl-C" not in (said := log.read_text(errors="replace")):
            assert demo.poll() is None, said[-6000:]
            time.sleep(0.2)


def leave(shell: subprocess.Popen[bytes]) -> None:
    """Close the terminal, which ends the servers that were started in it."""
    assert shell.stdin is not None
    shell.stdin.close()
    shell.wait(60)


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    with ExitStack() as stack:
        yield Newcomer(tmp_path_factory.mktemp("newcomer"), stack)


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def document() -> Callable[..., list[str]]:
    """The blocks of commands of a document, or of one of its sections."""

    def read(name: str, section: str = "") -> list[str]:
        text = (ROOT / name).read_text()
        if section:
            text = text.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
        return blocks(text)

    return read
