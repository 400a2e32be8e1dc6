"""What to try next: Optuna's samplers, NSGA-II and regularised evolution, asked so that a study is a function of its history.

A sampler never sees the real study. For each proposal a study in memory is made of what is known, in which paused and refused
trials teach too (in Optuna's own, GP ignores them), and the sampler is seeded by the trial's number: a study that was cut
anywhere and goes on proposes what it would have proposed. What was tried before is told again and asked anew,
so nothing is trained twice; and what a choice costs is known before it is trained, so a proposal that exceeds a limit is told
as such and drawn again, a few times over, before it becomes a trial.
"""
import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.pareto import front, order

SAMPLERS = ("tpe", "gp", "nsga2", "evolution", "random")
ASKED = 20  # proposals, known already or beyond limits, after which it is drawn at random
REDRAWN = 120  # proposals after which one beyond the limits becomes a trial, to be refused
UNBUILT = 40  # different proposals that cannot be built after which the trial fails
AT_RANDOM = 2_000  # proposals known already after which none is left
STARTUP = 12  # random trials before there is something to learn from


class Exhausted(Exception):
    """The space holds nothing that was not tried."""


class Unbuildable(Exception):
    """What was drawn cannot be built.  broken: those that were tried for this trial."""

    def __init__(self, reason: str, broken: Sequence["Broken"] = ()):
        super().__init__(reason)
        self.broken = list(broken)


@dataclass(frozen=True)
class Broken:
    """Parameters of which no choice, or no cost, came."""

    params: dict
    distributions: dict[str, BaseDistribution]
    reason: str

    @property
    def json(self) -> dict:
        return {"params": self.params, "distributions": json_of(self.distributions), "reason": self.reason}


@dataclass(frozen=True)
class Known:
    """A trial as a sampler learns of it."""

    number: int
    hash: str | None  # None: it could not be built
    params: dict
    distributions: dict[str, BaseDistribution]
    values: list[float] | None  # None: not known yet, or never to be
    violations: dict[str, float] = field(default_factory=dict)  # limit → by how much; none or ≤ 0: feasible
    pending: bool = False


@dataclass(frozen=True)
class Proposal:
    choice: object  # what the space made of the parameters
    costs: dict[str, float]
    params: dict
    distributions: dict[str, BaseDistribution]
    opening: bool  # is it what the space begins with?
    drawn: int  # how many were drawn until it was found
    broken: list[Broken]  # on the way


def propose(
    sampler: str, choose: Callable[[optuna.Trial], object], costs: Callable[[object], dict[str, float]],
    limits: dict[str, float], known: Sequence[Known], directions: Sequence[str], seed: int, number: int, again: int = 0,
    candidates: int = 1, best: Callable[[list], int] | None = None, first: dict | None = None,
) -> Proposal:
    """A choice that is not known yet, for the trial of this number; within the limits, where one was found soon.

    choose: trial → something with a `.hash`.  costs: that → its costs.  Both may raise Unbuildable: another is drawn.
    limits: cost → the most of it.  again: how often this trial's choice was found to be another worker's too.  best: of so
    many candidates, which?  first: parameters of trial 0, whatever limits and `best` say.  Raises Exhausted; Unbuildable
    where nothing that was drawn can be built.
    """
    taken, found_so_far, broken = {k.hash: k for k in known if k.hash}, [], []
    unbuildable = [k.params for k in known if not k.hash]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        otherwise = worst(known, directions)
        study = rebuilt(known, directions, otherwise)
        begins = bool(first) and number == 0
        if begins:
            study.enqueue_trial(first)
        for attempt in range(AT_RANDOM):
            asking, opening = attempt < ASKED, begins and attempt == 0
            study.sampler = make(sampler if asking else "random", seeded(seed, number, again, attempt))
            trial = study.ask()
            try:
                choice = choose(trial)
                found = costs(choice) if choice.hash not in taken else {}
            except Unbuildable as error:
                if trial.params not in unbuildable:
                    unbuildable.append(trial.params)
                    broken.append(Broken(trial.params, trial.distributions, str(error)))
                if opening or not trial.params or len(broken) == UNBUILT:  # without a question asked, no other answer helps
                    if found_so_far:
                        break
                    raise Unbuildable(str(error), broken) from error
                tell(study, trial, Known(number, None, {}, {}, otherwise) if asking else None)
                continue
            if choice.hash in taken:
                tell(study, trial, taken[choice.hash] if asking else None)
                continue
            over = excess(found, limits)
            if attempt < REDRAWN and not opening and any(by > 0 for by in over.values()):
                tell(study, trial, Known(number, choice.hash, {}, {}, otherwise, over) if asking else None)
                continue
            found_so_far.append(Proposal(choice, found, trial.params, trial.distributions, opening, attempt + 1, broken))
            if opening or len(found_so_far) == candidates:
                break
            taken[choice.hash] = Known(number, choice.hash, {}, {}, None)
            study.tell(trial, state=TrialState.FAIL)
    if found_so_far:
        return found_so_far[best([p.choice for p in found_so_far]) if len(found_so_far) > 1 else 0]
    if broken and not taken:
        raise Unbuildable(broken[-1].reason, broken)
    more = f" and {len(unbuildable)} that cannot be built" if unbuildable else ""
    raise Exhausted(f"the space holds no more than {len(taken)} choices{more}, and all were tried")


