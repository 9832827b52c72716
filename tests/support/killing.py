"""A whole push in one process that kills itself at a chosen step of the store.

    python -m tests.support.killing STORE OPERATOR

Reads lines `ADAPTER_DIRECTORY STEP` and forks a process for each, which has then nothing to import.
Prints how each ended. 0: the push ended before the step came. -9: by SIGKILL, before (even steps)
or after (odd steps) one operation of the store.
"""

import hashlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapters.admission import files_in
from registry.model.aliases import MoveAlias
from registry.model.catalog import File
from registry.publish.publishing import publish
from registry.registry import Registry
from registry.store import ObjectStore, open_store
from registry.store.blobs import Blobs

OPERATIONS = ("get", "stream", "head", "put", "put_file", "list")


class KillingStore:
    """Passes everything on, and kills the process at step `at`."""

    def __init__(self, store: ObjectStore, at: int) -> None:
        self._store = store
        self._left = at

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        return self._counted(found) if name in OPERATIONS else found

    def _counted(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            self._step()
            answer = operation(*arguments, **named)
            self._step()
            return answer

        return counted

    def _step(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


def main(url: str, operator: str) -> None:
    """Push what each line names in a process of its own."""
    for line in sys.stdin:
        directory, _, step = line.strip().rpartition(" ")
        if (child := os.fork()) == 0:
            try:
                push(url, operator, directory, int(step))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def push(url: str, operator: str, directory: str, step: int) -> None:
    """Upload, publish, move the alias."""
    opened = open_store(url, s3_endpoint=os.environ.get("LORARY_S3_ENDPOINT"))
    store: Any = KillingStore(opened, step)
    registry, blobs, listed = Registry(store), Blobs(store), []
    for name, file in files_in(Path(directory)).items():
        digest = hashlib.sha256(Path(directory, name).read_bytes()).hexdigest()
        if blobs.missing([digest]):
            blobs.put_file(Path(directory, name), digest)
        listed.append(File(name, file.size, digest))
    version = publish(
        registry, domain="medical", adapter="coder", base="tiny", files=listed, actor=operator
    )
    registry.execute(MoveAlias("medical", "coder", "production", version.number), operator)
    registry.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
