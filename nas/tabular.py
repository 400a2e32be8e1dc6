"""A search without training: every figure comes from a table of architectures that were trained before.

Samplers, schedulers and proxies are compared on it in seconds. experiments/tabular.py makes such a table; ours is
experiments/tabular/fashion_mnist.json, 256 residual networks × 2 seeds × 9 epochs, kNN on validation images.
"""
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from nas import space
from nas.space import Candidate
from nas.trial_record import TrialRecord


class Table:
    """rows: one architecture each, with "hash", "macs", "parameters" and "knn" (seeds × epochs)."""

    def __init__(self, path: str | Path):
        table = json.loads(Path(path).read_text())
        self.rows, self.epochs = {row["hash"]: row for row in table["rows"]}, table["certificate"]["epochs"]

    def knn(self, hash: str, epochs: int, seed: int | None = None) -> float:
        """Accuracy in percent after so many epochs: of one seed, or the mean over all."""
        accuracies = [curve[epochs - 1] for curve in self.rows[hash]["knn"]]
        return float(np.mean(accuracies)) if seed is None else accuracies[seed % len(accuracies)]


class TableEvaluator:
    """An evaluator (nas/scheduler.py) that reads a table.  seed: which of its seeds is trained; None: their mean."""

    def __init__(self, table: Table, seed: int | None = None):
        self.table, self.seed, self.spent = table, seed, 0.0  # epochs

    initial = None
    sample = staticmethod(partial(space.sample, space=space.tabular, channels=1, size=14, tune=[], flat={}))

    def costs(self, candidate: Candidate) -> dict[str, float]:
        row = self.table.rows[candidate.hash]
        return {"macs": row["macs"], "parameters": row["parameters"]}

    def advance(self, candidate: dict, record: TrialRecord, epochs: float, heartbeat: Callable[[], None]) -> dict[str, float]:
        before = record.rungs[-1].epochs if record.rungs else 0
        self.spent += epochs - before
        heartbeat()
        return {"knn": self.table.knn(candidate["hash"], round(epochs), self.seed)}
