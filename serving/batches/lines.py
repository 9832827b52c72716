"""The lines of a batch's input and output. Pure.

Each input line is an object {"custom_id", "method", "url", "body"}; each output line reports what
answered it, or why nothing did. Source: OpenAI API reference, "The request input object" and "The
request output object" of batches.
"""

import re
from typing import Any

import msgspec

MAX_LINES = 50_000
MAX_CUSTOM_ID = 512
MAX_PROBLEMS = 100
"""Problems of one input that are reported."""


class Line(msgspec.Struct, frozen=True):
    """One request."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class Asked(msgspec.Struct, frozen=True):
    """What of a line's body decides when and whether it runs; the gateway checks the rest."""

    model: Any = None
    stream: Any = None


class Problem(msgspec.Struct, frozen=True):
    """Why an input cannot be run, as OpenAI's API shows it."""

    code: str
    message: str
    line: int | None = None
    """The line, from 1."""
    param: str | None = None


_LINE = msgspec.json.Decoder(Line)
_ASKED = msgspec.json.Decoder(Asked)
_BLANK = re.compile(rb"\s{1,65536}")


class Input:
    """The lines of an input file, decoded one by one as they are asked for."""

    def __init__(self, data: bytes) -> None:
        """data: the whole file; blank lines do not count, and what follows the first line too many
        is not looked at."""
        self._data = data
        self._spans: list[tuple[int, int, int]] = []
        start = 3 if data.startswith(b"\xef\xbb\xbf") else 0
        number = 1
        while start < len(data) and len(self._spans) <= MAX_LINES:
            if blank := _BLANK.match(data, start):
                number += data.count(b"\n", start, blank.end())
                start = blank.end()
                continue
            end = data.find(b"\n", start)
            end = len(data) if end < 0 else end
            self._spans.append((start, end, number))
            start = end

    def __len__(self) -> int:
        return len(self._spans)

    def line(self, index: int) -> Line:
        """The line; raises `msgspec.MsgspecError` or `ValueError` if it is none."""
        start, end, _ = self._spans[index]
        return _LINE.decode(self._data[start:end])

    def number(self, index: int) -> int:
        """Where the line stands in the file, from 1."""
        return self._spans[index][2]

    def size(self, index: int) -> int:
        """Bytes of the line."""
        start, end, _ = self._spans[index]
        return end - start

    def model(self, index: int) -> str:
        """The model that the line names, or "" where it names none."""
        model = asked(self.line(index)).model
        return model if isinstance(model, str) else ""


def asked(line: Line) -> Asked:
    """What the body asks for; a body that is no object asks for nothing."""
    try:
        return _ASKED.decode(line.body)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return Asked()


def problems(given: Input, endpoint: str, most_bytes: int) -> list[Problem]:
    """Why the input cannot be run for `endpoint`; empty if it can.

    most_bytes: of one line. What is wrong inside a line's body is reported by its answer instead.
    """
    if not len(given):
        return [Problem("empty_file", "The input file has no lines. Send JSON Lines.")]
    if len(given) > MAX_LINES:
        message = f"The input has more than {MAX_LINES:,} lines. Send several batches."
        return [Problem("too_many_lines", message)]
    found: list[Problem] = []
    first: dict[str, int] = {}
    for index in range(len(given)):
        problem = _problem(given, index, endpoint, most_bytes, first)
        if problem is not None:
            found.append(problem)
        if len(found) >= MAX_PROBLEMS:
            break
    return found


def _problem(
    given: Input, index: int, endpoint: str, most_bytes: int, first: dict[str, int]
) -> Problem | None:
    number = given.number(index)
    if given.size(index) > most_bytes:
        return Problem("line_too_long", f"A line has at most {most_bytes:,} bytes.", number)
    try:
        line = given.line(index)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        message = 'A line is an object {"custom_id", "method", "url", "body"}, in UTF-8.'
        return Problem("invalid_json_line", message, number)
    if not 0 < len(line.custom_id) <= MAX_CUSTOM_ID:
        message = f"`custom_id` has 1 to {MAX_CUSTOM_ID} characters."
        return Problem("invalid_custom_id", message, number, "custom_id")
    if line.method != "POST":
        return Problem("invalid_method", '`method` is "POST".', number, "method")
    if line.url != endpoint:
        return Problem("mismatched_url", f"`url` is the batch's: {endpoint}.", number, "url")
    if not bytes(line.body).lstrip().startswith(b"{"):
        return Problem("invalid_body", "`body` is an object.", number, "body")
    other = first.setdefault(line.custom_id, number)
    if other != number:
        message = f"`custom_id` stands in line {other}, too."
        return Problem("duplicate_custom_id", message, number, "custom_id")
    return None


def answered(batch_id: str, index: int, custom_id: str, status: int, body: bytes) -> bytes:
    """The output line of a request that got an answer or a refusal.

    body: a JSON object; anything else is shown as a text.
    """
    try:
        answer_id = _WITH_ID.decode(body).id
    except (ValueError, msgspec.MsgspecError):
        answer_id, body = None, msgspec.json.encode(body.decode(errors="replace"))
    response = {
        "status_code": status,
        "request_id": answer_id if isinstance(answer_id, str) else "",
        "body": msgspec.Raw(body.translate(_ONE_LINE)),
    }
    return _row(batch_id, index, custom_id, response, None)


def unanswered(batch_id: str, index: int, custom_id: str, code: str, message: str) -> bytes:
    """The output line of a request that was never answered."""
    return _row(batch_id, index, custom_id, None, {"code": code, "message": message})


class _WithId(msgspec.Struct, frozen=True):
    id: Any = None


_WITH_ID = msgspec.json.Decoder(_WithId)
_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")
"""JSON has line ends between its tokens only."""


def _row(batch_id: str, index: int, custom_id: str, response: Any, error: Any) -> bytes:
    row = {
        "id": f"batch_req_{batch_id.removeprefix('batch_')}_{index}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
    return msgspec.json.encode(row)
