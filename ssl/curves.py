"""Curves of a run: its loss, accuracy beside the baselines, and health; in one picture, and a chart each for its page."""
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core.figures import COLOURS, canvas, charted, drawn, two_scales
from core.loss_chart import draw_loss
from core.page import Chart
from linear_eval.knn import K
from ssl import collapse
from ssl.health import Health

SHARES = {
    "patch_cosine": "cosine of an image's patches", "patch_spread": "spread of all patches",
    "teacher_entropy": "entropy of targets", "teacher_entropy_of_mean": "entropy of their mean",
    "prototypes_in_use": "prototypes in use", "prediction_spread": "spread of predictions",
}  # fmt: skip
BLUE, ORANGE, GREEN, PINK = COLOURS[:4]


@dataclass(frozen=True)
class Panel:
    """name: of its chart's file; draw(matplotlib's Axes)"""

    name: str
    title: str
    about: str
    draw: Callable[[Any], None]


def panels(rows: list[dict], health: Health) -> list[Panel]:
    """rows: of metrics.jsonl.  A health that has measured its baselines."""
    rows = [row for row in rows if "loss" in row]
    seen = [0] + [s for s, _ in health.history]
    figures = [health.baselines.untrained] + [f for _, f in health.history]
    start = f"Step 0: {health.began}"

    def state(axis) -> None:
        rank = ("rankme", "effective rank (RankMe)", GREEN)
        for one in two_scales(axis, seen, figures, rank, ("feature_std", "feature std", PINK)):
            one.set_ylim(0, None)

    found = [Panel("loss.svg", "loss", "Loss and learning rate", lambda axis: draw_loss(axis, rows)),
             _scores(seen, figures, health.baselines.pixels, start),
             Panel("health.svg", "health", f"Dimensions that the features use, and their spread. {start}", state)]
    if shares := _shares(rows, health):
        about = "Shares: of the largest cosine, spread and entropy, and of all prototypes"
        found.append(Panel("patches.svg", "patches and prototypes", about, lambda axis: _lines(axis, shares)))
    return found


def _scores(seen: list[int], figures: list[dict], pixels: dict, start: str) -> Panel:
    """Accuracy, or mean average precision, beside raw pixels; without labels, what needs none."""
    lines = {"knn": (f"kNN, k = {K}", BLUE), "five_labels": ("5 labels a class", ORANGE), "knn_map": (f"kNN, k = {K}", BLUE)}
    lines = {name: line for name, line in lines.items() if name in figures[0]}

    def scores(axis) -> None:
        for name, (label, color) in lines.items():
            axis.plot(seen, [f[name] for f in figures], "o-", ms=3, color=color, label=label)
            axis.axhline(pixels[name], color=color, ls=":", lw=1, label="… of raw pixels")
        if "old_knn" in figures[0]:
            axis.plot(seen, [f["old_knn"] for f in figures], "s--", ms=3, color=GREEN, label="kNN, old domain")
        axis.legend(fontsize=8)
        axis.set(xlabel="step", ylabel="%")

    def closeness(axis) -> None:
        two_scales(axis, seen, figures, ("alignment", "alignment of two views", BLUE), ("uniformity", "uniformity", ORANGE))

    if not lines:
        return Panel("views.svg", "views and images: lower is better", f"How close views and images lie. {start}", closeness)
    metric = "mean average precision" if "knn_map" in lines else "accuracy"
    return Panel("accuracy.svg", f"validation {metric}", f"On validation images. {start}. Dotted: raw pixels", scores)


@drawn
def picture(rows: list[dict], health: Health):
    """All panels side by side: curves.png."""
    found = panels(rows, health)
    figure, (axes,) = canvas(13 * len(found) / 3, 3.6, columns=len(found))
    for axis, panel in zip(axes, found, strict=True):
        _draw(axis, panel)
    return figure


def charts(rows: list[dict], health: Health) -> list[Chart]:
    return [Chart(panel.name, _chart(panel), panel.about, small=True) for panel in panels(rows, health)]


@charted
def _chart(panel: Panel):
    figure, ((axis,),) = canvas(4.6, 3.2)
    _draw(axis, panel)
    return figure


def _draw(axis, panel: Panel) -> None:
    panel.draw(axis)
    axis.set_title(panel.title)


def _shares(rows: list[dict], health: Health) -> dict[str, tuple[list[int], list[float]]]:
    """Figure of `collapse.FIGURES` → steps and values, where a run has it."""
    checks = [(0, health.baselines.untrained), *health.history]
    found = {name: [(step, f[name]) for step, f in checks if name in f] for name in collapse.PATCHES}
    found |= {name: [(row["step"], row[name]) for row in rows if name in row] for name in collapse.TEACHER if name in SHARES}
    return {name: tuple(map(list, zip(*pairs, strict=True))) for name, pairs in found.items() if pairs}


def _lines(axis, shares: dict[str, tuple[list[int], list[float]]]) -> None:
    for number, (name, (steps, values)) in enumerate(shares.items()):
        axis.plot(steps, values, "o-", ms=3, color=COLOURS[number], label=SHARES[name])
    axis.set(xlabel="step", ylabel="share", ylim=(min(0, axis.get_ylim()[0]), 1.02))
    axis.legend(fontsize=8)
