"""Both texts of compared requests, in a folder on the replica's disk, where they are asked for.

They hold what callers wrote. So it takes two to keep them: the server's operator, who names the
folder, and the domain, whose policy allows it (`shadow_texts`). They are never sent anywhere.
"""

import asyncio
import os
import secrets
from pathlib import Path
from typing import Any

import msgspec

from registry.times import utc_now
from serving.telemetry import access_log


class KeptTexts:
    """A folder with one JSON object a line, up to a number of bytes. Use it from one event loop."""

    def __init__(self, folder: Path | None, most: int) -> None:
        """folder: None to keep nothing. most: bytes of all its files; no more are written."""
        self._folder = folder
        self._left = most
        self._path = (folder or Path()) / f"shadow-{secrets.token_hex(4)}.jsonl"
        self._begun = False
        self._one = asyncio.Lock()

    @property
    def wanted(self) -> bool:
        """Whether the operator asks for texts, and there is room for more."""
        return self._folder is not None and self._left > 0

    async def keep(self, **record: Any) -> None:
        """Write one request and its answers; a disk that fails is logged, and nothing more is
        kept."""
        line = msgspec.json.encode({"time": utc_now(), **record}) + b"\n"
        try:
            async with self._one:
                await asyncio.to_thread(self._write, line)
        except OSError as error:
            self._left = 0
            access_log.failed("shadow_texts", error)

    def _write(self, line: bytes) -> None:
        if not self._begun and self._folder is not None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._left -= sum(path.stat().st_size for path in self._folder.glob("shadow-*.jsonl"))
            self._begun = True
        if len(line) > self._left:
            self._left = 0
            return
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(file, line)
        finally:
            os.close(file)
        self._left -= len(line)
