"""The documentation's table of bounds: `python -m serving.request.reference`. Pure."""

from collections.abc import Iterator, Mapping

from serving.request.bounds import Bound
from serving.request.classification import CLASSIFY_FIELDS, RERANK_FIELDS, SCORE_FIELDS
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
_HEADS: Mapping[str, Mapping[str, Bound]] = {
    "classify": CLASSIFY_FIELDS,
    "score": SCORE_FIELDS,
    "rerank": RERANK_FIELDS,
}


def table() -> str:
    """Each field with its routes and its bound, in Markdown."""
    ignored = ", ".join(f"`{name}`" for name in sorted(IGNORED))
    neutral = ", ".join(f"`{name}`" for name in sorted(ASKS_NOTHING))
    return "\n".join(
        (
            f"A body has at most {MAX_VALUES:,} values, and as many more as the model's context "
            f"has tokens; it nests at most {MAX_DEPTH} deep. One request asks for at most "
            f"{MAX_SEQUENCES} answers, prompts times choices.",
            "",
            *_rows(_ROUTES),
            "",
            f"*Schema* is {SCHEMA_WORDS}.",
            "",
            "A field that is null counts as absent. These change no answer and are left out: "
            f"{ignored}. So are these where they ask for nothing, such as `background: false`: "
            f"{neutral}. Every other field is refused.",
            "",
            "On a server that classifies:",
            "",
            *_rows(_HEADS),
        )
    )


def _rows(by_routes: Mapping[str, Mapping[str, Bound]]) -> Iterator[str]:
    """The lines of one table."""
    yield from ("| field | routes | must be |", "|---|---|---|")
    for name in sorted(set().union(*by_routes.values())):
        bounds = {routes: fields[name] for routes, fields in by_routes.items() if name in fields}
        while bounds:
            bound = next(iter(bounds.values()))
            named = [routes for routes, other in bounds.items() if other is bound]
            yield _row(name, ", ".join(named) if len(named) < len(by_routes) else "all", bound)
            bounds = {routes: other for routes, other in bounds.items() if other is not bound}


def _row(name: str, routes: str, bound: object) -> str:
    words = str(bound).replace(SCHEMA_WORDS, "a *schema*").replace("|", "\\|")
    return f"| `{name}` | {routes} | {words} |"


if __name__ == "__main__":
    print(table())
