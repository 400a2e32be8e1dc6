"""All of Optuna that is private and used here: look at this file when Optuna is upgraded."""
import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial


def trial_id(trial: FrozenTrial) -> int:
    """The storage's identifier of a trial, which its methods take; not its number in the study."""
    return trial._trial_id


def study_id(study: Study) -> int:
    return study._study_id


def contains(distribution: BaseDistribution, value) -> bool:
    """Could the distribution have given this value?"""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:
        return False


def hypervolume(values: np.ndarray, reference: np.ndarray) -> float:
    """Volume between the points and the reference, all points below it.  N,M → a number"""
    from optuna._hypervolume import compute_hypervolume

    return float(compute_hypervolume(values, reference))


def boxes_beyond(values: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The boxes of all that no value dominates, up to the reference; two objectives or more.  N,M → lower, upper: B,M"""
    from optuna._hypervolume import get_non_dominated_box_bounds

    return get_non_dominated_box_bounds(values, reference)
