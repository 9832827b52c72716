"""The learning curve, as a picture for the model card."""

from collections.abc import Sequence
from pathlib import Path

from adapters.training.job import Record

SMOOTH = 0.15
"""Share of the newest value in the moving average that is drawn through noisy steps."""
REWARD, LEASH = "#188038", "#e8710a"
_SECOND = (
    ("reward", "reward"),
    ("rewards/accuracies", "pairs ranked right"),
    ("accuracy", "pairs ranked right"),
)


def draw(history: Sequence[Record], title: str, path: Path) -> None:
    """Loss by step, held-out loss where it was measured, and what a stage rewards below it."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    second = next((s for s in _SECOND if any(s[0] in r for r in history)), None)
    figure, panels = pyplot.subplots(
        2 if second else 1, sharex=True, figsize=(7, 6 if second else 3.6),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    _line(panels[0][0], history, "loss", "training", "#1a73e8")
    evaluated = [(r["step"], r["eval_loss"]) for r in history if "eval_loss" in r]
    if evaluated:
        panels[0][0].plot(*zip(*evaluated, strict=True), "o-", color="#d93025", label="validation")
    panels[0][0].set(ylabel="loss", title=title)
    panels[0][0].legend(frameon=False)
    if second:
        _line(panels[1][0], history, second[0], second[1], REWARD)
        panels[1][0].set_ylabel(second[1], color=REWARD)
        if any("kl" in r for r in history):
            beside = panels[1][0].twinx()
            _line(beside, history, "kl", "KL", LEASH)
            beside.set_ylabel("KL to the start, nats", color=LEASH)
            beside.spines["top"].set_visible(False)
    panels[-1][0].set(xlabel="step")
    panels[-1][0].xaxis.get_major_locator().set_params(integer=True)
    for (panel,) in panels:
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _line(panel: object, history: Sequence[Record], key: str, label: str, colour: str) -> None:
    """The steps, thin, and their moving average."""
    points = [(r["step"], r[key]) for r in history if key in r]
    average, smooth = points[0][1], []
    for step, value in points:
        average += SMOOTH * (value - average)
        smooth.append((step, average))
    panel.plot(*zip(*points, strict=True), color=colour, alpha=0.3, linewidth=0.8)  # type: ignore[attr-defined]
    panel.plot(*zip(*smooth, strict=True), color=colour, label=label)  # type: ignore[attr-defined]
