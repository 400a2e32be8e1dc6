"""What of a study's figures is luck: its report's expectations of the front, replicates, and lead over the start."""
import math
import statistics
from collections.abc import Sequence

import numpy as np

from core.page import Table
from nas.importance import importances
from nas.pareto import front as nondominated
from nas.pareto import knee
from nas.posterior import Posterior
from nas.results import complete, format_figures, front_of
from nas.search_config import SearchConfig
from nas.settings import COSTS, OBJECTIVES
from nas.trial_record import TrialRecord
from nas.verification import by_expectation

CERTAIN = 0.95  # probability from which a lead is called one


def verdict(
    records: Sequence[TrialRecord], replicates: Sequence[TrialRecord], config: SearchConfig, found: Posterior | None
) -> list[str]:
    """Which trial won, and whether it can be told from the start.  found: None of too few figures to tell luck from skill"""
    front = front_of(records, config)
    if not front:
        left = "that was trained to the end keeps the limits" if complete(records) else "was trained to the end"
        return [f"There is no winner: nothing {left}."]
    if found is None:
        best = f"The best is trial {front[0].number}: {format_figures(front[0], [*config.objectives])}."
        return [f"{best} Each figure is one training of one seed; there are too few here to tell how much of it is luck."]
    fresh = fresh_values(replicates, [*config.objectives].index(found.objective))
    return [_winner(by_expectation(front, found)[0], _start(records, found), found, bool(fresh))]


def blocks(
    records: Sequence[TrialRecord], replicates: Sequence[TrialRecord], config: SearchConfig, found: Posterior | None
) -> list:
    """Of a page: what is expected of the front, and what decides it."""
    front = front_of(records, config)
    if not front or found is None:
        return []
    name, unit = found.objective, OBJECTIVES[found.objective][1]
    which = [*config.objectives].index(name)
    fresh, start = fresh_values(replicates, which), _start(records, found)
    of, rows = f"{name}, {unit}" if unit else name, []
    for r in [*by_expectation(front, found), *([start] if start and start not in front else [])]:
        own = f"{r.rungs[-1].values[which]:.4g}" + ("" if len(r.rungs) == len(config.halving.rungs) else " (not to the end)")
        values = fresh.get(r.number, [])
        several = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
        measured = f"{statistics.mean(values):.4g}{several} ({len(values)})" if values else "none"
        start_or_not = " (start)" if r.initial else ""
        rows.append([f"{r.number}{start_or_not}", own, f"{found.mean(r):.4g} ± {found.interval(r):.2g}", measured])
    head = ["trial", f"{of}, of its own training", "expected of fresh seeds", "fresh seeds"]
    about = (f"Expected: the mean over fresh seeds and its 95 % interval, from all figures of the study (nas/posterior.py). "
             f"One training lies {found.expected.luck:.2g} beside it (standard deviation).")
    return [Table(head, rows, slice(1, None)), about, *_knee(front, config, found), *_importances(importances(records, found))]


def _start(records: Sequence[TrialRecord], found: Posterior) -> TrialRecord | None:
    return next((r for r in records if r.initial and r.number in found.rows), None)


def _knee(front: Sequence[TrialRecord], config: SearchConfig, found: Posterior) -> list[str]:
    """The trial that most is gained for its cost with, where the second objective is a cost."""
    names = [*config.objectives]
    if len(names) != 2 or names[1] not in COSTS or found.objective != names[0]:
        return []
    points = np.array([[found.sign * found.mean(r), math.log(max(r.costs[names[1]], 1e-9))] for r in front])
    best = nondominated(points)
    if (at := knee(points[best])) is None:
        return []
    r = front[best[at]]
    text = f"The knee of the front is trial {r.number}: {format_figures(r, names)}."
    return [f"{text} Less {names[1]} costs much {names[0]} from there on, more gains little."]


def _importances(shares: dict[str, float]) -> list[str]:
    if not shares:
        return []
    listed = ", ".join(f"{name} {share:.2f}" for name, share in list(shares.items())[:6])
    return [f"What decides it (PED-ANOVA of the expectations, shares of 1): {listed}."]


def _winner(winner: TrialRecord, start: TrialRecord | None, found: Posterior, verified: bool) -> str:
    text = f"The winner is trial {winner.number}"
    if start is None:
        text += "; no trial of the start was trained to compare it with."
    elif winner.number == start.number:
        text += ": the search found nothing of which more is expected than of its start."
    else:
        probability = found.better(winner, start)
        text += f"; that it is better than the start, trial {start.number}, has probability {probability:.2f}"
        text += "." if probability >= CERTAIN else ": it cannot be told from the start."
    return text if verified else text + " `--verify 3` trains the best again with fresh seeds."


def fresh_values(replicates: Sequence[TrialRecord], which: int) -> dict[int, list[float]]:
    """Trial's number → values of the objective at place `which` with fresh seeds."""
    found: dict[int, list[float]] = {}
    for r in replicates:
        if r.replicate and r.rungs:
            found.setdefault(r.replicate.of, []).append(r.rungs[-1].values[which])
    return found
