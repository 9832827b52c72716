"""The documentation's table of bounds: `python -m serving.request.reference`. Pure."""

from collections.abc import Mapping

from serving.request.bounds import Bound
from serving.request.constraints import SCHEMA_WORDS
from serving.request.fields import (
    ASKS_NOTHING,
    FIELDS,
    IGNORED,
    MAX_SEQUENCES,
    RESPONSES_FIELDS,
)
from serving.request.json_text import MAX_DEPTH, MAX_VALUES
from serving.request.messages import MESSAGES_FIELDS

_ROUTES: Mapping[str, Mapping[str, Bound]] = {
    "chats, completions, embeddings": FIELDS,
    "responses": RESPONSES_FIELDS,
    "messages": MESSAGES_FIELDS,
}


def table() -> str:
    """Each field with its routes and its bound, in Markdown."""
    rows = ["| field | routes | must be |", "|---|---|---|"]
    for name in sorted(set().union(*_ROUTES.values())):
        bounds = {routes: fields[name] for routes, fields in _ROUTES.items() if name in fields}
        while bounds:
            bound = next(iter(bounds.values()))
            routes = [routes for routes, other in bounds.items() if other is bound]
            rows.append(_row(name, ", ".join(routes) if len(routes) < 3 else "all", bound))
            bounds = {routes: other for routes, other in bounds.items() if other is not bound}
    ignored = ", ".join(f"`{name}`" for name in sorted(IGNORED))
    neutral = ", ".join(f"`{name}`" for name in sorted(ASKS_NOTHING))
    return "\n".join(
        (
            f"A body has at most {MAX_VALUES:,} values, and as many more as the model's context "
            f"has tokens; it nests at most {MAX_DEPTH} deep. One request asks for at most "
            f"{MAX_SEQUENCES} answers, prompts times choices.",
            "",
            *rows,
            "",
            f"*Schema* is {SCHEMA_WORDS}.",
            "",
            "A field that is null counts as absent. These change no answer and are left out: "
            f"{ignored}. So are these where they ask for nothing, such as `background: false`: "
            f"{neutral}. Every other field is refused.",
        )
    )


def _row(name: str, routes: str, bound: object) -> str:
    words = str(bound).replace(SCHEMA_WORDS, "a *schema*").replace("|", "\\|")
    return f"| `{name}` | {routes} | {words} |"


if __name__ == "__main__":
    print(table())
