"""The same questions answered by the base, the fine-tuned and the preference-trained models.

    python -m benchmarks.panels --domains medical --third dpo --n 60 --page panels.html

Trains what is not there yet by the shipped recipes (DOMAIN, then DOMAIN-dpo; for ppo first
DOMAIN-reward), answers held-out questions greedily on this machine, writes a page and a picture.
Answers are kept under --out, one file a model; what is there is not asked again. The base gets the
permitted answers listed in its prompt; the others do not need them. Preferences and rewards of the
shipped recipes come from verifiable answers, not from people.
"""

import argparse
import html
import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path

from adapters import recipes
from adapters.home import default_model, home
from adapters.packs import PACKS, DomainPack, Item
from adapters.small_model import build
from adapters.training.job import Record
from adapters.training.quiet import be_quiet
from adapters.training.run import existing, train
from eval.statistics import Proportion, confident_errors, discordance, mcnemar, wilson

SURE = 0.9


@dataclass(frozen=True, slots=True)
class Panel:
    """One model's answers to one domain's questions."""

    title: str
    texts: list[str]
    confidences: list[float]
    right: list[bool]
    last: Record

    @property
    def score(self) -> Proportion:
        """Share of right answers."""
        return wilson(sum(self.right), len(self.right))

    @property
    def said(self) -> str:
        """Accuracy and confident errors, for a heading."""
        errors = confident_errors(self.confidences, self.right, SURE)
        wrong = "none so sure" if errors is None else f"{errors.successes} of {errors.n}"
        return f"{self.score}; wrong though above {SURE}: {wrong}"


def main() -> None:
    """Make the panels of each domain and write page and picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--domains", nargs="+", choices=list(PACKS), default=list(PACKS))
    parser.add_argument("--third", nargs="+", choices=["dpo", "ppo"], default=["dpo"])
    parser.add_argument("--n", type=int, default=60, help="held-out questions a domain")
    parser.add_argument("--shown", type=int, default=12, help="questions printed in full")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no model after these")
    parser.add_argument("--set", nargs="*", default=[], help="change every recipe: KEY=VALUE")
    parser.add_argument("--out", type=Path, default=home() / "benchmarks" / "panels")
    parser.add_argument("--page", type=Path, default=Path("panels.html"))
    parser.add_argument("--plot", type=Path, help="write the picture to this file")
    options = parser.parse_args()
    be_quiet()
    build(default_model())
    until = time.monotonic() + 60 * options.minutes
    shown: dict[str, list[Panel]] = {}
    for domain in options.domains:
        pack = PACKS[domain]
        items = pack.load().held_out[: options.n]
        stages = [("base", None), ("sft", domain)]
        stages += [(third, f"{domain}-{third}") for third in options.third]
        for title, recipe in stages:
            if time.monotonic() > until:
                print(f"not run, for lack of time: {domain} {title}")
                continue
            panel = panel_of(options, pack, items, title, recipe)
            shown.setdefault(domain, []).append(panel)
            print(f"{domain:10} {title:5} {panel.said}{_divergence(panel)}", flush=True)
        compare(shown.get(domain, []))
    options.page.write_text(page(shown, options.n, options.shown))
    print(f"wrote {options.page}")
    if options.plot:
        draw(shown, options.plot)


def panel_of(
    options: argparse.Namespace,
    pack: DomainPack,
    items: tuple[Item, ...],
    title: str,
    recipe: str | None,
) -> Panel:
    """Train the model unless it is there, and ask it unless its answers are."""
    from adapters.training.answering import Answer, answers, load, right

    trained = None if recipe is None else make(recipe, options)
    kept = options.out / f"{pack.domain}-{title}-{len(items)}.json"
    plan = "base"
    history: list[Record] = []
    if trained is not None and (provenance := existing(trained)) is not None:
        plan, history = provenance.plan_digest, provenance.history
    if kept.exists() and (found := json.loads(kept.read_text()))["plan"] == plan:
        given = [Answer(*answer) for answer in found["answers"]]
    else:
        asking = pack.question_with_labels if recipe is None else pack.question
        base = default_model()
        given = answers(load(base, trained), base, [asking(item) for item in items])
        kept.parent.mkdir(parents=True, exist_ok=True)
        pairs = [[a.text, a.confidence] for a in given]
        kept.write_text(json.dumps({"plan": plan, "answers": pairs}))
    return Panel(
        title,
        [answer.text for answer in given],
        [answer.confidence for answer in given],
        right(items, given),
        history[-1] if history else {},
    )


def make(name: str, options: argparse.Namespace) -> Path:
    """What a shipped recipe makes, and before it what that starts from."""
    recipe = recipes.load(name)
    if recipe.start:
        make(recipe.domain, options)
    if recipe.stage == "ppo":
        make(f"{recipe.domain}-reward", options)
    out = home() / "adapters" / recipe.adapter
    changed = recipe.changed(options.set if recipe.stage != "sft" else [])
    train(changed, default_model(), out, reuse=True, progress=lambda *_: None)
    return out


def compare(panels: list[Panel]) -> None:
    """Each model beside the one before it, on the same questions."""
    for before, after in itertools.pairwise(panels[1:]):
        pair = discordance(after.right, before.right)
        print(
            f"           {after.title} beside {before.title}: {pair.gained} won, {pair.lost} lost, "
            f"the others alike; p = {mcnemar(pair):.2f}"
        )


def _divergence(panel: Panel) -> str:
    if "kl" not in panel.last:
        return ""
    return f"; reward {panel.last['reward']:.2f}, KL {panel.last['kl']:.2f} nats an answer"


def page(shown: dict[str, list[Panel]], n: int, most: int) -> str:
    """A page that stands alone: per domain a heading, and a row for each question."""
    parts = []
    for domain, panels in shown.items():
        pack = PACKS[domain]
        items = pack.load().held_out[:n]
        heads = "".join(
            f"<th>{html.escape(p.title)}<small>{html.escape(p.said)}{_divergence(p)}</small></th>"
            for p in panels
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


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Base, fine-tuned, preference-trained</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; color: #202124 }}
table {{ border-collapse: collapse; width: 100%; margin-bottom: 2rem; table-layout: fixed }}
th, td {{ border-bottom: 1px solid #dadce0; padding: .5rem; text-align: left; vertical-align: top }}
small {{ display: block; color: #5f6368; font-weight: normal }}
.right {{ background: #e6f4ea }} .right::before {{ content: "\\2713 "; color: #137333 }}
.wrong {{ background: #fce8e6 }} .wrong::before {{ content: "\\2717 "; color: #c5221f }}
</style></head><body>
<h1>The same questions, three stages of training</h1>
<p>{n} held-out questions a domain, answered greedily; below each answer the probability that the
model gives the whole of it. The base has the permitted answers listed in its prompt. Preferences
and rewards come from verifiable answers, not from people. The base is SmolLM2-135M, quantised to
4 bits.</p>
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
        len(shown), 1, figsize=(13, 3.4 * len(shown)), layout="constrained", squeeze=False
    )
    for (domain, models), (axes,) in zip(shown.items(), panels, strict=True):
        items = PACKS[domain].load().held_out[:rows]
        cells = [
            [_cut(item.text), *(_cut(m.texts[number]) for m in models)]
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


def _cut(text: str, most: int = 42) -> str:
    text = " ".join(text.split()).replace("$", r"\$")
    return text if len(text) <= most else text[: most - 3] + "..."


if __name__ == "__main__":
    main()
