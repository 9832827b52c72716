"""What a server's engine was started for, and which adapters it can serve. Pure.

An engine of vLLM either writes or classifies. One that writes refuses an adapter with a head when
it loads it; one that classifies would load an adapter without a head and answer by the base model's
own row, so that is refused here.
"""

from dataclasses import dataclass
from typing import Literal

from registry.errors import BaseMismatch
from registry.model.catalog import Version
from serving.errors import WrongTask
from serving.request.classification import CLASSIFY

ANOTHER = "Ask a server of that task: GET /v1/models of each lists what it serves."


@dataclass(frozen=True, slots=True)
class Served:
    """The base model and the task of one server."""

    base: str
    task: Literal["generate", "classify"] = "generate"
    max_labels: int = 64

    @property
    def classifies(self) -> bool:
        """Whether adapters with a head are served, instead of those that write."""
        return self.task == "classify"

    @property
    def doing(self) -> str:
        """What the server does, as a sentence."""
        if self.classifies:
            return "This server classifies (lorary serve --task classify)."
        return (
            "This server writes answers; lorary serve --task classify starts one that classifies."
        )

    def check(self, version: Version) -> None:
        """Raise `BaseMismatch` or `WrongTask` unless this server can serve the version."""
        if version.base != self.base:
            raise BaseMismatch(
                f"{version.ref} was made for {version.base!r}; this server serves {self.base!r}. "
                "Ask a server of that base model."
            )
        head = version.facts.head
        if head is None and self.classifies:
            raise WrongTask(
                f"{version.ref} has no classification head: it writes answers, and this server "
                f"classifies. {ANOTHER}"
            )
        if head is not None and not self.classifies:
            raise WrongTask(
                f"{version.ref} has a classification head, and this server writes answers. Ask "
                f"{CLASSIFY} of a server started with `lorary serve --task classify`."
            )
        if head is not None and head.size > self.max_labels:
            raise WrongTask(
                f"{version.ref} has {head.size} labels; this server takes {self.max_labels}. Its "
                "operator can raise LORARY_MAX_LABELS."
            )

    def can(self, version: Version) -> bool:
        """Whether this server can serve the version."""
        try:
            self.check(version)
        except (BaseMismatch, WrongTask):
            return False
        return True
