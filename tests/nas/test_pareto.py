"""Non-dominated order against Optuna's own, hypervolume against counting."""
import numpy as np
import pytest
from optuna.study._multi_objective import _fast_non_domination_rank

from nas.pareto import diversity_order, front, hypervolume, knee, nondominated_sort, rank

POINTS = [np.random.RandomState(s).randint(0, 12, (40, m)).astype(float) for s in range(4) for m in (1, 2, 3)]


@pytest.mark.parametrize("values", POINTS)
def test_fronts_are_optunas(values):
    ranks = np.empty(len(values), int)
    for k, layer in enumerate(nondominated_sort(values)):
        ranks[layer] = k
    assert ranks.tolist() == _fast_non_domination_rank(values).tolist()
    assert front(values) == nondominated_sort(values)[0]


@pytest.mark.parametrize("values", POINTS)
def test_rank_is_by_front_and_holds_each_once(values):
    found = rank(values)
    assert sorted(found) == list(range(len(values)))
    ranks = _fast_non_domination_rank(values)[found]
    assert (np.diff(ranks) >= 0).all()


def test_a_layer_begins_with_its_ends_and_then_its_middle():
    values = np.array([[0.0, 10], [1, 9], [5, 5], [9, 1], [10, 0]])
    assert diversity_order(values)[:3] == [0, 4, 2]


def test_what_keeps_limits_comes_first():
    values = np.array([[0.0], [1.0], [2.0], [3.0]])
    assert rank(values, [5.0, 0.0, 1.0, 0.0]) == [1, 3, 2, 0]


def test_hypervolume_counts_cells():
    values, reference = np.random.RandomState(0).randint(0, 10, (6, 2)).astype(float), np.array([10.0, 10.0])
    cells = sum(any(x >= a and y >= b for a, b in values) for x in range(10) for y in range(10))
    assert hypervolume(values, reference) == pytest.approx(cells)
    assert hypervolume(np.array([[11.0, 0.0]]), reference) == 0


def test_the_knee_is_the_corner_of_the_front():
    corner = np.array([[0.0, 10.0], [1.0, 2.0], [2.0, 1.5], [9.0, 0.0]])
    assert knee(corner) == 1
    assert knee(corner * [1e-6, 1e6]) == 1
    assert knee(corner[:2]) is None
    assert knee(np.array([[0.0, 1.0], [0.6, 0.6], [1.0, 0.0]])) is None
