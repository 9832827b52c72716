"""What we are compared with, each in an environment of its own: none is a dependency of ours."""

import subprocess
import sys
from pathlib import Path

from adapters.home import cache


def peer(name: str, requirement: str) -> Path:
    """The folder of a peer's programs, installed unless it is there."""
    folder = cache("peers", name)
    if not (folder / "installed").exists():
        print(f"Installing {requirement} into {folder} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", requirement], check=True)
        (folder / "installed").touch()
    return folder / "bin"


def library(name: str, requirement: str) -> Path:
    """A folder to put before this environment's packages, in which it finds what the peer lacks."""
    folder = cache("peers", name)
    if not (folder / "installed").exists():
        print(f"Installing {requirement} into {folder} ...", flush=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-warn-conflicts", "--target"]
        subprocess.run([*pip, folder, requirement], check=True)
        (folder / "installed").touch()
    return folder
