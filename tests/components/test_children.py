"""A program under a session leader that keeps the terminal's SIGHUP to itself, as make does."""

import os
import pty
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from adapters.children import end, first_to_end, spawn

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


def test_a_signal_at_any_moment_leaves_a_child_that_can_be_ended(tmp_path: Path) -> None:
    def interrupt(*_: object) -> NoReturn:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    with (tmp_path / "log").open("w") as log:
        child = spawn(["sleep", "600"], log)
    try:
        for attempt in range(1000):
            with suppress(Interrupted):
                signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + attempt % 100))
                first_to_end([child])
        thread = threading.Thread(target=end, args=(child,), daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), "the child cannot be waited for any more"
    finally:
        signal.signal(signal.SIGALRM, before)
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)


class Interrupted(Exception):
    """What a signal raises."""


def until(holds: Callable[[], bool]) -> None:
    """Wait until it holds; fail after 30 seconds."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
