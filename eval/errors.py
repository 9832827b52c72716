"""What an evaluation cannot do.

LoraryError
├── EngineUnknown        the server does not say what it runs, or another engine answered
├── EvaluationFailed     the server that was asked refused or did not answer
│   └── NotServed        it does not serve the model
├── UnpaidLook           a look at items on which the domain's policy counts looks
├── UnknownSuite         no suite or task has that name
├── NotExported          a task that lm-evaluation-harness cannot score
├── TaskDiffers          a pushed task asks something else here than the policy names
├── NoBrowser            no browser is there to print a PDF
├── NotEvaluated         no evaluation of that version is recorded
└── WrongBytes           the server answered with another version than the one to be judged
"""

from adapters.errors import LoraryError


class EvaluationFailed(LoraryError):
    """The server that was asked refused or did not answer."""

    status = 502
    code = "evaluation_failed"


class NotServed(EvaluationFailed):
    """The server does not serve the model that was asked for."""

    status = 404
    code = "not_served"


class EngineUnknown(LoraryError):
    """The server does not say what it runs, or answers came from another engine than that."""

    status = 409
    code = "engine_unknown"


class UnpaidLook(LoraryError):
    """A look, not recorded, at items on which the domain's policy counts looks."""

    status = 409
    code = "unpaid_look"


class UnknownSuite(LoraryError):
    """No suite or task has that name."""

    status = 404
    code = "suite_not_found"


class NotExported(LoraryError):
    """A task is scored in a way that lm-evaluation-harness does not have."""

    status = 422
    code = "not_exported"


class TaskDiffers(LoraryError):
    """A task's files make other questions here than those that the domain's policy names."""

    status = 409
    code = "task_differs"


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
