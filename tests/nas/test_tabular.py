"""The tabular benchmark: its table is of today's space, and successive halving on it is as good as documented."""
import numpy as np
import pytest
from commands import shortened
from optuna.storages import InMemoryStorage

from experiments.judge import HALVED, OBJECTIVES, SCHEDULES, references
from experiments.tabular import KEPT, SEEDS, choices
from nas.halving import Halving
from nas.pareto import hypervolume
from nas.scheduler import Worker
from nas.search_config import SearchConfig
from nas.store import TrialStore
from nas.tabular import Table, TableEvaluator


@pytest.fixture(scope="module")
def table() -> Table:
    return Table(KEPT)


def test_every_row_is_an_encoder_of_the_space(table):
    made = {candidate.hash: point for point, candidate in choices()}
    assert len(table.rows) >= 200
    assert set(table.rows) <= set(made)
    for hash, row in table.rows.items():
        assert made[hash] == {name: row[name] for name in made[hash]}
        assert np.shape(row["knn"]) == (len(SEEDS), table.epochs) == (2, 9)
        assert 10 < np.min(row["knn"]) <= np.max(row["knn"]) < 100


def test_figures_are_looked_up_by_seed_epoch_and_cost(table):
    candidate = choices()[7][1]
    row = table.rows[candidate.hash]
    assert TableEvaluator(table).costs(candidate) == {"macs": row["macs"], "parameters": row["parameters"]}
    assert [table.knn(candidate.hash, 3, seed) for seed in (0, 1, 2)] == [row["knn"][0][2], row["knn"][1][2], row["knn"][0][2]]
    assert table.knn(candidate.hash, 9) == pytest.approx((row["knn"][0][8] + row["knn"][1][8]) / 2)


@pytest.mark.parametrize(("schedule", "seeds"), shortened(zip(SCHEDULES, (2, 1), strict=True)))
def test_asynchronous_halving_reaches_the_front_for_a_third_of_the_epochs(table, schedule, seeds):
    """Against the same 128 proposals all trained to the end, as in experiments/judge.py."""
    (rungs, factor), reference = SCHEDULES[schedule], references(table)["chance"]
    for seed in range(seeds):
        store, evaluator = TrialStore("study", InMemoryStorage(), OBJECTIVES, {}), TableEvaluator(table, seed)
        Worker(store, SearchConfig(HALVED, Halving(rungs, factor), OBJECTIVES, {}, "random", seed, 3600.0), evaluator).run()
        records = store.records()
        part = [r.rungs[-1].values for r in records]
        full = [[table.knn(r.hash, 9, seed), r.costs["macs"]] for r in records]
        assert len({r.hash for r in records}) == HALVED
        assert evaluator.spent <= 0.3 * 9 * HALVED
        assert volume(part, reference) / volume(full, reference) >= 0.97


def volume(values: list[list[float]], reference: np.ndarray) -> float:
    return hypervolume(np.array([[-accuracy, np.log10(macs)] for accuracy, macs in values]), reference)
