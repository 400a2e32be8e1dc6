"""Accuracies on corrupted images, of the test images themselves or of resamples of them (the bootstrap)."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from linear_eval.bootstrap import weight_blocks
from vision.corruptions import SEVERITIES


@dataclass(frozen=True)
class Sample:
    """Accuracies in %.  …,heads,1 + 5·corruptions: clean first. By the images themselves, or by resamples of them."""

    accuracy: np.ndarray
    names: list[str]

    @property
    def clean(self) -> np.ndarray:
        return self.accuracy[..., 0]

    def errors(self, names: Sequence[str]) -> np.ndarray:
        """The mean over severities of each corruption.  → …,heads,corruptions"""
        by_corruption = 100 - self.accuracy[..., 1:].reshape(*self.accuracy.shape[:-1], len(self.names), len(SEVERITIES))
        return by_corruption.mean(-1)[..., [self.names.index(name) for name in names]]


def resampled(cells: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Accuracies in % of `count` resamples of the images, the same ones for every cell.  …,N bool → count,…"""
    N = cells.shape[-1]
    flat = cells.reshape(-1, N).astype(np.float32)
    parts = [weights.astype(np.float32) @ flat.T for weights in weight_blocks(N, seed, count)]
    return (np.concatenate(parts) * (100 / N)).reshape(count, *cells.shape[:-1])
