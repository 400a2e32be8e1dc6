"""Ridge regression onto each class, in closed form."""
import time
from collections.abc import Sequence

import numpy as np
import torch

from linear_eval.multilabel.results import protocol_result, validation_map
from linear_eval.probe_data import ProbeData
from linear_eval.results import ProtocolResult
from linear_eval.ridge import RidgeFit
from linear_eval.standardize import as_tensor


@torch.no_grad()
def ridge_multilabel(data: ProbeData, lambdas: Sequence[float], device: str | torch.device = "cpu") -> ProtocolResult:
    """scikit-learn's RidgeClassifier on standardized features, with the λ, one for all classes, that has the best mean
    average precision on validation (the first of equals). scores are its decision function."""
    began = time.perf_counter()
    targets = as_tensor(data.train.labels).to(device).double() * 2 - 1  # N,K of ±1
    model = RidgeFit(data.train.x, targets, device)
    tried = [model.margins(data.validation.x, value) for value in lambdas]
    values = [validation_map(data.validation.labels, scores) for scores in tried]
    best = int(np.argmax(values))
    scores = model.margins(data.test, lambdas[best])
    return protocol_result("ridge", data, scores, tried[best], {"lambda": lambdas[best]}, began, probabilities=False)
