"""A search without training: every figure comes from a table of architectures that were trained before.

Samplers, schedulers and proxies are compared on it in seconds. experiments/tabular.py makes such a table; ours is
experiments/tabular/fashion_mnist.json, 256 residual networks × 2 seeds × 9 epochs, kNN on validation images.
"""
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from optuna.trial import BaseTrial

from nas.trial_record import TrialRecord

FIGURES = ("hash", "macs", "parameters", "knn")  # of a row; all else is a parameter


class Table:
    """rows: one architecture each, with its parameters, "hash", "macs", "parameters" and "knn" (seeds × epochs)."""

    def __init__(self, path: str | Path):
        table = json.loads(Path(path).read_text())
        self.rows, self.epochs = {row["hash"]: row for row in table["rows"]}, table["certificate"]["epochs"]
        self.seeds, self.cpu_hours = len(table["certificate"]["seeds"]), table["certificate"]["cpu_hours"]
        self.names = [name for name in table["rows"][0] if name not in FIGURES]
        self.choices = {name: [*dict.fromkeys(row[name] for row in table["rows"])] for name in self.names}
        self.hashes = {tuple(row[name] for name in self.names): row["hash"] for row in table["rows"]}

    def suggest(self, trial: BaseTrial) -> "TableCandidate":
        """The architecture of a trial's parameters, as `nas.space.tabular` suggests them."""
        point = {name: trial.suggest_int(name, min(options), max(options)) if name.startswith("depth")
                 else trial.suggest_categorical(name, options) for name, options in self.choices.items()}
        return TableCandidate(point, self.hashes[(*point.values(),)])

    def knn(self, hash: str, epochs: int, seed: int | None = None) -> float:
        """Accuracy in percent after so many epochs: of one seed, or the mean over all."""
        accuracies = [curve[epochs - 1] for curve in self.rows[hash]["knn"]]
        return float(np.mean(accuracies)) if seed is None else accuracies[seed % len(accuracies)]


@dataclass(frozen=True)
class TableCandidate:
    """A row of a table."""

    json: dict
    hash: str


class TableEvaluator:
    """An evaluator (nas/scheduler.py) that reads a table.  seed: which of its seeds is trained; None: their mean."""

    def __init__(self, table: Table, seed: int | None = None):
        self.table, self.seed, self.spent = table, seed, 0.0  # epochs
        self.sample = table.suggest

    initial = None

    def costs(self, candidate: TableCandidate) -> dict[str, float]:
        row = self.table.rows[candidate.hash]
        return {"macs": row["macs"], "parameters": row["parameters"]}

    def advance(self, candidate: dict, record: TrialRecord, epochs: float, heartbeat: Callable[[], None]) -> dict[str, float]:
        before = record.rungs[-1].epochs if record.rungs else 0
        self.spent += epochs - before
        heartbeat()
        return {"knn": self.table.knn(candidate["hash"], round(epochs), self.seed)}
