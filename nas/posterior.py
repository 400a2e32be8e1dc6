"""How good is a candidate really? A trial is one training of one seed; part of its figure is luck.

One Gaussian process explains the figures of all trials at all rungs of a study. At rung r, of candidate i with descriptors x,

    y = m_r + g_r (x·β + n_i + l_is) + e_r

where β is normal, n_i is the candidate's own part (there where candidates were trained with several seeds; else it cannot be
told from luck), l_is the luck of a seed s, the same at all rungs, and e_r noise of a rung. g_r is the rung's scale, 1 at the
last. Promotion depends on figures that are all in the model, so that it does not bias what is expected of those promoted.
The variances maximize the marginal likelihood with a broad prior; x are the candidate's parameters and the logarithms of
multiply-adds and of parameters, with their squares. Rasmussen and Williams 2006, "Gaussian processes for machine learning", §2.

What is expected is m + x·β + n_i at the last rung: the mean over fresh seeds. The best of a study promises 2 points too much
by its own figure on our tabular benchmark, this .6 at most (experiments/tabular/promises.json).
"""
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from optuna.distributions import CategoricalDistribution
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.stats import norm

from nas.settings import MEASURED
from nas.trial_record import SampledParams, TrialRecord

LEAST_TRIALS = 8  # with a figure, and two of them at the last rung: below that nothing is said
WIDTH = 1.96  # standard deviations of a 95 % interval
LEVEL = 10.0  # prior variance of a rung's mean, where the figures have variance 1
START = {"descriptors": 1.0, "own": 0.1, "luck": 0.3, "rung": 0.1}  # variances that the search for the likeliest begins with
PRIOR = 1.5  # standard deviation of their logarithms around the start


@dataclass(frozen=True)
class Figures:
    """What was measured: descriptors K,D of candidates; of each figure its candidate, seed, rung and value, N."""

    descriptors: np.ndarray
    candidate: np.ndarray
    seed: np.ndarray
    rung: np.ndarray
    value: np.ndarray

    @property
    def replicated(self) -> bool:
        """Was a candidate trained with several seeds?"""
        pairs = {*zip(self.candidate.tolist(), self.seed.tolist(), strict=True)}
        return len(pairs) > len({candidate for candidate, _ in pairs})


@dataclass(frozen=True)
class Expected:
    """Of fresh trainings to the last rung: mean of each candidate K, their covariance K,K, and the deviation of one seed."""

    mean: np.ndarray
    covariance: np.ndarray
    luck: float

    def interval(self, i: int) -> float:
        """Half the width of the 95 % interval of what is expected of candidate i."""
        return WIDTH * math.sqrt(max(self.covariance[i, i], 0.0))

    def better(self, i: int, j: int) -> float:
        """The probability that i has the greater mean."""
        variance = self.covariance[i, i] + self.covariance[j, j] - 2 * self.covariance[i, j]
        if variance <= 1e-12 * max(1.0, self.covariance[i, i]):
            return 0.5 if self.mean[i] == self.mean[j] else float(self.mean[i] > self.mean[j])
        return float(norm.cdf((self.mean[i] - self.mean[j]) / math.sqrt(variance)))


@dataclass(frozen=True)
class _Variances:
    descriptors: float
    own: float
    luck: float
    scale: np.ndarray  # of each rung; the last is 1
    rung: np.ndarray


