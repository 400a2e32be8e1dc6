"""What to try next: samplers are asked so that an interrupted study resumes with the same proposals.

A sampler never sees the study itself. For each proposal a study in memory is made of all observations, in which paused and
rejected trials count too (Optuna's GP would ignore them), and the sampler is seeded by the trial's number. A candidate that was
tried before is told to the sampler again and replaced, so nothing is trained twice. Costs are known before training, so a
proposal beyond a limit is told to the sampler and replaced, some times over, before it becomes a trial.
"""
import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import optuna
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.observation import Observation, excess, fallback_values
from nas.samplers import create_sampler
from nas.samplers.model import POOL, Model, fitted
from nas.trial_record import Invalid, SampledParams

MAX_DUPLICATES = 20  # proposals that are duplicates or beyond limits, after which the sampler is replaced by random ones
MAX_REDRAWS = 120  # proposals after which one beyond the limits becomes a trial, to be rejected
MAX_INVALID = 40  # different proposals that cannot be built after which the trial fails
MAX_DRAWS = 2_000  # proposals after which the space is exhausted


class Exhausted(Exception):
    """Every candidate of the space was tried."""


class InvalidCandidate(Exception):
    """Sampled parameters cannot be built, or their costs cannot be measured.  invalid: all those of this trial."""

    def __init__(self, reason: str, invalid: Sequence[Invalid] = ()):
        super().__init__(reason)
        self.invalid = list(invalid)


@dataclass(frozen=True)
class Proposal:
    candidate: Any
    costs: dict[str, float]
    params: SampledParams
    initial: bool  # is it what the space begins with?
    draws: int  # how many were sampled until it was found
    invalid: list[Invalid] = field(default_factory=list)  # sampled for this trial, and impossible to build


@dataclass(frozen=True)
class Request:
    """Which trial a proposal is for."""

    number: int
    sampler: str
    objectives: dict[str, str]  # name → "maximize" or "minimize"
    limits: dict[str, float] = field(default_factory=dict)  # cost → its maximum
    seed: int = 0
    collisions: int = 0  # how often this trial's candidate was another worker's too
    candidates: int = 1  # of so many, `pick_best` takes one
    least: dict[str, float] = field(default_factory=dict)  # cost → its minimum


class CandidateSource(Protocol):
    """Makes candidates of sampled parameters. `sample` and `costs` may raise InvalidCandidate: another is sampled."""

    initial: dict | None  # parameters of trial 0, whatever limits and `pick_best` say

    def sample(self, trial: optuna.Trial) -> Any:
        """→ a candidate, with a `.hash`"""

    def costs(self, candidate: Any) -> dict[str, float]: ...

    def pick_best(self, candidates: list) -> int: ...


