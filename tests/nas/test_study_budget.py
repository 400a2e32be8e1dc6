"""A study with a budget: it ends in time with a trained encoder, and what it trained is counted wherever it was stopped."""
from dataclasses import replace

import pytest
from optuna.trial import TrialState

from core.errors import Stopped
from nas.budget import StudyBudget, spent
from nas.scheduler import Worker
from nas.search import ended_by_budget
from nas.settings import SearchSettings
from nas.verification import FINALISTS
from tests.nas.test_scheduler import config, in_memory, open_store  # noqa: F401
from tests.nas.test_verification import Seeded

EPOCH = 10.0  # seconds


class Timed(Seeded):
    """An epoch takes EPOCH seconds of a clock that nothing else moves.  stop_at: epochs after which a signal comes, once"""

    def __init__(self, stop_at: float | None = None):
        super().__init__()
        self.now, self.stop_at = 0.0, stop_at

    def advance(self, candidate, record, epochs, heartbeat):
        before = self.spent
        figures = super().advance(candidate, record, epochs, heartbeat)
        self.now += EPOCH * (self.spent - before)
        if self.stop_at is not None and self.spent >= self.stop_at:
            self.stop_at = None
            raise Stopped("a signal")
        return figures


def searched(budget: float, store=None, evaluator: Timed | None = None, **options):
    """→ the store of a study with so many seconds, and its evaluator"""
    store, evaluator = store or open_store(), evaluator or Timed()
    worker = Worker(store, replace(config(**options), budget=budget), evaluator)
    worker.clock = lambda: evaluator.now
    worker.run()
    return store, evaluator


def complete(store) -> list:
    return [r for r in store.records() if r.state == TrialState.COMPLETE]


def test_without_a_budget_nothing_changes(in_memory):  # noqa: F811
    store, evaluator = searched(float("inf"), trials=12)
    assert len(store.records()) == 12
    assert spent(store.records()) == evaluator.now == EPOCH * evaluator.spent


@pytest.mark.parametrize("budget", [100.0, 150.0, 200.0, 260.0])
def test_it_ends_in_time_with_an_encoder_that_is_trained_to_the_end(in_memory, budget):  # noqa: F811
    store, evaluator = searched(budget, trials=1000)
    assert complete(store)
    assert evaluator.now <= budget
    assert evaluator.now > budget - 9 * EPOCH, "less than one whole training is left over"
    assert not [r for r in store.records() if r.state in (TrialState.RUNNING, TrialState.WAITING)]


def test_one_that_is_too_small_trains_one_trial_to_the_end(in_memory):  # noqa: F811
    store, _ = searched(1.0, trials=1000)
    assert len(complete(store)) == len(store.records()) == 1


def test_replicates_are_paid_for_beforehand(in_memory):  # noqa: F811
    budget = EPOCH * (FINALISTS * 9 + 30)
    store, evaluator = open_store(), Timed()
    worker = Worker(store, replace(config(trials=1000), budget=budget, verify=1), evaluator)
    worker.clock = lambda: evaluator.now
    worker.run()
    assert store.replicates()
    assert evaluator.now <= budget
    assert evaluator.now == spent([*store.records(), *store.replicates()])


def test_stopped_within_a_rung_its_time_counts_once(in_memory):  # noqa: F811
    store, evaluator = open_store(), Timed(stop_at=5)
    with pytest.raises(Stopped):
        searched(200.0, store, evaluator, trials=1000)
    assert spent(store.records()) == evaluator.now == EPOCH * evaluator.spent
    assert sum(r.unfinished > 0 for r in store.records()) == 1
    searched(200.0, store, evaluator, trials=1000)
    assert spent(store.records()) == evaluator.now == EPOCH * evaluator.spent <= 200
    assert not any(r.unfinished for r in store.records())


def test_a_larger_one_goes_on_and_a_line_says_so(in_memory):  # noqa: F811
    store, evaluator = searched(150.0, trials=40)
    before = len(store.records())
    settings = replace(SearchSettings(), budget="150s", trials=40)
    result = type("Result", (), {"trials": store.records()})
    assert ended_by_budget(result, settings) == (
        f"budget=150s: over after {before} of 40 trials; the same command with a larger one adds more")
    searched(250.0, store, evaluator, trials=40)
    assert len(store.records()) > before
    assert 150 < evaluator.now <= 250
    searched(float("inf"), store, evaluator, trials=40)
    result.trials = store.records()
    assert ended_by_budget(result, settings) is None


def test_what_is_in_training_is_kept_back(in_memory):  # noqa: F811
    """Another worker's trial, of which nothing is measured yet, may take what is left."""
    store, _ = searched(float("inf"), trials=3)
    limited = replace(config(trials=10), budget=spent(store.records()) + 2 * EPOCH)
    assert StudyBudget(store.records(), [], limited).allows()
    id = store.create()
    store.set_target_rung(id, 3)
    assert not StudyBudget(store.records(), [], limited).allows()
