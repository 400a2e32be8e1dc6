"""A study's trials as samplers see them."""
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from optuna.trial import TrialState

from nas.search_config import SearchConfig
from nas.settings import COSTS
from nas.trial_record import SampledParams, TrialRecord

AT_LEAST = " at least"  # what the name of a minimum ends with


@dataclass(frozen=True)
class Fresh:
    """What the training of a candidate with a fresh seed ended with: the seed, and the objectives' values."""

    seed: int
    values: list[float]


@dataclass(frozen=True)
class Observation:
    """A trial as a sampler sees it."""

    number: int
    hash: str | None  # None: it could not be built
    params: SampledParams
    values: list[float] | None  # None: not known yet, or never to be
    violations: dict[str, float] = field(default_factory=dict)  # limit → by how much; none or ≤ 0: feasible
    pending: bool = False
    costs: dict[str, float] = field(default_factory=dict)  # measured before training
    rungs: list[list[float]] = field(default_factory=list)  # of each rung the objectives' values, costs not as logarithms
    fresh: list[Fresh] = field(default_factory=list)

    @property
    def feasible(self) -> bool:
        return not any(by > 0 for by in self.violations.values())


def observations(
    records: Sequence[TrialRecord], config: SearchConfig, replicates: Sequence[TrialRecord] = ()
) -> list[Observation]:
    """What a sampler may learn from: each trial's values at its last rung, by how much rejected ones exceed limits, and what
    could not be built.

    Costs as logarithms: otherwise, of encoders whose costs are a hundredfold apart, all but the cheapest look alike.
    """
    observed = []
    for r in records:
        observed += [Observation(r.number, None, invalid.params, None) for invalid in r.invalid]
        if r.candidate is None:
            continue
        rungs, values = [one.values for one in r.rungs], None
        if rungs:
            named = zip(config.objectives, rungs[-1], strict=True)
            values = [math.log(max(v, 1e-9)) if name in COSTS else v for name, v in named]
        pending = values is None and r.state in (TrialState.RUNNING, TrialState.WAITING)
        fresh = [Fresh(one.replicate.seed, one.rungs[-1].values) for one in replicates
                 if one.rungs and one.replicate and one.replicate.of == r.number]
        over = excess(r.costs, config.limits, config.least)
        observed.append(Observation(r.number, r.hash, r.params, values, over, pending, r.costs, rungs, fresh))
    return observed


def excess(costs: dict[str, float], limits: dict[str, float], least: dict[str, float] | None = None) -> dict[str, float]:
    """Limit → by how much it is exceeded, and "… at least" → by how much a cost falls short.

    At most 0 where it is kept, or was not measured because another is not.
    """
    short = {f"{name}{AT_LEAST}": minimum - costs.get(name, minimum) for name, minimum in (least or {}).items()}
    return {name: costs.get(name, maximum) - maximum for name, maximum in limits.items()} | short


def fallback_values(observed: Sequence[Observation], directions: Sequence[str]) -> list[float]:
    """The worst value seen in each objective: what samplers are told of rejected candidates."""
    signs = np.array([1.0 if d == "minimize" else -1.0 for d in directions])
    values = [o.values for o in observed if o.values is not None and not o.pending]
    return (np.max(np.array(values) * signs, axis=0) * signs).tolist() if values else [0.0] * len(signs)
