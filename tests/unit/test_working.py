"""What takes long shows that it goes on: to a person at a terminal, and to nobody else."""

import os
import pty
import subprocess
import sys

import pytest

from adapters.terminal import working

SLOW = (
    "import time; from adapters.terminal import working\nwith working('merging'): time.sleep(0.5)"
)


def test_a_terminal_shows_what_is_done_and_for_how_long() -> None:
    terminal, other = pty.openpty()
    subprocess.run([sys.executable, "-c", SLOW], stderr=other, check=True)
    os.close(other)
    shown = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert "merging" in shown
    assert "0:00:0" in shown


@pytest.mark.parametrize("quiet", [True, False])
def test_a_script_sees_nothing(quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with working("merging", quiet=quiet):
        pass
    assert capsys.readouterr() == ("", "")
