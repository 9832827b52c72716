"""The root of Lorary's errors, and those about an adapter itself.

    LoraryError
    ├── InvalidName          a reference, domain, adapter or alias that is not written as one
    ├── InvalidAdapter       files that are no adapter this platform can serve
    ├── InvalidYaml          (adapters.plain_yaml) text that is not YAML within the bounds
    └── (registry.errors, serving.errors)

Each error class has one HTTP status, one code (its metric label, too), and a message whose last
sentence says what to do.
"""

from typing import ClassVar


class LoraryError(Exception):
    """Anything Lorary refuses or fails to do, with a message that a person can act on."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    param: str | None = None

    def __init__(self, message: str = "", *, cause: str = "") -> None:
        """cause: what operators must know and callers must not, such as where the store is."""
        super().__init__(message)
        self.cause = cause

    @property
    def message(self) -> str:
        """The sentence for the person who caused or must mend it.

        It may quote what was sent; lone surrogates, which UTF-8 cannot encode, are replaced.
        """
        return str(self).encode(errors="replace").decode()

    @property
    def detail(self) -> str:
        """The message with its cause: for operators and logs, not for callers."""
        return f"{self.message} Cause: {self.cause}" if self.cause else self.message


class InvalidName(LoraryError):
    """A name that does not follow the grammar of references."""

    status = 400
    code = "invalid_name"
    param = "model"


class InvalidAdapter(LoraryError):
    """Files that cannot be read as an adapter."""

    status = 422
    code = "invalid_adapter"
