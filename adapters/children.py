"""Servers that a program starts, ended with it however it ends.

A child gets SIGTERM and is then killed with its whole process group when its block is
left. Signals that end the program leave the block (`end_on_signals`). If the program is killed
outright, the kernel tells the child to end (Linux, PR_SET_PDEATHSIG).
"""

import contextlib
import ctypes
import os
import select
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, NoReturn

_PR_SET_PDEATHSIG = 1
PATIENCE = 30.0
"""Seconds that a child has to end by itself."""


def end_on_signals() -> None:
    """Let SIGTERM, SIGINT and SIGHUP end this program by `SystemExit`, so that its blocks are left.

    SIGINT is taken even where a shell that started it in the background ignores it; SIGHUP is left
    alone where it is ignored, which is what `nohup` is for. A terminal that closes counts as SIGHUP
    also where the kernel sends it to our parent alone (`_watch_terminal`).
    """

    def end_program(number: int, _frame: Any) -> NoReturn:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end_program)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, end_program)
        if os.getsid(0) == os.getppid():
            threading.Thread(target=_watch_terminal, daemon=True).start()


def spawn(
    command: Sequence[str], log: IO[Any], *, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A child in the background, in a process group of its own, whom the kernel ends with us.

    log: where its output goes. environment: added to this program's. Whoever calls it calls `end`.
    """
    # The signal belongs to the thread that starts the child, so it helps only from the main one.
    from_main = threading.current_thread() is threading.main_thread()
    return subprocess.Popen(
        command,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(environment or {})},
        # A session of its own: Ctrl-C reaches only this program, which ends its children in order.
        start_new_session=True,
        preexec_fn=_tie_to(os.getpid()) if from_main else None,
    )


@contextlib.contextmanager
def started(
    command: Sequence[str],
    log: IO[Any],
    *,
    environment: Mapping[str, str] | None = None,
    patience: float = PATIENCE,
) -> Iterator[subprocess.Popen[bytes]]:
    """What `spawn` starts, ended when the block is left. patience: seconds, see `end`."""
    process = spawn(command, log, environment=environment)
    try:
        yield process
    finally:
        end(process, patience)


def end(process: subprocess.Popen[bytes], patience: float = PATIENCE) -> None:
    """Send SIGTERM to the process, then end its whole group."""
    try:
        process.terminate()
        _first_to_end([process], patience)
    finally:  # a second signal ends the waiting, not the ending
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        first_to_end([process])


def first_to_end(processes: Sequence[subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """Wait until one of the processes has ended, and return it, with its return code."""
    while (first := _first_to_end(processes, PATIENCE)) is None:
        pass
    first.poll()
    return first


def _first_to_end(
    processes: Sequence[subprocess.Popen[bytes]], patience: float
) -> subprocess.Popen[bytes] | None:
    """The first that has ended, or `None` after so many seconds.

    Not `Popen.wait`: a signal that raises in it, or in `Popen.poll`, can leave its lock taken, and
    whoever waits for the process next waits forever.
    """
    with contextlib.ExitStack() as opened:
        poll = select.poll()
        by_file = {}
        for process in processes:
            if process.returncode is not None:
                return process
            file = os.pidfd_open(process.pid)
            opened.callback(os.close, file)
            by_file[file] = process
            poll.register(file, select.POLLIN)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            # A signal just before the call does not interrupt it, so it is short.
            for file, _ in poll.poll(200):
                return by_file[file]
        return None


def _watch_terminal() -> None:
    """Send this program SIGHUP once its terminal has closed, or if it has already.

    The kernel sends SIGHUP to the session's leader. A shell passes it on; `make` as the leader, as
    in `ssh -t HOST make demo`, does not, and waits for its children.
    """
    poll = select.poll()
    for standard in (0, 1, 2):
        with contextlib.suppress(OSError):  # a closed one
            if stat.S_ISCHR(os.fstat(standard).st_mode):  # no isatty: it is false after a hang-up
                poll.register(standard, 0)  # hang-ups and errors are always reported
    poll.poll()
    os.kill(os.getpid(), signal.SIGHUP)


def _tie_to(parent: int) -> Any:
    """What a child runs before its program: ask the kernel for SIGTERM when `parent` ends."""
    libc = ctypes.CDLL(None)  # loaded here: between fork and exec nothing is

    def tie() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended meanwhile
            os._exit(1)

    return tie
