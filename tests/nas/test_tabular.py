"""The tabular benchmark: its table is of the space as it is now, and successive halving is worth on it what is said of it."""
import numpy as np
import pytest
from commands import shortened
from optuna.storages import InMemoryStorage

from experiments.judge import HALVED, OBJECTIVES, SCHEDULES, references
from experiments.tabular import KEPT, SEEDS, choices
from nas.ledger import Ledger
from nas.pareto import hypervolume
from nas.scheduler import Halving, Plan, Worker
from nas.tabular import Lookup, Table


@pytest.fixture(scope="module")
def table() -> Table:
    return Table(KEPT)


def test_every_row_is_an_encoder_of_the_space(table):
    made = {choice.hash: point for point, choice in choices()}
    assert len(table.rows) >= 200
    assert set(table.rows) <= set(made)
    for hash, row in table.rows.items():
        assert made[hash] == {name: row[name] for name in made[hash]}
        assert np.shape(row["knn"]) == (len(SEEDS), table.epochs) == (2, 9)
        assert 10 < np.min(row["knn"]) <= np.max(row["knn"]) < 100


def test_figures_are_looked_up_by_seed_epoch_and_cost(table):
    choice = choices()[7][1]
    row = table.rows[choice.hash]
    assert Lookup(table).costs(choice) == {"macs": row["macs"], "parameters": row["parameters"]}
    assert [table.knn(choice.hash, 3, seed) for seed in (0, 1, 2)] == [row["knn"][0][2], row["knn"][1][2], row["knn"][0][2]]
    assert table.knn(choice.hash, 9) == pytest.approx((row["knn"][0][8] + row["knn"][1][8]) / 2)


@pytest.mark.parametrize(("schedule", "seeds"), shortened(zip(SCHEDULES, (2, 1), strict=True)))
def test_asynchronous_halving_reaches_the_front_for_a_third_of_the_epochs(table, schedule, seeds):
    """Against the same 128 proposals all trained to the end, as experiments/judge.py has it."""
    (rungs, factor), reference = SCHEDULES[schedule], references(table)["chance"]
    for seed in range(seeds):
        book, evaluator = Ledger("study", InMemoryStorage(), OBJECTIVES, {}), Lookup(table, seed)
        Worker(book, Plan(HALVED, Halving(rungs, factor), OBJECTIVES, {}, "random", seed, 3600.0), evaluator).run()
        entries = book.entries()
        part = [e.rungs[-1]["values"] for e in entries]
        full = [[table.knn(e.hash, 9, seed), e.costs["macs"]] for e in entries]
        assert len({e.hash for e in entries}) == HALVED
        assert evaluator.spent <= 0.3 * 9 * HALVED
        assert volume(part, reference) / volume(full, reference) >= 0.97


def volume(values: list[list[float]], reference: np.ndarray) -> float:
    return hypervolume(np.array([[-accuracy, np.log10(macs)] for accuracy, macs in values]), reference)
