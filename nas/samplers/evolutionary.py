"""NSGA-II and regularized evolution as Optuna samplers that propose one child at a time."""
from collections.abc import Sequence

import numpy as np
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from nas.optuna_adapter import contains
from nas.pareto import front, rank

STARTUP_TRIALS = 12  # random trials before a sampler learns


class EvolutionarySampler(BaseSampler):
    """A child has its parents' parameters, except for some that are sampled at random.

    A parameter that no parent has, or whose value is no longer offered, is sampled at random too.
    """

    def __init__(self, seed: int = 0):
        self.rng, self.random_sampler = np.random.RandomState(seed), RandomSampler(seed)
        self.inherited: dict = {}

    def infer_relative_search_space(self, study, trial) -> dict:
        return {}

    def sample_relative(self, study, trial, search_space) -> dict:
        return {}

    def before_trial(self, study, trial) -> None:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(complete) >= STARTUP_TRIALS:
            self.inherited = self.child(complete, [1 if d.name == "MINIMIZE" else -1 for d in study.directions])

    def child(self, trials: list[FrozenTrial], signs: list[int]) -> dict:
        raise NotImplementedError

    def sample_independent(self, study, trial, param_name, param_distribution):
        value = self.inherited.get(param_name)
        if value is None or not contains(param_distribution, value):
            return self.random_sampler.sample_independent(study, trial, param_name, param_distribution)
        return value

    def reseed_rng(self) -> None:
        self.random_sampler.reseed_rng()


class NSGA2(EvolutionarySampler):
    """Steady-state NSGA-II (Deb et al. 2002, IEEE TEVC 6(2); Durillo et al. 2009, EMO): one child at a time, of the best of
    all trials.

    The parents are the front, and as many more as make it `min_parents`. Each of two comes from a tournament of two, by `rank`
    (non-dominated sorting, limits first; diversity order in place of the crowding distance). With probability `crossover` each
    parameter is either's, else the first's; each is sampled at random with probability 1/n.
    """

    def __init__(self, min_parents: int = 4, crossover: float = 0.9, seed: int = 0):
        super().__init__(seed)
        self.min_parents, self.crossover = min_parents, crossover

    def child(self, trials: list[FrozenTrial], signs: list[int]) -> dict:
        trials = list({repr(sorted(t.params.items())): t for t in trials}.values())  # a repeated proposal is there twice
        values, violations = signs * np.array([t.values for t in trials]), [violation_of(t) for t in trials]
        parents = rank(values, violations)[: max(self.min_parents, len(front(values[least_violating(violations)])))]
        first, second = (trials[parents[self.rng.randint(len(parents), size=2).min()]].params for _ in range(2))
        child, crossed = dict(first), self.rng.rand() < self.crossover
        for name in sorted(first):
            if crossed and name in second and self.rng.rand() < 0.5:
                child[name] = second[name]
            if self.rng.rand() < 1 / len(first):
                del child[name]
        return child


class Evolution(EvolutionarySampler):
    """Regularized evolution (Real et al. 2019, arXiv 1802.01548, algorithm 1): the best of `sample` drawn from the `population`
    youngest trials, with one parameter sampled at random. Best: one of the front, of those that violate limits least.
    """

    def __init__(self, population: int = 3 * STARTUP_TRIALS, sample: int = STARTUP_TRIALS, seed: int = 0):
        super().__init__(seed)
        self.population, self.sample = population, sample

    def child(self, trials: list[FrozenTrial], signs: list[int]) -> dict:
        youngest = trials[-self.population :]
        drawn = [youngest[i] for i in sorted(self.rng.choice(len(youngest), min(self.sample, len(youngest)), False))]
        values = signs * np.array([t.values for t in drawn])
        least = least_violating([violation_of(t) for t in drawn])
        best = [least[i] for i in front(values[least])]  # one for one objective; else none of them is better than another
        child = dict(drawn[best[self.rng.randint(len(best))]].params)
        del child[sorted(child)[self.rng.randint(len(child))]]
        return child


def least_violating(violations: Sequence[float]) -> list[int]:
    """Indices of the smallest violation: all feasible ones, where there are any."""
    return [i for i, violation in enumerate(violations) if violation <= min(violations)]


def violation_of(trial: FrozenTrial) -> float:
    """By how much a trial exceeds its limits in total."""
    return sum(max(by, 0.0) for by in trial.constraints.values())
