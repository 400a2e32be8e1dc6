"""Logistic regression: scikit-learn's model, computed in blocks, so that features may be memory-mapped or on a GPU."""
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from torch import Tensor

from linear_eval.probe_data import Labeled, ProbeData, Rows
from linear_eval.results import ProtocolResult
from linear_eval.standardize import Standardizer, fit_standardizer, row_blocks

CONVERGED = 1_000  # iterations of L-BFGS at most, where it is meant to converge
TOLERANCE = 1e-4  # scikit-learn's: L-BFGS stops where no slope of the objective is greater
KEPT = 2**30  # bytes of standardized float32 features that are kept; more are computed again in each iteration


def logistic(
    data: ProbeData, Cs: Sequence[float], iterations: int = CONVERGED, device: str | torch.device = "cpu"
) -> ProtocolResult:
    """Logistic regression with the C that is best on validation (the smallest of equals), on the test images.

    scikit-learn's model on standardized features: its objective, solver (L-BFGS of scipy) and tolerance, each C starting
    from the smaller one's solution. Memory: KEPT bytes at most and a block. A class without a training image has
    probability 0. Raises ValueError for one class.
    """
    began = time.perf_counter()
    model = LogisticFit(data.train, device)
    weight, best, unfinished = None, None, []
    for C in sorted(Cs):
        weight, finished = model.fit(C, iterations, weight)
        hits = model.hits(data.validation, weight)
        unfinished += [] if finished else [f"{C:g}"]
        if best is None or hits > best[0]:
            best = hits, C, weight
    hits, C, weight = best
    scores = np.zeros((len(data.test), data.classes))
    scores[:, model.present] = np.concatenate([z.softmax(1).cpu().numpy() for z in model.logits(data.test, weight)])
    return ProtocolResult(
        method="logistic",
        scores=scores,
        chosen={"C": C},
        selected_on=data.selected_on,
        validation=hits / len(data.validation) * 100,
        note=f"not converged in {iterations} iterations: C = {', '.join(unfinished)}" if unfinished else "",
        seconds=time.perf_counter() - began,
    )


def classes_present(labels: Rows) -> tuple[np.ndarray, Tensor]:
    """The classes that have labels, and each label's position among them.  Raises ValueError where there is one."""
    present, position = np.unique(np.asarray(labels), return_inverse=True)
    if len(present) < 2:
        raise ValueError(f"every training label is class {present[0]}: a classifier needs images of two classes or more")
    return present, torch.from_numpy(position)


@dataclass(frozen=True)
class Blocks:
    """Standardized features, computed again at each iteration."""

    train: Rows
    standardizer: Standardizer

    def __iter__(self) -> Iterator[Tensor]:
        return (self.standardizer(self.train[rows]) for rows in row_blocks(self.train))


class LogisticFit:
    """The training images of one or several fits. weight: K,D+1 for the K classes that are present, the bias last."""

    def __init__(self, train: Labeled, device: str | torch.device = "cpu"):
        self.present, self.y = classes_present(train.labels)
        self.standardizer = fit_standardizer(train.x, device)
        self.blocks: Iterable[Tensor] = Blocks(train.x, self.standardizer)
        if train.x.shape[0] * train.x.shape[1] * self.standardizer.mean.itemsize <= KEPT:
            self.blocks = list(self.blocks)

    def logits(self, x: Rows, weight: Tensor) -> Iterator[Tensor]:
        """M,D → B,K by blocks"""
        return (torch.addmm(weight[:, -1], self.standardizer(x[rows]), weight[:, :-1].T) for rows in row_blocks(x))

    def hits(self, data: Labeled, weight: Tensor) -> int:
        """How many images are classified right."""
        predicted = np.concatenate([z.argmax(1).cpu().numpy() for z in self.logits(data.x, weight)])
        return int((self.present[predicted] == np.asarray(data.labels)).sum())

    @torch.no_grad()
    def fit(self, C: float, iterations: int, start: Tensor | None = None) -> tuple[Tensor, bool]:
        """Minimize mean cross-entropy + ‖w‖² / 2CN, biases free.  → the weight, and whether it converged

        scikit-learn's model of two classes has one vector, the difference of our two. At the same w it pays w² where ours
        pay 2 · (w/2)², so ours pay twice.
        """
        first, K = next(iter(self.blocks)), len(self.present)
        device, dtype, D = first.device, first.dtype, first.shape[1]
        y = self.y.to(device)
        N, penalty = len(y), (2 if K == 2 else 1) / (C * len(y))

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weight = torch.from_numpy(flat.reshape(K, -1)).to(device, dtype)
            loss, slope, at = torch.zeros((), dtype=torch.float64, device=device), torch.zeros_like(weight), 0
            for part in self.blocks:
                target = y[None, at : at + len(part)]
                at += len(part)
                logp = torch.addmm(weight[:, -1:], weight[:, :-1], part.T).log_softmax(0)  # K,B
                loss -= logp.gather(0, target).sum(dtype=torch.float64)
                error = logp.exp_().scatter_add_(0, target, logp.new_full(target.shape, -1))  # p − y
                slope[:, :-1].addmm_(error, part)
                slope[:, -1] += error.sum(1)
            slope = slope.double().cpu().numpy() / N
            w = flat.reshape(K, -1)[:, :-1]
            slope[:, :-1] += penalty * w
            return float(loss) / N + penalty / 2 * float(np.square(w).sum()), slope.ravel()

        flat = np.zeros(K * (D + 1)) if start is None else start.double().cpu().numpy().ravel()
        options = {"maxiter": iterations, "maxls": 50, "gtol": TOLERANCE, "ftol": 64 * np.finfo(float).eps}  # scikit-learn's
        with threadpool_limits(1, user_api="blas"):  # SciPy's waiting threads would take torch's cores: 5 to 16 × slower
            minimum = minimize(objective, flat, method="L-BFGS-B", jac=True, options=options)
        return torch.from_numpy(minimum.x.reshape(K, -1)).to(device, dtype), minimum.nit < iterations
