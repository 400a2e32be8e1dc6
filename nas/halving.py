"""Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934), for one objective or several."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from optuna.trial import TrialState

from nas.pareto import rank
from nas.trial_record import TrialRecord


def measured(record: TrialRecord, rung: int) -> list[float]:
    """The objectives' values at a rung."""
    return record.rungs[rung].values


@dataclass(frozen=True)
class Halving:
    rungs: tuple[float, ...]  # epochs, rising; the last is the whole training
    factor: int = 3
    finalists: int = 0  # how many of all trials leave the first rung, once all are there; 0: 1/factor, at any time

    @staticmethod
    def of(epochs: float, count: int, factor: int) -> "Halving":
        """`count` rungs up to `epochs`, each `factor` times the one before."""
        return Halving(tuple(epochs / factor**i for i in reversed(range(count))), factor)

    def next_promotion(
        self, records: Sequence[TrialRecord], signs: Sequence[float], trials: int = 0,
        values_of: Callable[[TrialRecord, int], list[float]] = measured,
    ) -> TrialRecord | None:
        """The best paused trial to promote, of the highest rung first.  signs: −1 where more is better; trials: how many there
        will be; values_of: what a trial and a rung count for.

        At most 1/factor of the trials that reached a rung are promoted. The paper's rule also promotes later trials in place of
        early mistakes; alone, it led to a third more epochs than the synchronous one (experiments/tabular).
        """
        for rung in reversed(range(len(self.rungs) - 1)):
            reached = [r for r in records if len(r.rungs) > rung]
            quota = self._quota(rung, records, reached, trials)
            if sum(r.target_rung > rung + 1 for r in reached) >= quota:
                continue
            values = np.array([values_of(r, rung) for r in reached]) * np.array(signs)
            for i in rank(values)[:quota]:
                if reached[i].paused and len(reached[i].rungs) == rung + 1:
                    return reached[i]
        return None

    def winner_to_train(self, records: Sequence[TrialRecord], signs: Sequence[float]) -> TrialRecord | None:
        """Where no trial was trained to the end, the best of those that went furthest: a search ends with a trained encoder."""
        paused = [r for r in records if r.paused and r.rungs]
        if not paused or any(len(r.rungs) == len(self.rungs) for r in records):
            return None
        furthest = max(len(r.rungs) for r in paused)
        candidates = [r for r in paused if len(r.rungs) == furthest]
        values = np.array([r.rungs[-1].values for r in candidates]) * np.array(signs)
        return candidates[rank(values)[0]]

    def _quota(self, rung: int, records: Sequence[TrialRecord], reached: Sequence[TrialRecord], trials: int) -> int:
        """How many trials may be promoted from a rung by now."""
        if rung or not self.finalists:
            return len(reached) // self.factor
        ended = sum(bool(r.rungs) or r.state == TrialState.FAIL for r in records)
        return self.finalists if ended >= trials else 0