def excess(costs: dict[str, float], limits: dict[str, float]) -> dict[str, float]:
    """Limit → by how much it is exceeded; at most 0 where it is kept, or was not measured because another is not."""
    return {name: costs.get(name, most) - most for name, most in limits.items()}


def tell(study: optuna.Study, trial: optuna.Trial, known: Known | None) -> None:
    """The sampler learns the remembered value, where there is one."""
    if known is None or known.values is None or known.pending:
        study.tell(trial, state=TrialState.FAIL)
        return
    for name, by in known.violations.items():
        trial.set_constraint(name, by)
    study.tell(trial, known.values)


def worst(known: Sequence[Known], directions: Sequence[str]) -> list[float]:
    """The worst value seen in each objective: what refused choices are said to be worth."""
    signs = np.array([1.0 if d == "minimize" else -1.0 for d in directions])
    values = [k.values for k in known if k.values is not None and not k.pending]
    return (np.max(np.array(values) * signs, axis=0) * signs).tolist() if values else [0.0] * len(signs)


def rebuilt(known: Sequence[Known], directions: Sequence[str], otherwise: list[float]) -> optuna.Study:
    """A study in memory of what is known.  otherwise: the values of refused trials; pending ones are running."""
    study = optuna.create_study(directions=list(directions), sampler=RandomSampler(0))
    limits = sorted({name for k in known for name in k.violations})
    for k in sorted(known, key=lambda k: k.number):
        study.add_trial(frozen(k, otherwise, limits))
    return study


def frozen(k: Known, otherwise: list[float], limits: list[str]) -> FrozenTrial:
    attrs = {f"constraints:{name}": k.violations.get(name, 0.0) for name in limits}
    shared = dict(params=k.params, distributions=k.distributions, system_attrs=attrs)
    if k.pending:
        return create_trial(state=TrialState.RUNNING, **shared)
    return create_trial(state=TrialState.COMPLETE, values=k.values or otherwise, **shared)


def json_of(distributions: dict[str, BaseDistribution]) -> dict[str, str]:
    return {name: distribution_to_json(d) for name, d in distributions.items()}


def seeded(*numbers: int) -> int:
    """Independent of each other for different numbers.  → 32 bits"""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=4).digest())


def make(name: str, seed: int) -> BaseSampler:
    match name:
        case "tpe":
            return TPESampler(n_startup_trials=STARTUP, multivariate=True, group=True, constant_liar=True, seed=seed)
        case "gp":
            return GPSampler(n_startup_trials=STARTUP, seed=seed)
        case "nsga2":
            return NSGA2(seed=seed)
        case "evolution":
            return Evolution(seed=seed)
        case "random":
            return RandomSampler(seed)
    raise ValueError(f"sampler={name}: there are {', '.join(SAMPLERS)}")


