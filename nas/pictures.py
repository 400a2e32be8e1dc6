"""Charts of a study: its front, and how that grew."""
from collections.abc import Sequence

import numpy as np

from core.figures import COLOURS, canvas, charted, logarithmic
from nas.pareto import front, hypervolume
from nas.results import complete, eligible
from nas.search_config import SearchConfig
from nas.settings import OBJECTIVES
from nas.trial_record import TrialRecord


@charted
def front_figure(records: Sequence[TrialRecord], config: SearchConfig):
    """The first two objectives (multiply-adds beside a single one): every trained trial, by its rung; the front of those
    trained to the end as a line.
    """
    first, second = [*config.objectives, "macs"][:2]
    figure, ((axis,),) = canvas(6, 4.2)
    trained = [r for r in records if r.rungs]
    points = {r.number: (r.figures[second], r.rungs[-1].values[0]) for r in trained}
    for k, rung in enumerate(config.halving.rungs):
        reached = [points[r.number] for r in trained if len(r.rungs) == k + 1]
        axis.scatter(*zip(*reached, strict=True) if reached else ([], []), s=14 + 10 * k, alpha=0.7,
                     color=COLOURS[k % len(COLOURS)], label=f"{rung:.3g} epochs")
    ends = np.array([points[r.number] for r in eligible(records, config)]).reshape(-1, 2)
    signs = [-1.0 if OBJECTIVES[name][0] == "maximize" else 1.0 for name in (second, first)]
    best = ends[sorted(front(ends * signs), key=lambda i: ends[i, 0])]
    axis.plot(*best.T, "k-", lw=1, zorder=0, label="front")
    if min(x for x, _ in points.values()) > 0:
        logarithmic(axis, "x")
    axis.set(ylabel=_axis_label(first), xlabel=_axis_label(second))
    axis.legend(fontsize=8)
    return figure


@charted
def history_figure(records: Sequence[TrialRecord], config: SearchConfig):
    """The front's hypervolume (or the best value) as trials end: 0 at a tenth beyond the worst values, 1 at the best ones."""
    ended = sorted(complete(records), key=lambda r: (r.trial.datetime_complete, r.number))
    values = np.array([r.rungs[-1].values for r in ended]) * np.array(config.signs)
    low, high = values.min(0), values.max(0)
    reference = high + 0.1 * (high - low) + 1e-9
    largest = float(np.prod(reference - low))
    shares = [hypervolume(values[: i + 1], reference) / largest for i in range(len(values))]
    figure, ((axis,),) = canvas(6, 3.4)
    axis.step(range(1, len(shares) + 1), shares, where="post", color=COLOURS[0])
    axis.set(xlabel="trials trained to the end", ylabel=history_label(config), ylim=(0, 1))
    return figure


def history_label(config: SearchConfig) -> str:
    """What the curve of `history_figure` shows, for a reader who does not know hypervolume."""
    if len(config.objectives) == 1:
        return f"best {OBJECTIVES[next(iter(config.objectives))][2]} so far, 0 to 1\n(1: the best of all trials)"
    return "hypervolume of the front, 0 to 1\n(1: one encoder that is best in every objective)"


def _axis_label(name: str) -> str:
    _, unit, meaning = OBJECTIVES[name]
    return f"{meaning}{f', {unit}' if unit else ''}"
