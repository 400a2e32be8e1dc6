"""Ridge regression onto the classes, in closed form."""
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from linear_eval.logistic import classes_present
from linear_eval.probe_data import ProbeData, Rows
from linear_eval.results import ProtocolResult
from linear_eval.standardize import fit_standardizer, row_blocks


class RidgeFit:
    """Ridge regression on standardized features for any λ, by one eigendecomposition XᵀX = QEQᵀ.

    x: N,D; targets: N,K float64. Memory: 3 D² numbers and a block.
    """

    @torch.no_grad()
    def __init__(self, x: Rows, targets: Tensor, device: str | torch.device = "cpu"):
        self.standardize = fit_standardizer(x, device, torch.float64)
        D, K = x.shape[1], targets.shape[1]
        self.shift = targets.mean(0)
        square = torch.zeros(D, D, dtype=torch.float64, device=device)
        product = torch.zeros(D, K, dtype=torch.float64, device=device)
        for rows in row_blocks(x):
            part = self.standardize(x[rows])
            square.addmm_(part.T, part)
            product.addmm_(part.T, targets[rows])  # x has mean 0, so the targets need not
        self.E, self.Q = torch.linalg.eigh(square)
        self.rotated = self.Q.T @ product  # D,K

    def rotate(self, x: Rows) -> Tensor:
        """B,D → B,D, as `decision` takes them"""
        return self.standardize(x) @ self.Q

    def decision(self, x: Tensor, value: float) -> Tensor:
        """B,D rotated → B,K"""
        return torch.addmm(self.shift, x, self.rotated / (self.E.clamp(min=0) + value)[:, None])

    @torch.no_grad()
    def margins(self, x: Rows, value: float) -> np.ndarray:
        """M,D → M,K.  value: λ"""
        return torch.cat([self.decision(self.rotate(x[rows]), value) for rows in row_blocks(x)]).cpu().numpy()


@torch.no_grad()
def ridge(data: ProbeData, lambdas: Sequence[float], device: str | torch.device = "cpu") -> ProtocolResult:
    """scikit-learn's RidgeClassifier on standardized features with the λ that is best on validation (the first of equals).

    One eigendecomposition serves every λ: w = Q (E + λ)⁻¹ QᵀXᵀY, in float64. scores are its decision function;
    two classes have −d and d; a class without a training image has 1 less than the least score. Raises ValueError for one
    class.
    """
    began = time.perf_counter()
    train, validation, test = data.train, data.validation, data.test
    present, y = classes_present(train.labels)
    model = RidgeFit(train.x, F.one_hot(y.to(device), len(present)).double() * 2 - 1, device)
    hits = np.zeros(len(lambdas), np.int64)
    for rows in row_blocks(validation.x):
        x, labels = model.rotate(validation.x[rows]), np.asarray(validation.labels[rows])
        hits += [(present[model.decision(x, value).argmax(1).cpu().numpy()] == labels).sum() for value in lambdas]
    value = lambdas[hits.argmax()]
    margins = model.margins(test, value)
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
