"""The fronts of several studies in one table and one picture: nas.report --compare other,another."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import checkpoint
from core.figures import COLOURS, canvas, drawn, logarithmic
from core.identity import difference
from nas.noise_report import fresh_values
from nas.posterior import Posterior, expectation, noisy_objective, posterior
from nas.results import describe, front_of
from nas.search_config import SearchConfig
from nas.settings import COSTS, OBJECTIVES
from nas.trial_record import TrialRecord
from nas.verification import by_expectation


@dataclass(frozen=True)
class Study:
    """What is compared of a study.  records: with what was measured at its end"""

    name: str
    settings: dict[str, Any]
    config: SearchConfig
    records: Sequence[TrialRecord]
    replicates: Sequence[TrialRecord]

    @property
    def found(self) -> Posterior | None:
        return posterior(self.records, self.config.objectives, len(self.config.halving.rungs), self.replicates)


@dataclass(frozen=True)
class Point:
    """A trial of a front. own: the figure of its training; expected ± interval: of fresh seeds; fresh: the figures of those"""

    trial: int
    own: float
    expected: float | None
    interval: float | None
    fresh: tuple[float, ...]
    cost: float
    encoder: str


def write(studies: Sequence[Study], folder: Path) -> str:
    """Write compare.md and compare.png.  → the text.  Raises ValueError where the studies have no two axes in common."""
    objective, cost = axes(studies)
    points = {study.name: front_points(study, objective, cost) for study in studies}
    checkpoint.write(folder / "compare.png", picture(points, objective, cost))
    text = "\n".join(lines(studies, points, objective, cost))
    checkpoint.write(folder / "compare.md", text + "\n![the fronts](compare.png)\n")
    return text


def axes(studies: Sequence[Study]) -> tuple[str, str]:
    """The measured objective, the same of all, and the first cost that all have as objectives; multiply-adds where none is."""
    names = [[*study.config.objectives] for study in studies]
    firsts = [noisy_objective(one) for one in names]
    if firsts[0] is None or {*firsts} != {firsts[0]}:
        listed = ", ".join(f"{study.name} {','.join(one)}" for study, one in zip(studies, names, strict=True))
        raise ValueError(f"compare: the studies were not searched by the same measured objective ({listed}); name others")
    return firsts[0], next((name for name in names[0] if name in COSTS and all(name in one for one in names)), "macs")


def front_points(study: Study, objective: str, cost: str) -> list[Point]:
    found, which = study.found, [*study.config.objectives].index(objective)
    fresh = fresh_values(study.replicates, which)
    out = []
    for r in by_expectation(front_of(study.records, study.config), found):
        own, seeds = r.rungs[-1].values[which], tuple(fresh.get(r.number, ()))
        out.append(Point(r.number, own, *expectation(r, found), seeds, r.costs[cost], describe(r.candidate)))
    return out


def lines(studies: Sequence[Study], points: dict[str, list[Point]], objective: str, cost: str) -> list[str]:
    """Markdown."""
    unit = f", {OBJECTIVES[objective][1]}" if OBJECTIVES[objective][1] else ""
    out = [f"# {' and '.join(points)}", "",
           f"| study | trial | {objective}{unit}, of its own training | expected of fresh seeds | fresh seeds | {cost}, "
           f"{OBJECTIVES[cost][1]} | encoder |", "|---" * 7 + "|"]
    for name, rows in points.items():
        for p in rows:
            expected = "" if p.expected is None else f"{p.expected:.4g} ± {p.interval:.2g}"
            fresh = f"{sum(p.fresh) / len(p.fresh):.4g} ({len(p.fresh)})" if p.fresh else "none"
            out.append(f"| {name} | {p.trial} | {p.own:.4g} | {expected} | {fresh} | {p.cost:.4g} | {p.encoder} |")
    out += ["", "The fronts, best expectation first, on validation images; ± is the 95 % interval of the expectation. Figures "
                "of different studies compare where images and training are the same.", ""]
    for other in studies[1:]:
        if changes := [c for c in difference(studies[0].settings, other.settings) if not c.startswith("study:")]:
            out += [f"{studies[0].name} → {other.name}: {'; '.join(changes)}.", ""]
    return out


@drawn
def picture(points: dict[str, list[Point]], objective: str, cost: str):
    """Each study's front: what is expected with its interval, or the figure of a training where too few were trained."""
    figure, ((axis,),) = canvas(6.4, 4.2)
    for i, (name, rows) in enumerate(points.items()):
        rows = sorted(rows, key=lambda p: p.cost)
        values = [p.own if p.expected is None else p.expected for p in rows]
        axis.errorbar([p.cost for p in rows], values, yerr=[p.interval or 0.0 for p in rows], marker="o", ms=4, capsize=2, lw=1,
                      color=COLOURS[i % len(COLOURS)], label=name)
    logarithmic(axis, "x")
    axis.set(xlabel=f"{OBJECTIVES[cost][2]}, {OBJECTIVES[cost][1]}", ylabel=f"{objective}, expected of fresh seeds")
    axis.legend(fontsize=8)
    return figure
