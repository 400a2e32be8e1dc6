"""Better and worse with several objectives. All values are minimized."""
from collections.abc import Sequence

import numpy as np

from nas import optuna_adapter


def nondominated_sort(values: np.ndarray) -> list[list[int]]:
    """Fronts (Deb et al. 2002, NSGA-II, §III.A): the Pareto front, then the front of the rest, …  N,M → indices"""
    remaining, fronts = list(range(len(values))), []
    while remaining:
        rest = values[remaining]
        dominated = [(((rest <= v).all(1)) & ((rest < v).any(1))).any() for v in rest]
        fronts.append([i for i, d in zip(remaining, dominated, strict=True) if not d])
        remaining = [i for i, d in zip(remaining, dominated, strict=True) if d]
    return fronts


def front(values: np.ndarray) -> list[int]:
    """The Pareto front.  N,M → indices"""
    if not len(values):
        return []
    beaten = (values[:, None] >= values).all(2) & (values[:, None] > values).any(2)
    return np.flatnonzero(~beaten.any(1)).tolist()


def diversity_order(values: np.ndarray) -> list[int]:
    """An order whose every prefix covers the whole front: the best in each objective first, then always the point that is
    farthest from all before it (an epsilon-net, as in Syne Tune's MOASHA, arXiv 2106.12639).  N,M → positions
    """
    low, high = values.min(0), values.max(0)
    scaled = (values - low) / np.where(high > low, high - low, 1)
    order = list(dict.fromkeys(int(i) for i in scaled.argmin(0)))
    distance = np.full(len(values), np.inf)
    for i in order:
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[i], axis=1))
    while len(order) < len(values):
        distance[order] = -1
        order.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[order[-1]], axis=1))
    return order


def rank(values: np.ndarray, violations: Sequence[float] | None = None) -> list[int]:
    """Best first: front by front, each in diversity order; one objective: by its value.  N,M → indices

    violations: by how much limits are exceeded, N. Feasible points come first, then the smallest violation.
    """
    values = np.asarray(values, float)
    if violations is not None and any(v > 0 for v in violations):
        feasible = [i for i, v in enumerate(violations) if v <= 0]
        others = sorted((i for i, v in enumerate(violations) if v > 0), key=lambda i: violations[i])
        return [feasible[i] for i in rank(values[feasible])] + others if feasible else others
    if values.shape[1] == 1:
        return np.argsort(values[:, 0], kind="stable").tolist()
    return [layer[i] for layer in nondominated_sort(values) for i in diversity_order(values[layer])]


def knee(values: np.ndarray) -> int | None:
    """The point of a front where a little more of one objective costs much of the other: the farthest, towards the better side,
    from the line between the two extremes, each objective scaled to its range (Das 1999, "On characterizing the knee of the
    Pareto curve"). None of fewer than three points, or where none lies on the better side.  N,2 → index
    """
    if len(values) < 3:
        return None
    low, high = values.min(0), values.max(0)
    below = 1 - ((values - low) / np.where(high > low, high - low, 1)).sum(1)  # the line is where the scaled ones sum to 1
    best = int(below.argmax())
    return best if below[best] > 0 else None


def hypervolume(values: np.ndarray, reference: np.ndarray) -> float:
    """The volume that the points dominate up to the reference.  N,M → a number; points beyond the reference do not count."""
    inside = values[(values < reference).all(1)]
    return optuna_adapter.hypervolume(inside, reference) if len(inside) else 0.0


def hypervolume_gains(values: np.ndarray, points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """By how much each point alone adds to the hypervolume of the values; of one objective, to the best.  N,M; P,M; M → P"""
    if values.shape[1] == 1:
        return np.maximum(values.min() - points[:, 0], 0.0)
    inside = values[(values < reference).all(1)]
    boxes = _stairs if len(reference) == 2 else optuna_adapter.boxes_beyond
    lower, upper = boxes(np.vstack([inside, reference]), reference)
    return np.maximum(upper - np.maximum(lower, points[:, None]), 0.0).prod(2).sum(1)


def _stairs(values: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`optuna_adapter.boxes_beyond` of two objectives, twenty times as fast: one box below each step of the front."""
    order = np.lexsort((values[:, 1], values[:, 0]))
    least = np.minimum.accumulate(values[order, 1])
    x, y = values[order][np.r_[True, least[1:] < least[:-1]]].T
    lower = np.c_[np.r_[-np.inf, x], np.full(len(x) + 1, -np.inf)]
    return lower, np.c_[np.r_[x, reference[0]], np.r_[reference[1], y]]
