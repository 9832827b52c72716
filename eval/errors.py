"""What an evaluation cannot do.

LoraryError
├── EvaluationFailed     the server that was asked refused or did not answer
├── UnknownSuite         no suite or task has that name
├── NoBrowser            no browser is there to print a PDF
├── NotEvaluated         no evaluation of that version is recorded
└── WrongBytes           the server answered with another version than the one to be judged
"""

from adapters.errors import LoraryError


class EvaluationFailed(LoraryError):
    """The server that was asked refused or did not answer."""

    status = 502
    code = "evaluation_failed"


class UnknownSuite(LoraryError):
    """No suite or task has that name."""

    status = 404
    code = "suite_not_found"


class WrongBytes(LoraryError):
    """The server answered with another version than the one to be judged."""

    status = 409
    code = "wrong_bytes"


class NotEvaluated(LoraryError):
    """No evaluation of that version is recorded."""

    status = 404
    code = "not_evaluated"


class NoBrowser(LoraryError):
    """No browser is there to print a PDF, or it does not."""

    status = 501
    code = "no_browser"
