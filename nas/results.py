"""What a study has found so far: the front, its figures, and the files that a report leaves."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import TrialState

from core.image_size import parse, size_text
from nas.pareto import front
from nas.search_config import ONE_TOO_MANY, SearchConfig
from nas.settings import OBJECTIVES
from nas.trial_record import TrialRecord

if TYPE_CHECKING:
    from nas.posterior import Posterior


@dataclass(frozen=True)
class SearchResult:
    """A study and its report."""

    study: str
    settings: dict[str, Any]  # those that it was begun with, by dotted name
    folder: Path  # of report.md, report.html, results.json, figures and encoders
    trials: list[TrialRecord]
    front: list[TrialRecord]  # of those trained to the end, best first by the first objective
    encoders: dict[int, Path]  # number of a trial of the front → its encoder file, where it is on this machine
    summary: str  # the essence of the report
    winner: TrialRecord | None = None  # of the front, the one of which most is expected (nas/posterior.py)
    posterior: "Posterior | None" = None  # what is expected of the trials; None where too little is known

    @property
    def encoder(self) -> Path | None:
        """The winner's encoder file, where it is on this machine."""
        return self.encoders.get(self.winner.number) if self.winner else None


def complete(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Those trained to the end."""
    return [r for r in records if r.state == TrialState.COMPLETE]


def broken_limits(record: TrialRecord, config: SearchConfig) -> list[str]:
    """Limits that a trial's figures break: of what is minimized the most, of what is maximized the least."""
    figures, broken = record.figures, [record.remeasured.failure] if record.remeasured.failure else []
    for name, limit in config.limits.items():
        direction, unit, _ = OBJECTIVES[name]
        sign = -1 if direction == "maximize" else 1
        if name in figures and sign * figures[name] > sign * limit:
            broken.append(f"{name} {figures[name]:.4g} {unit} {'<' if sign < 0 else '>'} {limit:g}")
    return broken


def eligible(records: Sequence[TrialRecord], config: SearchConfig) -> list[TrialRecord]:
    """Those trained to the end that keep the limits."""
    return [r for r in complete(records) if not broken_limits(r, config)]


def front_of(records: Sequence[TrialRecord], config: SearchConfig) -> list[TrialRecord]:
    """The Pareto front of those trained to the end that keep the limits, best first by the first objective."""
    ended = eligible(records, config)
    values = np.array([r.rungs[-1].values for r in ended]) * np.array(config.signs) if ended else np.zeros((0, 1))
    return sorted((ended[i] for i in front(values)), key=lambda r: config.signs[0] * r.rungs[-1].values[0])


def format_figures(record: TrialRecord, names: Sequence[str]) -> str:
    """"knn 85.1 %, macs 3.2 M"."""
    figures = record.figures
    return ", ".join(f"{name} {figures[name]:.4g} {OBJECTIVES[name][1]}".strip() for name in names if name in figures)


def total_epochs(records: Sequence[TrialRecord]) -> float:
    return sum(r.rungs[-1].epochs for r in records if r.rungs)


def end_reasons(records: Sequence[TrialRecord]) -> list[str]:
    """Why no more was proposed, each reason once."""
    return [*dict.fromkeys(r.reason for r in records if r.rejected and not r.candidate and r.reason != ONE_TOO_MANY)]


def describe(candidate: dict) -> str:
    """Encoder and hyperparameters in a line."""
    spec = candidate["encoder"]
    parts = [spec["name"], f"{size_text(parse(spec['image_size']))} px", *(f"{k}={v}" for k, v in spec["arguments"].items())]
    return " ".join(parts + [f"{k}={v}" for k, v in candidate["words"].items()]).replace("'", "").replace("|", "/")
