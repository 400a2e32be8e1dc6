"""Ridge regression onto the classes, in closed form."""
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from linear_eval.logistic import classes_present
from linear_eval.probe_data import ProbeData
from linear_eval.results import ProtocolResult
from linear_eval.standardize import fit_standardizer, row_blocks


@torch.no_grad()
def ridge(data: ProbeData, lambdas: Sequence[float], device: str | torch.device = "cpu") -> ProtocolResult:
    """scikit-learn's RidgeClassifier on standardized features with the λ that is best on validation (the first of equals).

    One eigendecomposition XᵀX = QEQᵀ serves every λ: w = Q (E + λ)⁻¹ QᵀXᵀY, in float64. scores are its decision function;
    two classes have −d and d; a class without a training image has 1 less than the least score. Memory: 3 D² numbers and a
    block. Raises ValueError for one class.
    """
    began = time.perf_counter()
    train, validation, test = data.train, data.validation, data.test
    present, y = classes_present(train.labels)
    standardize = fit_standardizer(train.x, device, torch.float64)
    D, K = train.x.shape[1], len(present)
    targets = F.one_hot(y.to(device), K).double() * 2 - 1  # N,K of ±1
    shift = targets.mean(0)
    square = torch.zeros(D, D, dtype=torch.float64, device=device)
    product = torch.zeros(D, K, dtype=torch.float64, device=device)
    for rows in row_blocks(train.x):
        x = standardize(train.x[rows])
        square.addmm_(x.T, x)
        product.addmm_(x.T, targets[rows])  # x has mean 0, so the targets need not
    E, Q = torch.linalg.eigh(square)
    rotated = Q.T @ product  # D,K

    def decision(x: Tensor, value: float) -> Tensor:
        return torch.addmm(shift, x, rotated / (E.clamp(min=0) + value)[:, None])  # B,D rotated → B,K

    hits = np.zeros(len(lambdas), np.int64)
    for rows in row_blocks(validation.x):
        x, labels = standardize(validation.x[rows]) @ Q, np.asarray(validation.labels[rows])
        hits += [(present[decision(x, value).argmax(1).cpu().numpy()] == labels).sum() for value in lambdas]
    value = lambdas[hits.argmax()]
    margins = torch.cat([decision(standardize(test[rows]) @ Q, value) for rows in row_blocks(test)]).cpu().numpy()
    scores = np.full((len(test), data.classes), margins.min() - 1)
    scores[:, present] = margins
    return ProtocolResult(
        method="ridge",
        scores=scores,
        chosen={"lambda": value},
        selected_on=data.selected_on,
        validation=float(hits.max() / len(validation) * 100),
        probabilities=False,
        seconds=time.perf_counter() - began,
    )
