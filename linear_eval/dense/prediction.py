"""Scores of patches → the class of every pixel, at the label's own size."""
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

Scores = Callable[[np.ndarray], Iterable[np.ndarray]]  # M,D → M,C of each candidate


def upsampled(scores: np.ndarray, grid: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """The class with the greatest score, interpolated bilinearly (align_corners=False); no label is ever resized.

    scores: h·w,C in raster order; size: H,W → H,W uint8
    """
    maps = torch.from_numpy(np.ascontiguousarray(scores.T, np.float32)).view(1, -1, *grid)
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)[0].argmax(0).to(torch.uint8).numpy()


@dataclass(frozen=True)
class Predicted:
    """An image's mask and its prediction by each candidate, H,W uint8 each.  index: of the image in its split"""

    index: int
    patches: np.ndarray  # h·w,D
    truth: np.ndarray
    candidates: list[np.ndarray]


def predict(
    scores: Scores, blocks: Iterable[tuple[np.ndarray, np.ndarray]], masks, grid: tuple[int, int]
) -> Iterator[Predicted]:
    """blocks: (indices B, patches B,h·w,D), as `PatchFeatures.blocks`; masks: [index] → H,W uint8"""
    for indices, x in blocks:
        found = [one.reshape(len(x), x.shape[1], -1) for one in scores(x.reshape(-1, x.shape[2]))]
        for i, index in enumerate(indices.tolist()):
            truth = masks[index]
            yield Predicted(index, x[i], truth, [upsampled(one[i], grid, truth.shape) for one in found])
