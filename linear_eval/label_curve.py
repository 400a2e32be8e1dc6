"""Label efficiency: the accuracy of logistic regression by the number of labeled images a class."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from linear_eval import subsets
from linear_eval.logistic import CONVERGED, LogisticFit
from linear_eval.probe_data import Labeled
from linear_eval.results import CurvePoint


@dataclass(frozen=True)
class CurveConfig:
    """A label curve.  per_class: labeled images of each class; draws: how often they are drawn; C: fixed."""

    per_class: Sequence[int]
    draws: int
    C: float = 1.0
    seed: int = 0


def label_curve(
    train: Labeled, test: Labeled, config: CurveConfig, device: str | torch.device = "cpu"
) -> list[CurvePoint]:
    """Test accuracy in per cent from so many labels a class, with C fixed: nothing is selected. A point a count.

    Smaller classes give all their images; a count that no class exceeds would be all labels and is left out.
    """
    labels = np.asarray(train.labels)
    largest, curve = np.bincount(labels).max(), []
    for count in (c for c in config.per_class if c < largest):
        scores = []
        for draw in range(config.draws):
            rows = subsets.per_class(labels, count, config.seed, draw)
            model = LogisticFit(Labeled(train.x[rows], labels[rows]), device)
            weight, _ = model.fit(config.C, CONVERGED)
            scores.append(model.hits(test, weight) / len(test) * 100)
        curve.append(CurvePoint(count, float(np.mean(scores)), float(np.std(scores)), config.draws))
    return curve
