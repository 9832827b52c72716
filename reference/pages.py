"""Every page of the reference by its file's name."""

from collections.abc import Callable, Mapping

from reference import (
    command_line,
    configuration,
    errors,
    events,
    http_api,
    metrics,
    policy,
    roles,
)

PAGES: Mapping[str, Callable[[], str]] = {
    "command-line.md": command_line.page,
    "configuration.md": configuration.page,
    "registry-api.md": http_api.registry_page,
    "serving-api.md": http_api.serving_page,
    "roles.md": roles.page,
    "policy.md": policy.page,
    "metrics.md": metrics.page,
    "errors.md": errors.page,
    "events.md": events.page,
}
NOTE = "<!-- Made by `make reference` from the code. Do not edit. -->\n"
"""How such a page begins."""


def made() -> dict[str, str]:
    """All pages, each with a note that it is made."""
    return {name: NOTE + page().rstrip() + "\n" for name, page in PAGES.items()}
