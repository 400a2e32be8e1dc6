"""A linear layer on frozen patches: logistic regression on standardized features and majority labels, as CAPI evaluates
(Darcet et al. 2025, arXiv 2502.08769); its logits are upsampled to the label's own size."""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from linear_eval.dense.samples import PatchSample
from linear_eval.logistic import LogisticFit
from linear_eval.probe_data import Labeled


@dataclass(frozen=True)
class DenseLinear:
    """Fits of one training set, a candidate each.  weights: K,D+1 each, of the K classes that are present"""

    model: LogisticFit
    classes: int
    weights: tuple[Tensor, ...]
    note: str = ""

    @staticmethod
    def fit(train: PatchSample, Cs: Sequence[float], iterations: int, device: torch.device) -> "DenseLinear":
        """One candidate a C, each beginning at the one before it. The scaler is fitted on these patches.

        Raises ValueError where all patches have one majority class.
        """
        model = LogisticFit(Labeled(train.x, train.labels.majority), device)
        weights, unfinished = [], []
        for C in Cs:
            weight, finished = model.fit(C, iterations, weights[-1] if weights else None)
            weights.append(weight)
            unfinished += [] if finished else [f"{C:g}"]
        note = f"not converged in {iterations} iterations: C = {', '.join(unfinished)}" if unfinished else ""
        return DenseLinear(model, train.labels.shares.shape[1], tuple(weights), note)

    def scores(self, x: np.ndarray) -> Iterator[np.ndarray]:
        """Logits of each candidate; a class without a training patch has 1 less than a patch's least.  M,D → M,C each"""
        for weight in self.weights:
            logits = np.concatenate([z.cpu().numpy() for z in self.model.logits(x, weight)])
            scores = np.repeat(logits.min(1, keepdims=True) - 1, self.classes, 1)
            scores[:, self.model.present] = logits
            yield scores
