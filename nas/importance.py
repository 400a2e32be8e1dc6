"""Which parameters decide a study's accuracy."""
from collections.abc import Sequence

import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import create_trial

from nas.posterior import Posterior
from nas.trial_record import TrialRecord

LEAST_TRIALS = 20  # below that a share is chance


def importances(records: Sequence[TrialRecord], found: Posterior | None) -> dict[str, float]:
    """Parameter → its share, the greatest first; empty of too few trials.

    PED-ANOVA (Watanabe et al. 2023, arXiv 2304.10255) of what is expected of each trial at the last rung, so that rungs and
    seeds do not count; of the parameters that all trials have.
    """
    trained = [r for r in records if found and r.number in found.rows]
    if found is None or len(trained) < LEAST_TRIALS:
        return {}
    study = optuna.create_study(direction="maximize" if found.sign < 0 else "minimize")
    for r in trained:
        params = r.params
        study.add_trial(create_trial(params=params.values, distributions=params.distributions, value=found.mean(r)))
    if not optuna.search_space.intersection_search_space(study.get_trials(deepcopy=False)):
        return {}
    shares = optuna.importance.get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
