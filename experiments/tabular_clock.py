"""Simulated time on the tabular benchmark, and what a study has found by then.

A training costs its epochs times a rate that is linear in multiply-adds. It is fitted to the processor seconds of one epoch of
some of the networks (`python -m experiments.tabular --timings`), and scaled to the mean of the trainings behind the table.
"""
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas.pareto import front, hypervolume
from nas.tabular import Table, TableEvaluator

SECONDS = Path(__file__).resolve().parent / "tabular" / "seconds.json"
BUDGET, SHARE, MARGIN = 600.0, 0.95, 0.1  # simulated seconds: 64 trainings of the table's mean


@dataclass(frozen=True)
class Result:
    """Of one study. seconds: None where 95 % were not found."""

    seconds: float | None
    found: float
    declared: float
    regret: float
    trained: int


class Clock(TableEvaluator):
    """The table's evaluator with simulated time. ends: when each network was trained to the end, and its hash"""

    def __init__(self, table: Table, seed: int, rates: dict[str, float]):
        super().__init__(table, seed)
        self.rates, self.now, self.ends = rates, 0.0, []

    def advance(self, candidate, record, epochs, heartbeat):
        before = record.rungs[-1].epochs if record.rungs else 0
        return self.train(candidate["hash"], before, epochs)

    def train(self, hash: str, before: float, epochs: float) -> dict[str, float]:
        self.now += (epochs - before) * self.rates[hash]
        if epochs == self.table.epochs:
            self.ends.append((self.now, hash))
        return {"knn": self.table.knn(hash, round(epochs), self.seed)}


class Scores:
    """What a study has found, by the mean over seeds."""

    def __init__(self, table: Table):
        self.table, self.hashes = table, [*table.rows]
        self.true = {h: np.array([-table.knn(h, table.epochs), np.log10(table.rows[h]["macs"])]) for h in self.hashes}
        every = np.array([*self.true.values()])
        best = every[front(every)]
        self.reference = best.max(0) + MARGIN * np.ptp(best, axis=0)
        self.whole = hypervolume(every, self.reference)

    def share(self, hashes) -> float:
        return hypervolume(np.array([self.true[h] for h in hashes]), self.reference) / self.whole

    def own_front(self, hashes: list[str], seed: int) -> list[str]:
        """Those on the front by one seed's accuracy."""
        values = np.array([[-self.table.knn(h, self.table.epochs, seed), self.true[h][1]] for h in hashes])
        return [hashes[i] for i in front(values)]

    def result(self, ends: list[tuple[float, str]], seed: int) -> Result:
        hashes = [h for now, h in ends if now <= BUDGET]
        late = (now for i, (now, _) in enumerate(ends[: len(hashes)]) if self.share(hashes[: i + 1]) >= SHARE)
        winner = max(hashes, key=lambda h: self.table.knn(h, self.table.epochs, seed))
        regret = max(-v[0] for v in self.true.values()) + self.true[winner][0]
        declared = self.share(self.own_front(hashes, seed))
        return Result(next(late, None), self.share(hashes), declared, float(regret), len(hashes))

    def ceiling(self) -> dict[str, float]:
        """Of a study that trains all networks with one seed, mean over seeds: noise bounds what it can declare."""
        every = [self.result([(0.0, h) for h in self.hashes], seed) for seed in range(self.table.seeds)]
        return {"declared": float(np.mean([r.declared for r in every])), "regret": float(np.mean([r.regret for r in every]))}


def rates(table: Table) -> dict[str, float]:
    """Simulated seconds of an epoch: linear in multiply-adds, fitted to the timed networks, at the table's mean of all."""
    kept = json.loads(SECONDS.read_text())["seconds"]
    slope, base = np.polyfit([table.rows[h]["macs"] for h in kept], [*kept.values()], 1)
    found = {h: base + slope * row["macs"] for h, row in table.rows.items()}
    mean = table.cpu_hours * 3600 / table.seeds / len(found) / table.epochs
    return {h: r * mean / float(np.mean([*found.values()])) for h, r in found.items()}
