"""The same questions answered by the base, the fine-tuned and the preference-trained models.

    python -m benchmarks.panels --domains medical --third dpo ppo --n 60 --page panels.html
    python -m benchmarks.panels --set sft.steps=100 --n 200        # any key of a stage's recipe

Trains what is not there yet by the shipped recipes (DOMAIN-sft, DOMAIN-reward, then DOMAIN-dpo and
DOMAIN-ppo), asks held-out questions on this machine, writes a page and a picture. What was trained
lies below LORARY_HOME, answers under --out, one file a model; what is there is not made again. The
base gets the permitted answers listed in its prompt; the others do not need them. Preferences and
rewards of the shipped recipes come from verifiable answers, not from people.

Beside the greedy answers it tells for each preference-trained model what it moved: the expected
reward, the win rate and the distance from the model it was trained from.
"""

import argparse
import itertools
import json
import operator
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from adapters import recipes
from adapters.home import default_model, home
from adapters.packs import PACKS, DomainPack
from adapters.recipe import AnyRecipe
from adapters.small_model import build
from adapters.training.answering import Answer, answers, load, right
from adapters.training.data import part
from adapters.training.progress import progress_bar
from adapters.training.provenance import existing
from adapters.training.quiet import be_quiet
from adapters.training.run import train
from benchmarks.panels import page
from benchmarks.panels.moved import Moved, moved
from benchmarks.panels.panel import Panel
from eval.baseline import classify
from eval.statistics import discordance, mcnemar, wilson

STAGES = ("dpo", "ppo")
Kept = TypeVar("Kept")


def main() -> None:
    """Make the panels of each domain and write page and picture."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.panels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--domains", nargs="+", choices=list(PACKS), default=list(PACKS))
    parser.add_argument("--third", nargs="+", choices=STAGES, default=["dpo"])
    parser.add_argument("--n", type=int, default=60, help="held-out questions a domain")
    parser.add_argument("--shown", type=int, default=12, help="questions printed in full")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no model after these")
    parser.add_argument("--set", nargs="*", default=[], help="change recipes: STAGE.KEY=VALUE")
    parser.add_argument("--out", type=Path, default=home() / "benchmarks" / "panels")
    parser.add_argument("--page", type=Path, default=Path("panels.html"))
    parser.add_argument("--plot", type=Path, help="write the picture to this file")
    options = parser.parse_args()
    be_quiet()
    build(default_model())
    until = time.monotonic() + 60 * options.minutes
    shown: dict[str, list[Panel]] = {domain: [] for domain in options.domains}
    asked: dict[str, Asked] = {}
    for domain in options.domains:
        asked[domain] = Asked(PACKS[domain], options.n, options.out, options.set)
        asked[domain].baselines()
    for title, domain in itertools.product(("base", "sft", *options.third), options.domains):
        if time.monotonic() > until:
            print(f"not run, for lack of time: {domain} {title}")
            continue
        panel = asked[domain].panel(title)
        shown[domain].append(panel)
        print(f"{domain:10} {title:5} {panel.said}", flush=True)
        if panel.moved:
            print(panel.moved.text(), flush=True)
            compare(panel, shown[domain])
    options.page.write_text(page.page(shown, options.n, options.shown))
    print(f"wrote {options.page}")
    if options.plot:
        page.draw(shown, options.plot)


class Asked:
    """One domain's models and their answers, made unless they are there."""

    def __init__(self, pack: DomainPack, n: int, out: Path, changes: list[str]) -> None:
        self._pack, self._items = pack, pack.load().held_out[:n]
        self._out, self._changes = out, changes

    def baselines(self) -> None:
        """Tell what a text classifier makes of fine-tuning's examples, and of all."""
        train = self._pack.load().train
        _, among = part(self._recipe("sft").data[0])
        for items in ([item for item in train if among(item.unit)], train):
            labels = classify(items, self._items)
            same = sum(map(operator.eq, labels, (item.label for item in self._items)))
            score = wilson(same, len(self._items))
            print(
                f"{self._pack.domain:10} TF-IDF + logistic regression, {len(items)} examples: "
                f"{score}",
                flush=True,
            )

    def panel(self, title: str) -> Panel:
        """Train `title`'s model and what it starts from, and ask it."""
        trained = None if title == "base" else self._make(title)
        given = self._kept(
            f"{title}-{len(self._items)}", list[Answer], [trained], lambda: self._ask(trained)
        )
        change = None
        if title in STAGES and trained is not None:
            made = [self._make("sft"), trained, self._make("reward")]
            change = self._kept(
                f"{title}-moved-{len(self._items)}", Moved, made, lambda: self._moved(*made)
            )
        provenance = None if trained is None else existing(trained)
        return Panel(
            title,
            [answer.text for answer in given],
            [answer.confidence for answer in given],
            right(self._items, given),
            [item.unit for item in self._items],
            None if provenance is None else provenance.forgetting,
            change,
        )

    def _make(self, stage: str) -> Path:
        """What a shipped recipe makes, and before it what that starts from."""
        recipe = self._recipe(stage)
        if recipe.start:
            self._make("sft")
        if stage == "ppo":
            self._make("reward")
        out = home() / "adapters" / recipe.adapter
        with progress_bar(recipe, quiet=not sys.stderr.isatty()) as progress:
            train(recipe, default_model(), out, reuse=True, progress=progress)
        return out

    def _recipe(self, stage: str) -> AnyRecipe:
        recipe = recipes.load(f"{self._pack.domain}-{stage}")
        changes = [change.split(".", 1) for change in self._changes]
        return recipe.changed([pair for to, pair in changes if to == stage])

    def _ask(self, trained: Path | None) -> list[Answer]:
        asking = self._pack.question if trained else self._pack.question_with_labels
        prompts, base = [asking(item) for item in self._items], default_model()
        return answers(load(base, trained), base, prompts, answered=self._answered)

    def _moved(self, old: Path, new: Path, reward: Path) -> Moved:
        base = default_model()
        return moved(base, old, new, reward, self._pack, self._items, self._answered)

    def _answered(self, count: int) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{count} answered", end="", file=sys.stderr)

    def _kept(
        self, name: str, kind: type[Kept], made: Sequence[Path | None], make: Callable[[], Kept]
    ) -> Kept:
        """What `make` gives, unless it was kept from the very same models."""
        path = self._out / f"{self._pack.domain}-{name}.json"
        plans = [_plan(trained) for trained in made]
        if path.exists():
            kept = json.loads(path.read_bytes())
            if kept["plans"] == plans:
                return msgspec.convert(kept["what"], kind)
        what = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.encode({"plans": plans, "what": what}))
        return what


def _plan(trained: Path | None) -> str:
    """What identifies how a model was trained."""
    provenance = None if trained is None else existing(trained)
    return "base" if provenance is None else provenance.plan_digest


def compare(panel: Panel, panels: list[Panel]) -> None:
    """A preference-trained model beside the fine-tuned one, by their greedy answers."""
    tuned = next((other for other in panels if other.title == "sft"), None)
    if tuned is not None:
        pair = discordance(panel.right, tuned.right)
        print(
            f"           {panel.title} beside sft, greedy: {pair.gained} won, {pair.lost} lost, "
            f"the others alike (p = {mcnemar(pair):.2f})"
        )


if __name__ == "__main__":
    main()
