"""One thing that a policy asks of a version."""

import msgspec


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

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}" + (f" ({self.remedy})" if self.remedy else "")
