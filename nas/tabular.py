"""A search without training: every figure is looked up in a table of architectures trained beforehand.

Samplers, schedulers and proxies are judged on it in seconds. experiments/tabular.py makes such a table; ours is
experiments/tabular/fashion_mnist.json, 256 residual networks × 2 seeds × 9 epochs, kNN on validation images.
"""
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from nas import space
from nas.entry import Entry
from nas.space import Choice


class Table:
    """rows: one architecture each, with "hash", "macs", "parameters" and "knn" (seeds × epochs)."""

    def __init__(self, path: str | Path):
        kept = json.loads(Path(path).read_text())
        self.certificate, self.rows = kept["certificate"], {row["hash"]: row for row in kept["rows"]}
        self.epochs = self.certificate["epochs"]

    def knn(self, hash: str, epochs: int, seed: int | None = None) -> float:
        """Accuracy in per cent after so many epochs: of one seed, or the mean over all."""
        found = [curve[epochs - 1] for curve in self.rows[hash]["knn"]]
        return float(np.mean(found)) if seed is None else found[seed % len(found)]


class Lookup:
    """An evaluator (nas/scheduler.py) that reads a table.  seed: which of its seeds is trained; None: their mean."""

    def __init__(self, table: Table, seed: int | None = None):
        self.table, self.seed, self.spent = table, seed, 0.0  # epochs

    opening = None
    choose = staticmethod(partial(space.choose, space=space.tabular, channels=1, size=14, tune=[], flat={}))

    def costs(self, choice: Choice) -> dict[str, float]:
        row = self.table.rows[choice.hash]
        return {"macs": row["macs"], "parameters": row["parameters"]}

    def advance(self, choice: dict, entry: Entry, epochs: float, beat: Callable[[], None]) -> dict[str, float]:
        before = entry.rungs[-1]["epochs"] if entry.rungs else 0
        self.spent += epochs - before
        beat()
        return {"knn": self.table.knn(choice["hash"], round(epochs), self.seed)}
