"""`nas.search --budget 40h`: how long a study may train, all workers together.

A trial begins, or is promoted, only where the study can still end as promised: with what is in training, one encoder trained to
the last epoch, and the replicates of --verify. What those will take is estimated by the seconds an epoch took so far; before
the first rung nothing is known. Nothing that has begun is cut off, and workers may begin at the same moment, so a study may end
somewhat above its budget. What a killed worker spent since its last rung is not counted.
"""
from collections.abc import Iterable, Sequence

from optuna.trial import TrialState

from nas.search_config import SearchConfig
from nas.trial_record import TrialRecord
from nas.verification import FINALISTS, finalists

AHEAD = (TrialState.RUNNING, TrialState.WAITING)  # of a trial that may be trained further


def spent(records: Iterable[TrialRecord]) -> float:
    """Seconds that trials, or replicates, were trained."""
    return sum(rung.seconds for r in records for rung in r.rungs) + sum(r.unfinished for r in records)


class StudyBudget:
    """What is left for a study.  records: its trials; replicates: of them"""

    def __init__(self, records: Sequence[TrialRecord], replicates: Sequence[TrialRecord], config: SearchConfig):
        self.records, self.replicates, self.config = records, replicates, config
        self.epochs = (0.0, *config.halving.rungs)  # of a trial, by the number of rungs that it has reached
        self.spent = spent([*records, *replicates])
        self.per_epoch = _seconds_an_epoch([*records, *replicates])

    def allows(self, record: TrialRecord | None = None) -> bool:
        """May a new trial begin, or this one be promoted?"""
        reached = len(record.rungs) if record else 0
        before, after, whole = self.epochs[reached], self.epochs[reached + 1], self.epochs[-1]
        epochs = after - before + min(self._end(), whole - after) + self._running() + self._replicates()
        return self.spent + epochs * self.per_epoch <= self.config.budget and self.spent < self.config.budget

    def _target(self, record: TrialRecord) -> float:
        """Epochs that a trial has, or will have once nobody works on it."""
        busy = record.state == TrialState.RUNNING or record.released
        return self.epochs[max(1, record.target_rung) if busy else len(record.rungs)]

    def _running(self) -> float:
        """Epochs that trials in training have before them."""
        return sum(self._target(r) - self.epochs[len(r.rungs)] for r in self.records)

    def _end(self) -> float:
        """Epochs, after those, until one trial is trained to the end."""
        alive = (r for r in self.records if r.state in (*AHEAD, TrialState.COMPLETE))
        return self.epochs[-1] - max(map(self._target, alive), default=0.0)

    def _replicates(self) -> float:
        """Epochs of those that are still to be made."""
        if not self.config.verify:
            return 0.0
        best = 1 if len(self.config.objectives) == 1 else FINALISTS
        start = any(r.initial and (r.rungs or r.state in AHEAD) for r in self.records)
        done = 0
        if begun := [r for r in self.replicates if r.state != TrialState.PRUNED]:  # of an earlier end: are they still the best?
            numbers = {r.number for r in finalists(self.records, self.config)}
            done = sum(r.replicate.of in numbers and r.state in (TrialState.COMPLETE, TrialState.FAIL) for r in begun)
        return max(0, (best + start) * self.config.verify - done) * self.epochs[-1]


def _seconds_an_epoch(records: Iterable[TrialRecord]) -> float:
    """Of all rungs whose time is known; 0.0 of none."""
    seconds = epochs = 0.0
    for record in records:
        before = 0.0
        for rung in record.rungs:
            if rung.seconds:
                seconds, epochs = seconds + rung.seconds, epochs + rung.epochs - before
            before = rung.epochs
    return seconds / epochs if epochs else 0.0
