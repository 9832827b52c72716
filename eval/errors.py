"""What an evaluation cannot do.

LoraryError
└── EvaluationFailed     the server that was asked refused or did not answer
"""

from adapters.errors import LoraryError


class EvaluationFailed(LoraryError):
    """The server that was asked refused or did not answer."""

    status = 502
    code = "evaluation_failed"
