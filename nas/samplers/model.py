"""A learnt sampler: what candidates are expected to reach decides what is tried next.

Objectives that are measured in training have the posterior of nas/posterior.py, of all rungs and seeds; costs are known before
training, so they are not modeled. Of a pool of candidates, all of which can be built and keep the limits, the one is proposed
that adds most hypervolume to what is known, on average over joint draws of the posterior: noisy expected hypervolume gain
(Daulton et al. 2021, arXiv 2105.08195); of one objective, expected improvement. Trials in training are part of each draw, so
several workers propose different candidates. Most of the pool are candidates of the front of some draw with a few parameters
sampled anew: mutation of the best is most of what such samplers gain (arXiv 2107.07343, for one objective).
"""
from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

from nas.observation import Observation
from nas.pareto import front, hypervolume_gains
from nas.posterior import Figures, descriptors, expected, fit
from nas.samplers.evolutionary import STARTUP_TRIALS, EvolutionarySampler
from nas.settings import COSTS
from nas.trial_record import SampledParams

LEAST_KNOWN = STARTUP_TRIALS  # trials with a figure: with fewer, TPE proposes, whose first ones are random
AT_TOP = 3  # trials that have reached the rung whose figures are expected
POOL = 32  # candidates of which one is proposed; the costs of all are measured
DRAWS = 64  # of the posterior
RANDOM_SHARE = 0.25  # of the pool: all parameters sampled at random
JITTER = 1e-6  # of the mean variance: the covariance of many candidates of few descriptors is singular
MARGIN = 0.1  # of the front's range: how far beyond its worst the reference point lies


class Described(Protocol):
    """A candidate whose costs are known."""

    @property
    def params(self) -> SampledParams: ...

    @property
    def costs(self) -> dict[str, float]: ...


Candidate = TypeVar("Candidate", bound=Described)


class Mutation(EvolutionarySampler):
    """A parent's parameters, of which one (with probability ½, two with ¼, …) are sampled at random; a share is all random."""

    def __init__(self, parents: Sequence[dict], seed: int = 0):
        super().__init__(seed)
        self.parents = parents

    def before_trial(self, study, trial) -> None:
        self.inherited = {}
        if self.rng.rand() >= RANDOM_SHARE:
            self.inherited = dict(self.parents[self.rng.randint(len(self.parents))])
            names = sorted(self.inherited)
            for name in self.rng.choice(names, min(len(names), self.rng.geometric(0.5)), replace=False):
                del self.inherited[name]


class Model:
    """What is known of a study: fitted once a proposal, then asked for parents and for the best of a pool."""

    def __init__(self, trained: Sequence[Observation], others: Sequence[Observation], objectives: dict[str, str], seed: int):
        """trained: trials with a figure; others: those that are in training or failed; objectives: name → direction"""
        self.known, self.objectives, self.seed = [*trained, *others], objectives, seed
        self.figures = {
            name: figures_of(self.known, which, direction)
            for which, (name, direction) in enumerate(objectives.items()) if name not in COSTS
        }
        described = self._described([])
        self.variances = {name: fit(Figures(described, *rows)) for name, rows in self.figures.items()}
        self.draws = self._draws(described)
        self.fronts = [front(draw) for draw in self.draws]
        self.parents = [self.known[i].params.values for one in self.fronts for i in one]

    def mutation(self, seed: int) -> Mutation:
        """Its parents are the fronts of all draws: a candidate is a parent as often as it is likely to be on the front."""
        return Mutation(self.parents, seed)

    def best(self, pool: Sequence[Candidate], count: int) -> list[Candidate]:
        """Those that add most to the hypervolume of what is known, each for itself, the best first."""
        return [pool[i] for i in np.argsort(-self._gains(pool), kind="stable")[:count]]

    def _gains(self, pool: Sequence[Described]) -> np.ndarray:
        on_front = np.concatenate([draw[one] for draw, one in zip(self.draws, self.fronts, strict=True)])
        span, known = np.ptp(on_front, axis=0), len(self.known)
        reference = on_front.max(0) + MARGIN * np.where(span > 0, span, 1.0)
        draws = self._draws(self._described(pool), pool)
        return np.mean([hypervolume_gains(draw[:known], draw[known:], reference) for draw in draws], axis=0)

    def _described(self, pool: Sequence[Described]) -> np.ndarray:
        every = [*self.known, *pool]
        return descriptors([one.params for one in every], [one.costs for one in every], len(self.known))

    def _draws(self, described: np.ndarray, pool: Sequence[Described] = ()) -> np.ndarray:
        """Joint draws of what is known and of a pool, all to be minimized, costs as logarithms.  → draws, candidates, M"""
        every, random = [*self.known, *pool], np.random.RandomState(self.seed)
        columns = []
        for name, direction in self.objectives.items():
            if name in self.figures:
                found = expected(Figures(described, *self.figures[name]), self.variances[name])
                jitter = JITTER * np.trace(found.covariance) / len(every) * np.eye(len(every))
                root = np.linalg.cholesky(found.covariance + jitter)
                column = found.mean + random.standard_normal((DRAWS, len(every))) @ root.T
            else:
                column = np.tile(np.log([max(one.costs[name], 1e-9) for one in every]), (DRAWS, 1))
            columns.append(-column if direction == "maximize" else column)
        return np.stack(columns, axis=2)


def fitted(observed: Sequence[Observation], objectives: dict[str, str], seed: int) -> Model | None:
    """None where too little is known, or all objectives are costs."""
    needed = {"macs", "parameters", *objectives} & {*COSTS}
    usable = [o for o in observed if o.hash and o.feasible and needed <= o.costs.keys()]
    trained = [o for o in usable if o.rungs]
    if len(trained) < LEAST_KNOWN or {*objectives} <= {*COSTS}:
        return None
    return Model(trained, [o for o in usable if not o.rungs], objectives, seed)


def figures_of(known: Sequence[Observation], which: int, direction: str) -> tuple[np.ndarray, ...]:
    """Of an objective the candidates' indices, seeds, rungs and values; to the highest rung that AT_TOP trials have reached.

    A trial that failed counts as the worst at the first rung, as for other samplers.
    """
    reached = sorted(len(o.rungs) for o in known)
    top, first = reached[-AT_TOP], [o.rungs[0][which] for o in known if o.rungs]
    worst = max(first) if direction == "minimize" else min(first)
    rows = []
    for i, one in enumerate(known):
        rows += [(i, 0, rung, values[which]) for rung, values in enumerate(one.rungs[:top])]
        if top == reached[-1]:  # fresh seeds are trained to the last rung
            rows += [(i, fresh.seed, top - 1, fresh.values[which]) for fresh in one.fresh]
        if not one.rungs and not one.pending:
            rows.append((i, 0, 0, worst))
    return tuple(np.array(column) for column in zip(*rows, strict=True))