def propose(source: CandidateSource, request: Request, observations: Sequence[Observation]) -> Proposal:
    """A new candidate for a trial; within the limits, where one was found soon.

    Raises Exhausted; InvalidCandidate where nothing that was sampled can be built.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _Drawing(source, request, observations).run()


class _Drawing:
    """The draws of one trial."""

    def __init__(self, source: CandidateSource, request: Request, observations: Sequence[Observation]):
        self.source, self.request = source, request
        directions = list(request.objectives.values())
        self.fallback = fallback_values(observations, directions)
        self.study = study_of(observations, directions, self.fallback)
        self.model = self._model(observations) if request.sampler == "model" else None
        self.wanted = POOL if self.model else request.candidates
        self.initial = source.initial if request.number == 0 else None
        if self.initial:
            self.study.enqueue_trial(self.initial)
        self.tried: dict[str, Observation | None] = {o.hash: o for o in observations if o.hash}  # None: a proposal of now
        self.unbuildable = [o.params.values for o in observations if not o.hash]  # of all trials
        self.invalid: list[Invalid] = []  # of this trial
        self.proposals: list[Proposal] = []

    def run(self) -> Proposal:
        for attempt in range(MAX_DRAWS):
            if self.draw(attempt) or (self.model and self.proposals and attempt + 1 >= MAX_REDRAWS):
                break
        if self.model and len(self.proposals) > 1:
            self.proposals = self.model.best(self.proposals, self.request.candidates)
        if self.proposals:
            several = len(self.proposals) > 1
            return self.proposals[self.source.pick_best([p.candidate for p in self.proposals]) if several else 0]
        if self.invalid and not self.tried:
            raise InvalidCandidate(self.invalid[-1].reason, self.invalid)
        others = f" and {len(self.unbuildable)} that cannot be built" if self.unbuildable else ""
        raise Exhausted(f"the space holds no more than {len(self.tried)} candidates{others}, and all were tried")

    def draw(self, attempt: int) -> bool:
        """Sample once.  → is the search for a proposal over?"""
        learns, initial = attempt < (MAX_REDRAWS if self.model else MAX_DUPLICATES), bool(self.initial) and attempt == 0
        self.study.sampler = self._sampler(learns, self._seed(attempt))
        trial = self.study.ask()
        try:
            candidate = self.source.sample(trial)
            hash = candidate.hash
            costs = self.source.costs(candidate) if hash not in self.tried else {}
        except InvalidCandidate as error:
            if trial.params not in self.unbuildable:
                self.unbuildable.append(trial.params)
                self.invalid.append(Invalid(SampledParams(trial.params, trial.distributions), str(error)))
            if initial or not trial.params or len(self.invalid) == MAX_INVALID:  # without parameters, no other draw differs
                if not self.proposals:
                    raise InvalidCandidate(str(error), self.invalid) from error
                return True
            self.tell(trial, self.fallback if learns else None)
            return False
        if hash in self.tried:
            before = self.tried[hash] if learns else None
            if before and not before.pending:
                self.tell(trial, before.values, before.violations)
            else:
                self.tell(trial, None)
            return False
        over = excess(costs, self.request.limits, self.request.least)
        if attempt < MAX_REDRAWS and not initial and any(by > 0 for by in over.values()):
            self.tell(trial, self.fallback if learns else None, over)
            return False
        params = SampledParams(trial.params, trial.distributions)
        self.proposals.append(Proposal(candidate, costs, params, initial, attempt + 1, self.invalid))
        if initial or len(self.proposals) == self.wanted:
            return True
        self.tried[hash] = None
        self.tell(trial, None)
        return False

    def _seed(self, attempt: int) -> int:
        return seed_of(self.request.seed, self.request.number, self.request.collisions, attempt)

    def _model(self, observations: Sequence[Observation]) -> Model | None:
        """None where too little is known."""
        return fitted(observations, self.request.objectives, self._seed(0))

    def _sampler(self, learns: bool, seed: int) -> BaseSampler:
        if learns and self.model:
            return self.model.mutation(seed)
        return create_sampler(self.request.sampler if learns else "random", seed)

    def tell(self, trial: optuna.Trial, values: list[float] | None, violations: dict[str, float] | None = None) -> None:
        """None: the sampler learns nothing."""
        if self.model:  # it does not look at the study
            return
        if values is None:
            self.study.tell(trial, state=TrialState.FAIL)
            return
        for name, by in (violations or {}).items():
            trial.set_constraint(name, by)
        self.study.tell(trial, values)


def study_of(observations: Sequence[Observation], directions: Sequence[str], fallback: list[float]) -> optuna.Study:
    """A study in memory of all observations.  fallback: the values of rejected trials; pending ones are running."""
    study = optuna.create_study(directions=list(directions), sampler=RandomSampler(0))
    limits = sorted({name for o in observations for name in o.violations})
    for observation in sorted(observations, key=lambda o: o.number):
        study.add_trial(to_frozen_trial(observation, fallback, limits))
    return study


def to_frozen_trial(o: Observation, fallback: list[float], limits: list[str]) -> FrozenTrial:
    attrs = {f"constraints:{name}": o.violations.get(name, 0.0) for name in limits}
    shared = dict(params=o.params.values, distributions=o.params.distributions, system_attrs=attrs)
    if o.pending:
        return create_trial(state=TrialState.RUNNING, **shared)
    return create_trial(state=TrialState.COMPLETE, values=o.values or fallback, **shared)


def seed_of(*numbers: int) -> int:
    """A seed of 32 bits, independent for different numbers."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=4).digest())