class Offspring(BaseSampler):
    """What children have in common: parameters of their parents, but for some that are drawn anew.

    A parameter that no parent has, or whose value is no longer a choice, is drawn anew too.
    """

    def __init__(self, seed: int = 0):
        self.random, self.draw = np.random.RandomState(seed), RandomSampler(seed)
        self.inherited: dict = {}

    def infer_relative_search_space(self, study, trial) -> dict:
        return {}

    def sample_relative(self, study, trial, search_space) -> dict:
        return {}

    def before_trial(self, study, trial) -> None:
        known = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(known) >= STARTUP:
            self.inherited = self.child(known, [1 if d.name == "MINIMIZE" else -1 for d in study.directions])

    def child(self, known: list[FrozenTrial], signs: list[int]) -> dict:
        raise NotImplementedError

    def sample_independent(self, study, trial, param_name, param_distribution):
        value = self.inherited.get(param_name)
        if value is None or not _holds(param_distribution, value):
            return self.draw.sample_independent(study, trial, param_name, param_distribution)
        return value

    def reseed_rng(self) -> None:
        self.draw.reseed_rng()


class NSGA2(Offspring):
    """NSGA-II (Deb et al. 2002, IEEE TEVC 6(2)) in its steady state (Durillo et al. 2009, EMO): one child at a time, of the
    best of all trials.

    Two parents, each by a tournament of two of the front and as many more as make it `fewest`. What is better: `order` (layers
    of non-dominated sorting, limits first; spread out in place of the crowding distance). With probability `crossover` each
    parameter is either's, else the first's; each is drawn anew with probability 1/n.
    """

    def __init__(self, fewest: int = 4, crossover: float = 0.9, seed: int = 0):
        super().__init__(seed)
        self.fewest, self.crossover = fewest, crossover

    def child(self, known: list[FrozenTrial], signs: list[int]) -> dict:
        known = list({repr(sorted(t.params.items())): t for t in known}.values())  # what was asked again is there twice
        values, excess = signs * np.array([t.values for t in known]), [too_much(t) for t in known]
        parents = order(values, excess)[: max(self.fewest, len(front(values[within(excess)])))]
        first, second = (known[parents[self.random.randint(len(parents), size=2).min()]].params for _ in range(2))
        child, crossed = dict(first), self.random.rand() < self.crossover
        for name in sorted(first):
            if crossed and name in second and self.random.rand() < 0.5:
                child[name] = second[name]
            if self.random.rand() < 1 / len(first):
                del child[name]
        return child


class Evolution(Offspring):
    """Regularised evolution: the best of a few drawn from the youngest, one parameter of it drawn anew (Real et al. 2019,
    arXiv 1802.01548, algorithm 1: population of the last P, sample S). Best: one of the front, of those that are feasible.
    """

    def __init__(self, population: int = 3 * STARTUP, sample: int = STARTUP, seed: int = 0):
        super().__init__(seed)
        self.population, self.sample = population, sample

    def child(self, known: list[FrozenTrial], signs: list[int]) -> dict:
        youngest = known[-self.population :]
        drawn = [youngest[i] for i in sorted(self.random.choice(len(youngest), min(self.sample, len(youngest)), False))]
        values = signs * np.array([t.values for t in drawn])
        least = within([too_much(t) for t in drawn])
        ahead = [least[i] for i in front(values[least])]  # one for one objective; else none of them is better than another
        child = dict(drawn[ahead[self.random.randint(len(ahead))]].params)
        del child[sorted(child)[self.random.randint(len(child))]]
        return child


def within(excess: Sequence[float]) -> list[int]:
    """Those that exceed limits least; all of the feasible, where there are any."""
    return [i for i, much in enumerate(excess) if much <= min(excess)]


def too_much(trial: FrozenTrial) -> float:
    """By how much a trial exceeds its limits, in all."""
    return sum(max(by, 0.0) for by in trial.constraints.values())


def _holds(distribution: BaseDistribution, value) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:
        return False
