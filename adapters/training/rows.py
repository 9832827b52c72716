"""One example of each kind that a stage learns from."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from adapters.training.conversations import Conversation


@dataclass(frozen=True, slots=True)
class Row(ABC):
    """What every kind has: the conversation to answer, and what a split keeps together."""

    prompt: Conversation
    """Ends with the user's message."""
    unit: str
    where: str = field(default="", kw_only=True)
    """The source and the row's number in it, for errors."""

    @property
    def question(self) -> str:
        """The user's last message."""
        return self.prompt[-1].content

    @property
    @abstractmethod
    def answers(self) -> tuple[str, ...]:
        """Every answer that the row holds."""


@dataclass(frozen=True, slots=True)
class Turn(Row):
    """A prompt with its answer; an empty answer where only a reward model judges."""

    answer: str

    @property
    def answers(self) -> tuple[str, ...]:
        """The answer."""
        return (self.answer,)


@dataclass(frozen=True, slots=True)
class Pair(Row):
    """A prompt with the answer that is preferred and one that is not."""

    chosen: str
    rejected: str
    judged: bool = True
    """Whether anybody rejected that answer; otherwise any other wrong one serves as well."""

    @property
    def answers(self) -> tuple[str, ...]:
        """Both answers."""
        return (self.chosen, self.rejected)


@dataclass(frozen=True, slots=True)
class Judged(Row):
    """A prompt with one answer and the thumb it got."""

    answer: str
    good: bool

    @property
    def answers(self) -> tuple[str, ...]:
        """The answer."""
        return (self.answer,)
