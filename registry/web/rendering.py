"""Templates, and hostile text on pages: everything is escaped, nothing loads from elsewhere."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.rules_inline import StateInline, image, link
from markdown_it.token import Token
from markupsafe import Markup

from registry.model.evidence import Confident, Tally, interval

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

# "js-default" takes no HTML and no javascript: or data: links; an image would be a request
# elsewhere, so its description stands in its place.
_MARKDOWN = MarkdownIt("js-default", {"linkify": False, "maxNesting": 20})

_MAX_CARD = 64 << 10
"""Characters of a card that are rendered."""
_MAX_BRACKETS = 10_000
"""Opening brackets tried as the start of a link, nested ones again for each that holds them: for
one without an end the parser tries those that follow, as deep as it may nest."""


def _link(state: StateInline, silent: bool) -> bool:
    """The rule for links; after `_MAX_BRACKETS`, brackets are text."""
    state.env["brackets"] = state.env.get("brackets", 0) + 1
    return state.env["brackets"] <= _MAX_BRACKETS and link(state, silent)


def _image(state: StateInline, silent: bool) -> bool:
    """The rule for images, which counts with that for links."""
    state.env["brackets"] = state.env.get("brackets", 0) + 1
    return state.env["brackets"] <= _MAX_BRACKETS and image(state, silent)


def _description(_: Any, tokens: Sequence[Token], index: int, *_others: Any) -> str:
    """What stands for an image."""
    return escapeHtml(tokens[index].content)


_MARKDOWN.add_render_rule("image", _description)
_MARKDOWN.inline.ruler.at("link", _link)
_MARKDOWN.inline.ruler.at("image", _image)


def _bytes(size: int) -> str:
    amount, unit = float(size), "bytes"
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:
            break
        if unit != "GB":
            amount /= 1000
    return f"{amount:.3g} {unit}"


def _card(text: str) -> Markup:
    """A model card as HTML, its YAML header left out, and cut where it is too long to render."""
    if text.startswith("---\n"):
        _, _, text = text[4:].partition("\n---")
    text = _without_comments(text)
    if len(text) > _MAX_CARD:
        text = f"{text[:_MAX_CARD]}\n\n…\n\n*The rest of this card is in its file, README.md.*"
    return _rendered(text)


def _without_comments(text: str) -> str:
    """A card without HTML comments, which templates of cards are full of."""
    kept, place = list[str](), 0
    while (start := text.find("<!--", place)) >= 0 and (end := text.find("-->", start + 4)) >= 0:
        kept.append(text[place:start])
        place = end + 3
    return "".join((*kept, text[place:]))


@lru_cache(maxsize=64)
def _rendered(text: str) -> Markup:
    return Markup(_MARKDOWN.render(text))  # noqa: S704 - the renderer escapes what it is given


def _interval(count: Tally | Confident) -> str:
    """The exact 95 % interval of a share, in percent."""
    low, high = interval(count)
    return f"{100 * low:.1f} to {100 * high:.1f} %"


_ENVIRONMENT = Environment(
    loader=PackageLoader("registry.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters.update(bytes=_bytes, card=_card, interval=_interval)


def page(template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page; `viewer` among the values is who looks, or None."""
    text = _ENVIRONMENT.get_template(template).render(**values)
    # A form may have brought lone surrogates, which UTF-8 cannot encode.
    return HTMLResponse(text.encode(errors="replace"), status, HEADERS)
