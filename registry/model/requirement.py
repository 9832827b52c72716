"""One thing that a policy asks of a version, and what follows from all of them. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

State = Literal["met", "not met", "hidden"]
"""How a requirement, or all of them together, stand for whoever reads it."""


class Requirement(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a policy asks of a version, and how it stands."""

    name: str
    met: bool
    evidence: str
    """What was found, or what is missing."""
    remedy: str = ""
    """What to do if it is not met."""
    hidden: bool = False
    """Whether the reader may not learn whether it is met; `met` is false then."""

    @property
    def state(self) -> State:
        """How it stands for the reader."""
        return "met" if self.met else "hidden" if self.hidden else "not met"

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}" + (f" ({self.remedy})" if self.remedy else "")


class Verdict(msgspec.Struct, frozen=True):
    """Whether an alias may name a version: what the command line, pages and reports begin with."""

    state: State
    sentence: str
    lacking: tuple[Requirement, ...]
    """The requirements that are known not to be met."""


def verdict(ref: str, alias: str, asked: Sequence[Requirement], *, guarded: bool = True) -> Verdict:
    """Whether `alias` may name the version `ref`, as far as the reader may know.

    asked: the requirements as the reader may see them. guarded: whether a policy asks for any.
    """
    lacking = tuple(item for item in asked if item.state == "not met")
    hidden = sum(item.state == "hidden" for item in asked)
    if lacking:
        noun = "requirement" if len(asked) == 1 else "requirements"
        also = f", {hidden} hidden from you" if hidden else ""
        found = f"{len(lacking)} of {len(asked)} {noun} not met{also}"
        return Verdict("not met", f"{ref} may not become {alias} yet: {found}.", lacking)
    if hidden:
        return Verdict(
            "hidden", f"Whether {ref} may become {alias} is hidden from you for now.", lacking
        )
    if not guarded:
        why = f"{alias} is not guarded, so any version of the adapter may"
    elif asked:
        why = "it meets the domain's policy"
    else:
        why = "the domain's policy asks nothing"
    return Verdict("met", f"{ref} may become {alias}: {why}.", lacking)


def verdict_of(answer: Mapping[str, Any]) -> Verdict:
    """The verdict on a version whose requirements the registry answered over HTTP."""
    asked = msgspec.convert(answer["requirements"], tuple[Requirement, ...])
    return verdict(answer["ref"], answer["alias"], asked, guarded=answer["guarded"])
