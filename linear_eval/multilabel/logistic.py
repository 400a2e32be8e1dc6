"""Logistic regression of each class against the rest, all classes at once: scikit-learn's models, computed in blocks."""
import time
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F

from linear_eval.logistic import CONVERGED, KEPT, TOLERANCE, Blocks
from linear_eval.multilabel.results import protocol_result, validation_map
from linear_eval.probe_data import Labeled, ProbeData, Rows
from linear_eval.results import ProtocolResult
from linear_eval.standardize import as_tensor, fit_standardizer, row_blocks


class OneVsRest:
    """The training images of one or several fits.  weight: K,D+1 for all classes, the bias last.

    varied: of each class, whether some images have it and some do not; another's probability is 0 or 1, as all have it.
    """

    def __init__(self, train: Labeled, device: str | torch.device = "cpu"):
        self.standardizer = fit_standardizer(train.x, device)
        self.y = as_tensor(train.labels).to(device).to(self.standardizer.mean.dtype)  # N,K
        share = self.y.mean(0)
        self.varied, self.constant = (share > 0) & (share < 1), (share == 1).to(share.dtype)
        self.blocks: Iterable[Tensor] = Blocks(train.x, self.standardizer)
        if train.x.shape[0] * train.x.shape[1] * self.standardizer.mean.itemsize <= KEPT:
            self.blocks = list(self.blocks)

    @torch.no_grad()
    def probabilities(self, x: Rows, weight: Tensor) -> np.ndarray:
        """M,D → M,K"""
        parts = (torch.addmm(weight[:, -1], self.standardizer(x[rows]), weight[:, :-1].T) for rows in row_blocks(x))
        return np.concatenate([torch.where(self.varied, z.sigmoid(), self.constant).cpu().numpy() for z in parts])

    @torch.no_grad()
    def fit(self, C: float, iterations: int = CONVERGED, start: Tensor | None = None) -> tuple[Tensor, bool]:
        """Minimize, for each class, mean binary cross-entropy + ‖w‖² / 2CN, biases free.  → the weight, and whether it
        converged.  The sum over classes has each class's own minimum."""
        first, K = next(iter(self.blocks)), self.y.shape[1]
        device, dtype, D, N = first.device, first.dtype, first.shape[1], len(self.y)
        penalty = 1 / (C * N)
        counts = self.varied.to(dtype)

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weight = torch.from_numpy(flat.reshape(K, -1)).to(device, dtype)
            loss, slope, at = torch.zeros((), dtype=torch.float64, device=device), torch.zeros_like(weight), 0
            for part in self.blocks:
                y = self.y[at : at + len(part)]
                at += len(part)
                z = torch.addmm(weight[:, -1], part, weight[:, :-1].T)  # B,K
                each = F.binary_cross_entropy_with_logits(z, y, reduction="none")
                loss += (each * counts).sum(dtype=torch.float64)
                error = (z.sigmoid() - y) * counts
                slope[:, :-1].addmm_(error.T, part)
                slope[:, -1] += error.sum(0)
            slope = slope.double().cpu().numpy() / N
            w = flat.reshape(K, -1)[:, :-1]
            slope[:, :-1] += penalty * w
            return float(loss) / N + penalty / 2 * float(np.square(w).sum()), slope.ravel()

        flat = np.zeros(K * (D + 1)) if start is None else start.double().cpu().numpy().ravel()
        options = {"maxiter": iterations, "maxls": 50, "gtol": TOLERANCE, "ftol": 64 * np.finfo(float).eps}  # scikit-learn's
        with threadpool_limits(1, user_api="blas"):  # as in linear_eval/logistic.py
            minimum = minimize(objective, flat, method="L-BFGS-B", jac=True, options=options)
        return torch.from_numpy(minimum.x.reshape(K, -1)).to(device, dtype), minimum.nit < iterations


def logistic_multilabel(
    data: ProbeData, Cs: Sequence[float], iterations: int = CONVERGED, device: str | torch.device = "cpu", **fields
) -> ProtocolResult:
    """With the C, one for all classes, that has the best mean average precision on validation (the smallest of equals)."""
    began = time.perf_counter()
    model = OneVsRest(data.train, device)
    weight, best, unfinished = None, None, []
    for C in sorted(Cs):
        weight, finished = model.fit(C, iterations, weight)
        scores = model.probabilities(data.validation.x, weight)
        value = validation_map(data.validation.labels, scores)
        unfinished += [] if finished else [f"{C:g}"]
        if best is None or value > best[0]:
            best = value, C, weight, scores
    _, C, weight, of_validation = best
    note = f"not converged in {iterations} iterations: C = {', '.join(unfinished)}" if unfinished else ""
    scores = model.probabilities(data.test, weight)
    return protocol_result("logistic", data, scores, of_validation, {"C": C}, began, note=note, **fields)
