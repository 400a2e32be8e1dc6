"""A study with a budget: it ends in time with a trained encoder, and what it trained is counted wherever it was stopped."""
from dataclasses import replace

import pytest
from optuna.trial import TrialState

from core.errors import Stopped
from nas.budget import StudyBudget, spent
from nas.checkpoints import remove_checkpoints
from nas.scheduler import Worker
from nas.search import ended_by_budget
from nas.settings import SearchSettings
from nas.verification import FINALISTS
from tests.nas.test_scheduler import config, in_memory, open_store  # noqa: F401
from tests.nas.test_verification import Seeded

EPOCH = 10.0  # seconds


class Timed(Seeded):
    """An epoch takes EPOCH seconds of a clock that nothing else moves.  stop_at: epochs after which a signal comes, once"""

    def __init__(self, stop_at: float | None = None, **options):
        super().__init__(**options)
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


def test_what_failed_was_spent_too(in_memory):  # noqa: F811
    """Each of its trials takes an epoch before it fails."""
    class Failing(Timed):
        def advance(self, candidate, record, epochs, heartbeat):
            figures = super().advance(candidate, record, epochs, heartbeat)
            if candidate["point"][0] == 2:
                raise RuntimeError("no memory")
            return figures

    store, evaluator = searched(200.0, evaluator=Failing(), trials=1000)
    assert sum(r.state == TrialState.FAIL for r in store.records()) > 1
    assert spent(store.records()) == evaluator.now <= 200


def test_raised_with_replicates_it_is_kept_again(in_memory):  # noqa: F811
    """The finalists may be others by then, and are trained again too."""
    store, evaluator = open_store(), Timed()
    for budget in (1200.0, 1800.0):
        worker = Worker(store, replace(config(trials=1000), budget=budget, verify=2), evaluator)
        worker.clock = lambda: evaluator.now
        worker.run()
        assert spent([*store.records(), *store.replicates()]) == evaluator.now <= budget


def test_of_one_objective_one_is_verified(in_memory):  # noqa: F811
    found = {}
    for objectives in ({"knn": "maximize"}, {"knn": "maximize", "macs": "minimize"}):
        store = open_store(f"{len(objectives)}", objectives)
        searched(float("inf"), store, trials=3)
        some = replace(config(trials=1000), budget=1e9, verify=2, objectives=objectives)
        found[len(objectives)] = StudyBudget(store.records(), [], some)._replicates()
    assert found == {1: 2 * 9, 2: FINALISTS * 2 * 9}


def test_an_epochs_seconds_are_those_of_rungs_whose_time_is_known(in_memory):  # noqa: F811
    """Neither of rungs that an older version trained, nor of one that was stopped halfway."""
    store, _ = searched(float("inf"), trials=3)
    known = StudyBudget(store.records(), [], config())
    assert known.per_epoch == EPOCH
    [best] = complete(store)
    id = store.create()
    store.set_rungs(id, [replace(best.rungs[0], seconds=0.0), best.rungs[1]])
    store.set_unfinished(id, 600.0)
    found = StudyBudget(store.records(), [], config())
    assert (found.per_epoch, found.spent) == (EPOCH, known.spent + best.rungs[1].seconds + 600)


def test_a_checkpoint_that_cannot_be_deleted_stays(in_memory, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    store, _ = searched(float("inf"), trials=3)
    folders = [r.run_folders("study")[0] for r in store.records()]
    for folder in folders:
        (folder / "last").mkdir(parents=True)
        (folder / "encoder.safetensors").touch()
        (folder / "last.pt").touch()
    (folders[0] / "last.pt").unlink()
    (folders[0] / "last.pt").mkdir()  # unlink raises an OSError
    assert remove_checkpoints("study", store.records()) == [r.number for r in store.records()]
    assert [(f / "last.pt").exists() for f in folders] == [True, False, False]
    assert all((f / "encoder.safetensors").exists() and not (f / "last").exists() for f in folders)
    running = store.record(store.create())
    assert remove_checkpoints("study", [running]) == []
