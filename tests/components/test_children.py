"""A program under a session leader that keeps the terminal's SIGHUP to itself, as make does."""

import os
import pty
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PROGRAM = """
import sys, time
from adapters.children import end_on_signals, started
end_on_signals()
with started([sys.executable, "-c", "import time; time.sleep(600)"], sys.stdout) as child:
    open(sys.argv[1], "w").write(str(child.pid))
    time.sleep(600)
"""
LEADER = """
import signal, subprocess, sys
signal.signal(signal.SIGHUP, lambda *_: None)
subprocess.run([sys.executable, "-c", *sys.argv[1:]])
"""


def test_a_closed_terminal_ends_a_program_though_its_parent_only_waits(tmp_path: Path) -> None:
    note = tmp_path / "child"
    leader, terminal = pty.fork()
    if leader == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
        command = [sys.executable, "-c", LEADER, PROGRAM, str(note)]
        os.execv(sys.executable, command)  # noqa: S606
    try:
        until(lambda: note.exists() and note.read_text() != "")
        child = int(note.read_text())
        os.close(terminal)
        until(lambda: os.waitpid(leader, os.WNOHANG)[0] == leader)
        until(lambda: not Path(f"/proc/{child}").exists())
    finally:
        with suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)


def until(holds: Callable[[], bool]) -> None:
    """Wait until it holds; fail after 30 seconds."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
