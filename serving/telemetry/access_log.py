"""One line of JSON for each request: who asked which version, how it went, what it cost.

Never a prompt, an answer or a secret. Lines go to standard error, where vLLM's own log goes.
"""

import logging
import sys
import traceback
from typing import Any

import msgspec

from registry.times import utc_now

logger = logging.getLogger("lorary.serving")


def install() -> None:
    """Let lines through, and only as they are."""
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    # These write the message of any error, which may quote a request.
    logging.getLogger("vllm.entrypoints.anthropic").setLevel(logging.CRITICAL)


def write(event: str, **fields: Any) -> None:
    """One line with the time in UTC; fields that are None are left out."""
    record = {
        "time": utc_now(),
        "event": event,
        **{name: value for name, value in fields.items() if value is not None},
    }
    logger.info(msgspec.json.encode(record).decode())


def failed(what: str, error: BaseException) -> None:
    """One line for an unexpected error: its kind and the places it came through.

    Not its message, in which a library may quote a prompt.
    """
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename}:{frame.lineno}" for frame in frames[-5:]]
    write("failed", what=what, error=type(error).__name__, at=places)
