"""`nas.search --budget 40h`: how long a study may train, all workers together.

A trial begins, or is promoted, only where the study can still end as promised: with what is in training, one encoder trained to
the last epoch, and the replicates of --verify. What those will take is estimated by the seconds an epoch took so far. Nothing
that has begun is cut off, so a study may end somewhat above its budget. What a killed worker spent since its last rung is lost.
"""
import math
from collections.abc import Sequence

from optuna.trial import TrialState

from nas.search_config import SearchConfig
from nas.trial_record import TrialRecord
from nas.verification import FINALISTS


def spent(records: Sequence[TrialRecord]) -> float:
    """Seconds that trials, or replicates, were trained."""
    return sum(rung.seconds for r in records for rung in r.rungs) + sum(r.unfinished for r in records)


class StudyBudget:
    """What is left for a study.  records: its trials; replicates: of them"""

    def __init__(self, records: Sequence[TrialRecord], replicates: Sequence[TrialRecord], config: SearchConfig):
        self.records, self.replicates, self.config = records, replicates, config
        self.ladder = config.halving.rungs
        self.spent = spent([*records, *replicates])
        timed = [r for r in (*records, *replicates) if any(rung.seconds for rung in r.rungs)]
        epochs = sum(r.rungs[-1].epochs for r in timed)
        self.per_epoch = spent(timed) / epochs if epochs else 0.0

    def allows(self, record: TrialRecord | None = None) -> bool:
        """May a new trial begin, or this one be promoted?"""
        if math.isinf(self.config.budget):
            return True
        reached = len(record.rungs) if record else 0
        cost = self.ladder[reached] - (self.ladder[reached - 1] if reached else 0)
        epochs = cost + min(self._end(), self.ladder[-1] - self.ladder[reached]) + self._running() + self._replicates()
        return self.spent + epochs * self.per_epoch <= self.config.budget and self.spent < self.config.budget

    def _running(self) -> float:
        """Epochs that trials in training have before them."""
        epochs = (0.0, *self.ladder)
        at = [(len(r.rungs), max(1, r.target_rung)) for r in self.records if r.state == TrialState.RUNNING or r.released]
        return sum(epochs[target] - epochs[done] for done, target in at)

    def _end(self) -> float:
        """Epochs until one trial is trained to the end."""
        done = [r.rungs[-1].epochs for r in self.records if r.rungs and r.state not in (TrialState.FAIL, TrialState.PRUNED)]
        return self.ladder[-1] - max(done, default=0.0)

    def _replicates(self) -> float:
        """Epochs of those that are still to be made."""
        count = (FINALISTS + any(r.initial for r in self.records)) * self.config.verify
        return max(0, count - sum(bool(r.rungs) for r in self.replicates)) * self.ladder[-1]
