"""The cross-domain matrix for people and for scripts: a table, records, a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.matrix import Cell
from eval.statistics import Proportion

BASE_ROW = "base model"
TFIDF_ROW = "TF-IDF + logistic regression"


def as_document(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """One flat record per cell; `right` is in the order of the domain's held-out items."""
    return [
        {
            "model": cell.model,
            "domain": cell.domain,
            "correct": cell.score.successes,
            "n": cell.score.n,
            "accuracy": cell.score.rate,
            "low": cell.score.low,
            "high": cell.score.high,
            "right": cell.right,
        }
        for cell in cells
    ]


def by_row(cells: Sequence[Cell], base: str) -> dict[str, dict[str, Proportion]]:
    """Scores by row title, then by domain."""
    rows: dict[str, dict[str, Proportion]] = {}
    for cell in cells:
        title = BASE_ROW if cell.model == base else cell.model
        rows.setdefault(title, {})[cell.domain] = cell.score
    return rows


def show(cells: Sequence[Cell], base: str) -> None:
    """Print the matrix as a table."""
    from rich.console import Console
    from rich.table import Table

    from registry.cli.output import escaped

    table = Table(title="Accuracy on held-out items (95 % Wilson interval)")
    table.add_column("model")
    for domain, n in _items(cells).items():
        table.add_column(f"{domain} (n = {n})", justify="right")
    for title, scores in by_row(cells, base).items():
        best = [f"[bold]{s}[/bold]" if title == d else str(s) for d, s in scores.items()]
        table.add_row(escaped(title), *best)
    Console().print(table)


def draw(cells: Sequence[Cell], base: str, path: Path) -> None:
    """Write the matrix as a picture: one group of bars per domain, one bar per model."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows, domains = by_row(cells, base), _items(cells)
    width = 0.8 / len(rows)
    figure, axes = pyplot.subplots(figsize=(9, 4.5), layout="constrained")
    for index, (title, scores) in enumerate(rows.items()):
        rates = [100 * scores[d].rate for d in domains]
        below = [100 * (scores[d].rate - scores[d].low) for d in domains]
        above = [100 * (scores[d].high - scores[d].rate) for d in domains]
        at = [i + (index - (len(rows) - 1) / 2) * width for i in range(len(domains))]
        colour = "#9aa0a6" if title == BASE_ROW else "#d0d4d9" if title == TFIDF_ROW else None
        axes.bar(at, rates, width * 0.9, yerr=(below, above), label=title, color=colour, capsize=2)
    axes.set_xticks(range(len(domains)), [f"{d}\n(n = {n})" for d, n in domains.items()])
    axes.set_ylabel("accuracy on held-out items, %")
    axes.set_ylim(0, 100)
    axes.set_title("Every specialist on every domain, with 95 % Wilson intervals")
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _items(cells: Sequence[Cell]) -> dict[str, int]:
    """Each domain and how many of its items were asked."""
    return {cell.domain: len(cell.right) for cell in cells}
