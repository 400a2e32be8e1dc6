"""The samplers by name: Optuna's own, NSGA-II and regularized evolution (nas/samplers/evolutionary.py); of the learnt one
(nas/samplers/model.py) what it begins with.
"""
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler

from nas.samplers.evolutionary import NSGA2, STARTUP_TRIALS, Evolution
from nas.settings import SAMPLERS


def create_sampler(name: str, seed: int) -> BaseSampler:
    match name:
        case "tpe" | "model":
            return TPESampler(n_startup_trials=STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True, seed=seed)
        case "gp":
            return GPSampler(n_startup_trials=STARTUP_TRIALS, seed=seed)
        case "nsga2":
            return NSGA2(seed=seed)
        case "evolution":
            return Evolution(seed=seed)
        case "random":
            return RandomSampler(seed)
    raise ValueError(f"sampler={name}: there are {', '.join(SAMPLERS)}")
