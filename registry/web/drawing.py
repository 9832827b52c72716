"""Plots and graphs as SVG text: no script, readable without colour, named for screen readers."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from adapters.spectra import Spectrum
from registry.model.catalog import Version

_LAYER = re.compile(r"\.(\d+)\.")
WIDTH, HEIGHT, LEFT, BOTTOM = 720, 260, 52, 34


def layer_norms(modules: Mapping[str, Spectrum]) -> dict[int, float]:
    """The norm of each layer's update: all its modules' together. Layer -1: modules in none."""
    squares: dict[int, float] = defaultdict(float)
    for name, spectrum in modules.items():
        found = _LAYER.search(name)
        squares[int(found[1]) if found else -1] += spectrum.norm**2
    return {layer: square**0.5 for layer, square in sorted(squares.items())}


def lines(series: Mapping[str, Mapping[int, float]], x: str, y: str) -> Markup:
    """One line for each of up to two series over whole numbers."""
    points = [point for values in series.values() for point in values.items()]
    last = max((at for at, _ in points), default=1) or 1
    top = max((value for _, value in points), default=1.0) or 1.0

    def place(at: int, value: float) -> str:
        across = LEFT + (WIDTH - LEFT - 12) * max(at, 0) / last
        return f"{across:.1f},{HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 24) * value / top:.1f}"

    drawn = [_grid(top, last)]
    for index, (name, values) in enumerate(series.items()):
        path = " ".join(place(at, value) for at, value in values.items())
        drawn.append(f'<polyline class="s{index}" points="{path}"/>')
        drawn.append(
            f'<text class="s{index}" x="{LEFT + 8 + 200 * index}" y="14">'
            f"{'—' if index == 0 else '╌'} {escape(name)}</text>"
        )
    label = escape(f"{y} by {x}: " + ", ".join(series))
    drawn.append(f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 4}">{escape(x)}</text>')
    return _svg(label, WIDTH, HEIGHT, drawn)


def _grid(top: float, last: int) -> str:
    parts = []
    for step in range(5):
        height = HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 24) * step / 4
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 12}" y1="{height}" y2="{height}"/>'
        )
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{height + 4}">{top * step / 4:.2g}</text>'
        )
    for at in range(0, last + 1, max(1, last // 10)):
        x = LEFT + (WIDTH - LEFT - 12) * at / last
        parts.append(f'<text class="mid" x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}">{at}</text>')
    return "".join(parts)


def sources(version: Version) -> list[tuple[str, str]]:
    """What a version was made of, as pairs of kind and name."""
    lineage = version.lineage
    named = (
        ("base model", version.base),
        ("parent", lineage.parent),
        ("data", lineage.data),
        ("recipe", lineage.recipe),
        ("code", lineage.code),
        *(("expert review", review) for review in lineage.reviews),
    )
    return [(kind, text) for kind, text in named if text is not None]


def lineage_graph(version: Version, below: Sequence[str]) -> Markup:
    """What a version was made of, and the names of those that say they continue it."""
    above = sources(version)
    rows = max(len(above), len(below), 1)
    height = 52 * rows + 8
    middle = height / 2
    drawn = [_box(282, middle - 20, "this version", str(version.ref), "here")]
    for index, (kind, text) in enumerate(above):
        y = 8 + 52 * index + (rows - len(above)) * 26
        drawn.append(_box(2, y, kind, _short(text)))
        drawn.append(_arrow(222, y + 20, 282, middle))
    for index, child in enumerate(below[:rows]):
        y = 8 + 52 * index + (rows - len(below[:rows])) * 26
        drawn.append(_box(562, y, "continued by", child))
        drawn.append(_arrow(502, middle, 562, y + 20))
    listed = ", ".join(f"{kind} {_short(text)}" for kind, text in above)
    label = escape(f"{version.ref} was made of {listed}; {len(below)} versions continue it")
    return _svg(label, 784, height, drawn)


def _short(text: str) -> str:
    return text if len(text) <= 26 else f"{text[:12]}…{text[-8:]}"


def _box(x: float, y: float, kind: str, text: str, style: str = "box") -> str:
    return (
        f'<rect class="{style}" x="{x}" y="{y}" width="220" height="40" rx="6"/>'
        f'<text class="kind" x="{x + 10}" y="{y + 15}">{escape(kind)}</text>'
        f'<text class="name" x="{x + 10}" y="{y + 31}">{escape(_short(text))}</text>'
    )


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    bend = (x1 + x2) / 2
    return f'<path class="arrow" d="M{x1},{y1} C{bend},{y1} {bend},{y2} {x2},{y2}"/>'


def _svg(label: Markup, width: int, height: float, drawn: Sequence[str]) -> Markup:
    return Markup(  # noqa: S704 - every text in it was escaped where it was put in
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {width} {height:.0f}" '
        f'class="drawing">{"".join(drawn)}</svg>'
    )