class _Kernel:
    """The covariance of all figures, N,N, and its derivatives."""

    def __init__(self, figures: Figures):
        self.figures = figures
        self.alike = figures.descriptors @ figures.descriptors.T / figures.descriptors.shape[1]
        same = figures.candidate[:, None] == figures.candidate
        self.parts = {  # by variance
            "descriptors": self.alike[np.ix_(figures.candidate, figures.candidate)], "own": same,
            "luck": same & (figures.seed[:, None] == figures.seed),
        }
        self.level = figures.rung[:, None] == figures.rung

    def shared(self, v: _Variances) -> list[np.ndarray]:
        """The parts of the covariance that figures of one candidate or of like ones share, N,N each."""
        scale = v.scale[self.figures.rung]
        scales = np.outer(scale, scale)
        return [getattr(v, name) * part * scales for name, part in self.parts.items()]

    def covariance(self, v: _Variances, shared: list[np.ndarray]) -> np.ndarray:
        return sum(shared) + np.diag(v.rung[self.figures.rung]) + LEVEL * self.level

    def derivatives(self, v: _Variances, shared: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
        """By the logarithm of each variance and scale, in the order of `_likeliest`, summed over N,N with these weights."""
        shared, rungs = [weights * part for part in shared], np.arange(len(v.rung))[:, None]
        scale, noise = 2 * sum(shared).sum(1), np.diag(weights) * v.rung[self.figures.rung]
        at = self.figures.rung == rungs
        return np.array([*(part.sum() for part in shared), *(at[:-1] @ scale), *(at @ noise)])


def expected(figures: Figures, variances: _Variances | None = None) -> Expected:
    """The posterior of every candidate at the last rung, also of those without a figure.  variances: of `fit`; None: fitted."""
    y, center, spread = _standard_figures(figures)
    kernel = _Kernel(figures)
    v = variances or _likeliest(kernel, y)
    alike, known = kernel.alike, cho_factor(kernel.covariance(v, kernel.shared(v)))
    own = v.own * (np.arange(len(alike))[:, None] == figures.candidate)
    last = figures.rung == len(v.rung) - 1
    cross = (v.descriptors * alike[:, figures.candidate] + own) * v.scale[figures.rung] + LEVEL * last
    prior = v.descriptors * alike + v.own * np.eye(len(alike)) + LEVEL
    mean = center + spread * (cross @ cho_solve(known, y))
    return Expected(mean, spread**2 * (prior - cross @ cho_solve(known, cross.T)), spread * math.sqrt(v.luck + v.rung[-1]))


def fit(figures: Figures) -> _Variances:
    """The likeliest variances, of figures with mean 0 and variance 1."""
    return _likeliest(_Kernel(figures), _standard_figures(figures)[0])


def _standard_figures(figures: Figures) -> tuple[np.ndarray, float, float]:
    center, spread = figures.value.mean(), figures.value.std() or 1.0
    return (figures.value - center) / spread, center, spread


def _likeliest(kernel: _Kernel, y: np.ndarray) -> _Variances:
    rungs, replicated = int(kernel.figures.rung.max()) + 1, kernel.figures.replicated
    start = np.log([START["descriptors"], START["own"], START["luck"], *[1.0] * (rungs - 1), *[START["rung"]] * rungs])

    def variances(t: np.ndarray) -> _Variances:
        a, own, luck, *rest = np.exp(t)
        return _Variances(a, own if replicated else 0.0, luck, np.array([*rest[: rungs - 1], 1.0]), np.array(rest[rungs - 1 :]))

    def loss(t: np.ndarray) -> tuple[float, np.ndarray]:
        v, away = variances(t), (t - start) / PRIOR
        shared = kernel.shared(v)
        factor = cho_factor(kernel.covariance(v, shared))
        inverse = cho_solve(factor, np.eye(len(y)))
        alpha = inverse @ y
        value = 0.5 * y @ alpha + np.log(np.diag(factor[0])).sum() + 0.5 * (away**2).sum()
        return value, 0.5 * kernel.derivatives(v, shared, inverse - np.outer(alpha, alpha)) + away / PRIOR

    return variances(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(-6.0, 4.0)] * len(start)).x)


