"""A trial as the storage has it (nas/store.py lists its attributes), and its run folders.

Names in code are today's; keys in the storage are those that the first studies were written with, so that they resume.
"""
from dataclasses import dataclass, field
from pathlib import Path

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from nas import optuna_adapter
from nas.settings import FORMER_OBJECTIVES
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

    @property
    def json(self) -> dict:
        return {"epochs": self.epochs, "values": self.values, "figures": self.figures}

    @staticmethod
    def from_json(stored: dict) -> "RungResult":
        figures = {FORMER_OBJECTIVES.get(name, name): value for name, value in stored.get("figures", {}).items()}
        return RungResult(stored["epochs"], stored["values"], figures)


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
class TrialRecord:
    trial: FrozenTrial

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
        return self.trial.user_attrs.get("costs", {})

    @property
    def rungs(self) -> list[RungResult]:
        return [RungResult.from_json(stored) for stored in self.trial.user_attrs.get("rungs", [])]

    @property
    def figures(self) -> dict[str, float]:
        """Costs, and what was measured at the last rung."""
        return self.costs | (self.rungs[-1].figures if self.rungs else {})

    @property
    def target_rung(self) -> int:
        return self.trial.user_attrs.get("goal", 0)

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
