"""A trial as the storage has it (nas/store.py lists its attributes), and its run folders.

Names in code are today's; keys in the storage are those that the first studies were written with, so that they resume.
"""
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from nas import optuna_adapter
from nas.settings import OTHER_NAMES
from nas.storage import study_folder


@dataclass(frozen=True)
class SampledParams:
    """Parameters that a sampler chose, and the distributions that it chose from."""

    values: dict = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)

    @property
    def json(self) -> dict:
        texts = {name: distribution_to_json(d) for name, d in self.distributions.items()}
        return {"params": self.values, "distributions": texts}

    @staticmethod
    def from_json(stored: dict) -> "SampledParams":
        distributions = {name: json_to_distribution(text) for name, text in stored["distributions"].items()}
        return SampledParams(dict(stored["params"]), distributions)


@dataclass(frozen=True)
class Invalid:
    """Parameters whose candidate cannot be built, or whose costs cannot be measured."""

    params: SampledParams
    reason: str

    @property
    def json(self) -> dict:
        return self.params.json | {"reason": self.reason}

    @staticmethod
    def from_json(stored: dict) -> "Invalid":
        return Invalid(SampledParams.from_json(stored), stored["reason"])


@dataclass(frozen=True)
class RungResult:
    """What a trial reached at a rung of successive halving."""

    epochs: float
    values: list[float]  # of the objectives, in their order
    figures: dict[str, float]  # all that was measured, by name
    seconds: float = field(default=0.0, compare=False)  # of training since the rung before; 0: of a study that kept none

    @property
    def json(self) -> dict:
        return {"epochs": self.epochs, "values": self.values, "figures": self.figures, "seconds": self.seconds}

    @staticmethod
    def from_json(stored: dict) -> "RungResult":
        figures = {OTHER_NAMES.get(name, name): value for name, value in stored.get("figures", {}).items()}
        return RungResult(stored["epochs"], stored["values"], figures, stored.get("seconds", 0.0))


@dataclass(frozen=True)
class Lease:
    """Who works on a trial. A lease whose heartbeats stop has expired (nas/lease.py)."""

    worker: str | None = None
    heartbeats: int = 0

    @property
    def json(self) -> list:
        return [self.worker, self.heartbeats]


@dataclass(frozen=True)
class Replicate:
    """A candidate's training again, to the end, with a fresh seed."""

    of: int  # number of the trial whose candidate it is
    seed: int  # added to the study's; from 1

    @property
    def json(self) -> list:
        return [self.of, self.seed]


@dataclass(frozen=True)
class Remeasured:
    """Costs that were measured at the end of the study, in a quiet moment (nas/remeasure.py).

    objectives: the study's; failure: why there are none
    """

    costs: dict[str, float] = field(default_factory=dict)
    objectives: Sequence[str] = ()
    failure: str = ""


@dataclass(frozen=True)
class TrialRecord:
    """remeasured: takes the place of what was measured, or predicted, during the search"""

    trial: FrozenTrial
    remeasured: Remeasured = Remeasured()

    @property
    def id(self) -> int:
        return optuna_adapter.trial_id(self.trial)

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def state(self) -> TrialState:
        return self.trial.state

    @property
    def candidate(self) -> dict | None:
        """What is trained, as JSON (nas/space.py)."""
        return self.trial.user_attrs.get("choice")

    @property
    def replicate(self) -> Replicate | None:
        """None of a trial of its own."""
        stored = self.trial.user_attrs.get("replicate")
        return Replicate(*stored) if stored else None

    @property
    def hash(self) -> str | None:
        return self.candidate and self.candidate["hash"]

    @property
    def params(self) -> SampledParams:
        return SampledParams.from_json(self.candidate)

    @property
    def initial(self) -> bool:
        """Is it the candidate that the space begins with?"""
        return bool(self.candidate and self.candidate.get("opening"))

    @property
    def invalid(self) -> list[Invalid]:
        """What was sampled for this trial before and cannot be built."""
        return [Invalid.from_json(stored) for stored in self.trial.user_attrs.get("broken", [])]

    @property
    def costs(self) -> dict[str, float]:
        return self.first_costs | self.remeasured.costs

    @property
    def first_costs(self) -> dict[str, float]:
        """As the search had them."""
        return self.trial.user_attrs.get("costs", {})

    @property
    def methods(self) -> dict[str, str]:
        """How costs and accuracy of deployment were measured."""
        return self.trial.user_attrs.get("methods", {})

    @property
    def rungs(self) -> list[RungResult]:
        rungs = [RungResult.from_json(stored) for stored in self.trial.user_attrs.get("rungs", [])]
        if not self.remeasured.costs:
            return rungs
        costs, names = self.remeasured.costs, self.remeasured.objectives
        return [replace(r, values=[costs.get(n, v) for n, v in zip(names, r.values, strict=True)]) for r in rungs]

    @property
    def figures(self) -> dict[str, float]:
        """Costs, and what was measured at the last rung."""
        return self.costs | (self.rungs[-1].figures if self.rungs else {})

    @property
    def target_rung(self) -> int:
        return self.trial.user_attrs.get("goal", 0)

    @property
    def unfinished(self) -> float:
        """Seconds of training since the last rung, of a trial that was stopped, or failed, on its way to the next."""
        return self.trial.user_attrs.get("unfinished", 0.0)

    @property
    def reason(self) -> str | None:
        return self.trial.user_attrs.get("reason")

    @property
    def lease(self) -> Lease:
        return Lease(*self.trial.user_attrs.get("owner", ()))

    @property
    def expired_leases(self) -> int:
        return self.trial.user_attrs.get("lost", 0)

    @property
    def paused(self) -> bool:
        """Does it wait at its target rung for a promotion?"""
        return self.state == TrialState.WAITING and 0 < self.target_rung <= len(self.rungs)

    @property
    def released(self) -> bool:
        """Was it released before its target rung, for any worker to resume?"""
        return self.state == TrialState.WAITING and not self.paused

    @property
    def rejected(self) -> bool:
        """Was it ended before any training: beyond a limit, without a candidate, or one trial too many?"""
        return self.state == TrialState.PRUNED and not self.rungs

    def run_folders(self, study: str) -> list[Path]:
        """The trial's run folders, the newest first: each expired lease left one."""
        place = study_folder(study) / "trials"
        return [place / (f"{self.number:05d}" + (f"-{lease}" if lease else "")) for lease in range(self.expired_leases, -1, -1)]