def descriptors(
    sampled: Sequence[SampledParams], costs: Sequence[dict[str, float]], base: int | None = None
) -> np.ndarray:
    """Each candidate's parameters, one column for a number and one for each choice, the logarithms of its multiply-adds and
    parameters, and the squares of these two; every column of mean 0 and deviation 1, a parameter that one lacks 0.  → K,D

    base: mean and deviation are of so many first candidates.
    """
    columns: dict[tuple, np.ndarray] = {}

    def put(name: tuple, i: int, value: float) -> None:
        columns.setdefault(name, np.full(len(sampled), np.nan))[i] = value

    for i, params in enumerate(sampled):
        for name, value in params.values.items():
            distribution = params.distributions[name]
            if isinstance(distribution, CategoricalDistribution):
                for choice in distribution.choices:
                    put((name, choice), i, float(choice == value))
            else:
                put((name,), i, math.log(value) if getattr(distribution, "log", False) else float(value))
        for cost in ("macs", "parameters"):
            put(("cost", cost), i, math.log(max(costs[i][cost], 1e-9)))
    for cost in ("macs", "parameters"):
        columns[("squared", cost)] = _standard(columns[("cost", cost)], base) ** 2
    return np.stack([_standard(column, base) for column in columns.values()], axis=1)


def _standard(column: np.ndarray, base: int | None = None) -> np.ndarray:
    there = column[:base][~np.isnan(column[:base])]
    if not len(there):  # none of the base has this parameter
        return np.nan_to_num(column)
    deviation = there.std()
    return np.nan_to_num((column - there.mean()) / (deviation if deviation > 0 else 1.0))


def noisy_objective(objectives: Iterable[str]) -> str | None:
    """The first objective that is measured after training, and so depends on a seed."""
    return next((name for name in objectives if name in MEASURED), None)


@dataclass(frozen=True)
class Posterior:
    """What is expected of a study's trials, by the first objective that is measured after training."""

    objective: str
    sign: float  # −1 where more is better
    expected: Expected
    rows: dict[int, int]  # trial's number → its row

    def mean(self, record: TrialRecord) -> float:
        return float(self.expected.mean[self.rows[record.number]])

    def interval(self, record: TrialRecord) -> float:
        return self.expected.interval(self.rows[record.number])

    def better(self, one: TrialRecord, other: TrialRecord) -> float:
        """The probability that a fresh training of one is expected to end better than of the other."""
        probability = self.expected.better(self.rows[one.number], self.rows[other.number])
        return probability if self.sign < 0 else 1 - probability


def expectation(record: TrialRecord, found: Posterior | None) -> tuple[float, float] | tuple[None, None]:
    """A trial's mean over fresh seeds and half its 95 % interval; None and None where too little is known."""
    known = found is not None and record.number in found.rows
    return (found.mean(record), found.interval(record)) if known else (None, None)


def so_far(records: Sequence[TrialRecord], objectives: dict[str, str]) -> Posterior | None:
    """Of a study that goes on: what is expected at the highest rung that at least three trials have reached."""
    reached = sorted((len(r.rungs) for r in records if r.rungs), reverse=True)
    return posterior(records, objectives, reached[2]) if len(reached) >= LEAST_TRIALS else None


def posterior(
    records: Sequence[TrialRecord], objectives: dict[str, str], rungs: int, replicates: Sequence[TrialRecord] = ()
) -> Posterior | None:
    """None where no objective is measured after training, or too few trials have a figure to say anything.

    objectives: name → "maximize" or "minimize", in the order of the trials' values; rungs: of the study; replicates: of its
    trials, trained to the last rung (nas/verification.py).
    """
    name = noisy_objective(objectives)
    trained = [r for r in records if r.rungs and {"macs", "parameters"} <= r.costs.keys()]
    if name is None or len(trained) < LEAST_TRIALS or sum(len(r.rungs) >= rungs for r in trained) < 2:
        return None
    which = [*objectives].index(name)
    rows = [(i, 0, rung, one.values[which]) for i, r in enumerate(trained) for rung, one in enumerate(r.rungs[:rungs])]
    row = {r.number: i for i, r in enumerate(trained)}
    rows += [(row[r.replicate.of], r.replicate.seed, rungs - 1, r.rungs[-1].values[which])
             for r in replicates if r.rungs and r.replicate and r.replicate.of in row]
    candidate, seed, rung, value = (np.array(column) for column in zip(*rows, strict=True))
    described = descriptors([r.params for r in trained], [r.costs for r in trained])
    found = expected(Figures(described, candidate, seed, rung, value))
    sign = -1.0 if objectives[name] == "maximize" else 1.0
    return Posterior(name, sign, found, row)
