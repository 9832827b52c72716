"""docs/reference/errors.md: every error code, its HTTP status and meaning."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

from adapters.errors import LoraryError
from reference.markdown import code, first_paragraph, table

ROOT = Path(__file__).resolve().parents[1]
PARTS = {
    "adapters": "Adapters, tasks and training",
    "registry": "Registry",
    "serving": "Server",
    "eval": "Evaluation",
}
"""What the errors of each package are about."""
_DEFINES = re.compile(r'^    code(?:: ClassVar\[str\])? = "\w+"$', re.MULTILINE)


def kinds(root: type[LoraryError] = LoraryError) -> Iterator[type[LoraryError]]:
    """All errors with a code of their own that are defined in what was imported."""
    for kind in root.__subclasses__():
        if "code" in vars(kind):
            yield kind
        yield from kinds(kind)


def every() -> dict[str, list[type[LoraryError]]]:
    """The errors by part; every module that defines some is imported."""
    for package in PARTS:
        for file in sorted((ROOT / package).rglob("*.py")):
            if _DEFINES.search(file.read_text()):
                importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    found: dict[str, list[type[LoraryError]]] = {part: [] for part in PARTS.values()}
    for kind in dict.fromkeys(kinds()):
        if part := PARTS.get(kind.__module__.partition(".")[0]):
            found[part].append(kind)
    return found


def page() -> str:
    """The page."""
    parts = "\n".join(
        f"## {part}\n\n"
        + table(
            ("code", "status", "meaning"),
            [(code(k.code), k.status, first_paragraph(k)) for k in sorted(listed, key=_by_code)],
        )
        for part, listed in every().items()
    )
    return f"""# Errors

An error's body is OpenAI's: `{{"error": {{"message", "type", "param", "code"}}}}`; on
`/v1/messages` it is Anthropic's. The message's last sentence says what to do. The code is also the
label of `lorary_refusals_total` and `lorary_registry_refusals_total`. Clients may retry 429 and 503
after `Retry-After` seconds. 504 `outcome_unknown` means that a change may have been made: read
before you retry. The [exit codes](command-line.md#exit-codes) of the command line follow from the
status.

{parts}"""


def _by_code(kind: type[LoraryError]) -> tuple[str, str]:
    return kind.code, kind.__name__
