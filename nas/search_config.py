"""The numbers of a search, which scheduler, report and pictures share."""
import math
from dataclasses import dataclass, field

from nas.halving import Halving

ONE_TOO_MANY = "one too many: another worker was first"  # why a trial that two workers created was rejected


@dataclass(frozen=True)
class SearchConfig:
    """The numbers of a search."""

    trials: int  # to be trained; those beyond limits do not count
    halving: Halving
    objectives: dict[str, str]  # name → "maximize" or "minimize"
    limits: dict[str, float] = field(default_factory=dict)  # cost → its maximum
    sampler: str = "tpe"
    seed: int = 0
    interval: float = 60.0  # seconds: a lease expires after twice that without a heartbeat
    candidates: int = 1  # proposals a trial, of which the evaluator's proxy takes the best
    least: dict[str, float] = field(default_factory=dict)  # cost → its minimum
    promote: str = "measured"  # or "expected": what decides who is promoted
    verify: int = 0  # fresh seeds of the finalists' replicates (nas/verification.py)
    budget: float = math.inf  # seconds of training in all (nas/budget.py)
    limits_set_by: str = ""  # the setting that limits and least come from, as a message shows it; "": limit

    @property
    def measured(self) -> set[str]:
        """The names of objectives and limits."""
        return {*self.objectives, *self.limits}

    @property
    def signs(self) -> list[float]:
        return [-1.0 if d == "maximize" else 1.0 for d in self.objectives.values()]
