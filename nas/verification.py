"""Trains the best of a finished study again with fresh seeds, for its own figure is partly luck (nas/posterior.py).

All workers see the same finished trials, and so want the same replicates: those of the front's best FINALISTS by what is
expected of them, and of the candidate that the space begins with, whether it was trained to the end or not.
"""
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import TrialState

from nas.posterior import Posterior, posterior
from nas.results import front_of
from nas.search_config import SearchConfig
from nas.trial_record import Replicate, TrialRecord

FINALISTS = 3


@dataclass(frozen=True)
class Wanted:
    """A replicate that is not there yet."""

    record: TrialRecord
    seed: int


def finalists(records: Sequence[TrialRecord], config: SearchConfig) -> list[TrialRecord]:
    """The best of the front by what is expected, and the start."""
    found = posterior(records, config.objectives, len(config.halving.rungs))
    best = by_expectation(front_of(records, config), found)[:FINALISTS]
    start = [r for r in records if r.initial and r.rungs and r not in best]
    return [*best, *start]


def by_expectation(front: Sequence[TrialRecord], found: Posterior | None) -> list[TrialRecord]:
    """Best first.  found: None leaves them in order."""
    return [*front] if found is None else sorted(front, key=lambda r: found.sign * found.mean(r))


def wanted(records: Sequence[TrialRecord], replicates: Sequence[TrialRecord], config: SearchConfig) -> list[Wanted]:
    """The replicates that nobody has begun. One that failed, or came too late, is not made again."""
    if not config.verify:
        return []
    there, best = {r.replicate for r in replicates if r.state != TrialState.PRUNED}, finalists(records, config)
    return [Wanted(record, seed) for seed in range(1, config.verify + 1) for record in best
            if Replicate(record.number, seed) not in there]
