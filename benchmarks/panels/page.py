"""The panels as a page that stands alone, and as a picture."""

import html
from pathlib import Path

from adapters.packs import PACKS
from benchmarks.panels.panel import Panel


def page(shown: dict[str, list[Panel]], n: int, most: int) -> str:
    """A page that stands alone: per domain a heading, and a row for each question."""
    parts = []
    for domain, panels in shown.items():
        pack = PACKS[domain]
        items = pack.load().held_out[:n]
        heads = "".join(
            f"<th>{html.escape(p.title)}<small>{html.escape(_said(p))}</small></th>" for p in panels
        )
        rows = ""
        for number, item in enumerate(items[:most]):
            cells = "".join(
                f'<td class="{"right" if p.right[number] else "wrong"}">'
                f"{html.escape(p.texts[number][:120])}<small>{p.confidences[number]:.2f}</small></td>"
                for p in panels
            )
            rows += (
                f"<tr><td>{html.escape(item.text)}<small>{html.escape(item.label)}</small></td>"
                f"{cells}</tr>\n"
            )
        parts.append(
            f"<h2>{domain}: {html.escape(pack.instruction)}</h2><table><thead><tr>"
            f"<th>question<small>reference answer</small></th>{heads}</tr></thead>"
            f"<tbody>\n{rows}</tbody></table>"
        )
    return _PAGE.format(n=n, body="\n".join(parts))


def _said(panel: Panel) -> str:
    return panel.said if panel.moved is None else f"{panel.said}\n{panel.moved.text()}"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Base, fine-tuned, preference-trained</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; color: #202124 }}
table {{ border-collapse: collapse; width: 100%; margin-bottom: 2rem; table-layout: fixed }}
th, td {{ border-bottom: 1px solid #dadce0; padding: .5rem; text-align: left; vertical-align: top }}
small {{ display: block; color: #5f6368; font-weight: normal; white-space: pre-line }}
.right {{ background: #e6f4ea }} .right::before {{ content: "\\2713 "; color: #137333 }}
.wrong {{ background: #fce8e6 }} .wrong::before {{ content: "\\2717 "; color: #c5221f }}
</style></head><body>
<h1>The same questions, three stages of training</h1>
<p>Up to {n} held-out questions a domain, answered greedily; below each answer the probability that
the model gives the whole of it. The base has the permitted answers listed in its prompt.
Preferences and rewards come from verifiable answers, not from people. The base is SmolLM2-135M,
quantised to 4 bits.</p>
{body}
</body></html>
"""


def draw(shown: dict[str, list[Panel]], path: Path) -> None:
    """The page as a picture: the first questions of each domain, and the accuracy of each model."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = 5
    figure, panels = pyplot.subplots(
        len(shown), 1, figsize=(13, 2.5 * len(shown)), layout="constrained", squeeze=False
    )
    for (domain, models), (axes,) in zip(shown.items(), panels, strict=True):
        items = PACKS[domain].load().held_out[:rows]
        most = 160 // (1 + len(models))
        cells = [
            [_cut(item.text, most), *(_cut(m.texts[number], most) for m in models)]
            for number, item in enumerate(items)
        ]
        heads = [domain, *(f"{m.title}: {m.score}" for m in models)]
        axes.axis("off")
        table = axes.table(cells, colLabels=heads, loc="center", cellLoc="left")
        table.auto_set_font_size(False)
        table.set_fontsize(9)
        table.scale(1, 1.7)
        for (row, column), cell in table.get_celld().items():
            cell.set_edgecolor("#dadce0")
            if row == 0:
                cell.set_text_props(weight="bold")
            elif column > 0:
                right = models[column - 1].right[row - 1]
                cell.set_facecolor("#e6f4ea" if right else "#fce8e6")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _cut(text: str, most: int) -> str:
    text = " ".join(text.split()).replace("$", r"\$")
    return text if len(text) <= most else text[: most - 3] + "..."
