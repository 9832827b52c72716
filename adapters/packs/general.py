"""Plain questions that any assistant should answer: what training must not cost."""

import functools
from importlib.resources import files

import msgspec


class GeneralQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question of general knowledge with one right answer and three wrong ones."""

    question: str
    answer: str
    others: tuple[str, str, str]

    @property
    def choices(self) -> tuple[str, ...]:
        """All four answers in alphabetical order."""
        return tuple(sorted((self.answer, *self.others)))


@functools.cache
def general_questions() -> tuple[GeneralQuestion, ...]:
    """Forty of them, the same for every domain."""
    text = files("adapters.packs").joinpath("general.yaml").read_bytes()
    return msgspec.yaml.decode(text, type=tuple[GeneralQuestion, ...])
