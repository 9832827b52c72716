"""Files that the log names, and tasks as the state knows them. Data only."""

import msgspec

from adapters.fields import Count, Digest, FilePath
from adapters.names import AdapterRef
from registry.model.evidence import TaskSuite


class File(msgspec.Struct, frozen=True, gc=False):
    """One file of a version: its path inside the adapter, size in bytes and digest."""

    path: FilePath
    size: Count
    sha256: Digest


class TaskVersion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One immutable version of a task: how a domain's versions are asked and scored."""

    domain: str
    task: str
    number: int
    digest: str
    """As of an adapter's version: of its files' paths, sizes and digests."""
    files: tuple[File, ...]
    suites: tuple[TaskSuite, ...]
    publisher: str
    published: str
    about: str = ""
    licence: str = ""
    message: str = ""
    retired: str | None = None
    """Why it was retired, and its files given up; None while a policy may name it."""

    @property
    def ref(self) -> AdapterRef:
        """Its pinned name, formed as an adapter's."""
        return AdapterRef(self.domain, self.task, version=self.number)

    @property
    def named(self) -> str:
        """Its name inside the domain, as rules of a policy have it."""
        return f"{self.task}@{self.number}"

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)

    @property
    def items(self) -> int:
        """Questions in all its suites."""
        return sum(suite.items for suite in self.suites)


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A task of a domain: its versions in order."""

    domain: str
    name: str
    versions: tuple[TaskVersion, ...] = ()
