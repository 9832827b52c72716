"""However the demo ends, the servers that it started end, and their ports are free.

Its commands are answered by tests/support/light_lorary.py: what is tested is who ends whom.
"""

import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapters.home import cache
from tests.support.servers import free_port

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Demo:
    """A demo that has asked its questions and stays up."""

    process: subprocess.Popen[bytes]
    home: Path
    ports: tuple[int, int]
    terminal: int

    @property
    def servers(self) -> list[tuple[int, int]]:
        """The registry and vLLM, each with its child."""
        logs = [self.home / "demo" / name for name in ("registry.log", "serve.log")]
        found = [re.search(r"pids (\d+) (\d+)", log.read_text()) for log in logs]
        return [(int(match[1]), int(match[2])) for match in found if match]

    def read(self) -> str:
        """What it has printed since."""
        with suppress(OSError):  # nobody writes any more
            return os.read(self.terminal, 1 << 16).decode(errors="replace")
        return ""


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    # As the demo finds `lorary` beside its interpreter, it is given an interpreter of its own.
    programs = tmp_path / "bin"
    programs.mkdir()
    python = programs / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    lorary = programs / "lorary"
    light = ROOT / "tests" / "support" / "light_lorary.py"
    lorary.write_text(f'#!/bin/sh\nexec {sys.executable} {light} "$@"\n')
    for program in (python, lorary):
        program.chmod(0o755)
    sources = cache("sources")
    sources.mkdir(parents=True, exist_ok=True)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "sources").symlink_to(sources.absolute())
    ports = free_port(), free_port()
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "  # a background job
        "signal.signal(signal.SIGHUP, signal.SIG_DFL); "  # also where the tests run under nohup
        f"sys.executable = {str(python)!r}; sys.path.insert(0, {str(ROOT)!r}); "
        "import demo; demo.main()"
    )
    terminal, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--port", str(ports[0]), "--registry-port", str(ports[1])],
        env={**os.environ, "LORARY_HOME": str(tmp_path)},
        stdout=other, stderr=other, start_new_session=True,
    )  # fmt: skip
    os.close(other)
    running = Demo(process, tmp_path, ports, terminal)
    printed = ""
    deadline = time.monotonic() + 120
    while "Press Ctrl-C" not in printed:
        assert time.monotonic() < deadline, printed
        assert process.poll() is None, printed
        printed += running.read()
    started = [pid for pair in running.servers for pid in pair]
    assert len(started) == 4
    yield running
    process.kill()
    process.wait()
    for pid in filter(lives, started):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with suppress(OSError):
        os.close(terminal)


def hang_up(demo: Demo) -> None:
    """Close the terminal: what it writes fails, and the shell sends SIGHUP."""
    os.close(demo.terminal)
    demo.process.send_signal(signal.SIGHUP)


WAYS: dict[str, Callable[[Demo], None]] = {
    "terminated": lambda demo: demo.process.terminate(),
    "interrupted": lambda demo: demo.process.send_signal(signal.SIGINT),
    "terminal closed": hang_up,
    "killed": lambda demo: demo.process.kill(),
    "registry crashed": lambda demo: os.kill(demo.servers[0][0], signal.SIGKILL),
    "vLLM crashed": lambda demo: os.kill(demo.servers[1][0], signal.SIGKILL),
}


@pytest.mark.parametrize("way", WAYS)
def test_however_the_demo_ends_its_servers_end(way: str, demo: Demo) -> None:
    started = [pid for pair in demo.servers for pid in pair]
    WAYS[way](demo)
    demo.process.wait(30)
    deadline = time.monotonic() + 30
    while any(map(lives, started)) or any(map(listens, demo.ports)):
        assert time.monotonic() < deadline, "servers outlive the demo"
        time.sleep(0.05)
    if way.endswith("crashed"):
        assert demo.process.returncode == 1


def test_the_demo_says_where_its_commands_keys_and_pages_are(demo: Demo) -> None:
    file = demo.home / "demo" / "environment.sh"
    script = (
        f". {file} && command -v lorary && echo $LORARY_KEY $LORARY_REGISTRY_URL $LORARY_API_URL"
    )
    told = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.split() == [
        str(demo.home / "bin" / "lorary"),
        "lry_operator",
        f"http://127.0.0.1:{demo.ports[1]}",
        f"http://127.0.0.1:{demo.ports[0]}/v1",
    ]


def lives(pid: int) -> bool:
    """Whether the light server or its child runs under this number, and not another program."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z" and any(word in command for word in (b"light_lorary", b"time.sleep(600)"))


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
