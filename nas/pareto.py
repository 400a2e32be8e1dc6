"""Better and worse where there are several objectives. All values are to be small."""
from collections.abc import Sequence

import numpy as np


def layers(values: np.ndarray) -> list[list[int]]:
    """Non-dominated sorting (Deb et al. 2002, NSGA-II, §III.A): the front, then the front of the rest, …  N,M → indices"""
    left, found = list(range(len(values))), []
    while left:
        rest = values[left]
        beaten = [(((rest <= v).all(1)) & ((rest < v).any(1))).any() for v in rest]
        found.append([i for i, b in zip(left, beaten, strict=True) if not b])
        left = [i for i, b in zip(left, beaten, strict=True) if b]
    return found


def front(values: np.ndarray) -> list[int]:
    """What nothing is better than.  N,M → indices"""
    return layers(values)[0] if len(values) else []


def spread_out(values: np.ndarray) -> list[int]:
    """An order in which every beginning covers the whole: the best in each objective, then always the one farthest from all
    before it (an epsilon-net, as in Syne Tune's MOASHA, arXiv 2106.12639).  N,M → positions
    """
    low, high = values.min(0), values.max(0)
    scaled = (values - low) / np.where(high > low, high - low, 1)
    chosen = list(dict.fromkeys(int(i) for i in scaled.argmin(0)))
    distance = np.full(len(values), np.inf)
    for i in chosen:
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[i], axis=1))
    while len(chosen) < len(values):
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[chosen[-1]], axis=1))
    return chosen


def order(values: np.ndarray, too_much: Sequence[float] | None = None) -> list[int]:
    """Best first: layer by layer, each spread out. One objective: by it.  N,M → indices

    too_much: by how much limits are exceeded, N: what exceeds them least comes first.
    """
    values = np.asarray(values, float)
    if too_much is not None and any(x > 0 for x in too_much):
        fine = [i for i, x in enumerate(too_much) if x <= 0]
        rest = sorted((i for i, x in enumerate(too_much) if x > 0), key=lambda i: too_much[i])
        return [fine[i] for i in order(values[fine])] + rest if fine else rest
    if values.shape[1] == 1:
        return np.argsort(values[:, 0], kind="stable").tolist()
    return [layer[i] for layer in layers(values) for i in spread_out(values[layer])]


def hypervolume(values: np.ndarray, reference: np.ndarray) -> float:
    """Of what the points dominate up to the reference.  N,M → a number; points beyond the reference count nothing."""
    from optuna._hypervolume import compute_hypervolume

    inside = values[(values < reference).all(1)]
    return float(compute_hypervolume(inside, reference)) if len(inside) else 0.0
