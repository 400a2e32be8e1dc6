"""The trivial segmentation: the class that most pixels of training masks have, everywhere."""
from collections.abc import Iterable

import numpy as np

from linear_eval.dense.metrics import SegmentationCounts, count_all
from vision.segmentation import IGNORED, Masks, Segmentation

COMMON = "most common class"


def most_common_class(masks: Masks, positions: Iterable[int]) -> int:
    """By the labeled pixels of these masks."""
    pixels = sum(np.bincount(masks[i].ravel(), minlength=256) for i in positions)
    return int(pixels[:IGNORED].argmax())


def constant_counts(split: Segmentation, label: int) -> SegmentationCounts:
    """One class as the prediction of every pixel."""
    masks = (split.masks[i] for i in range(len(split)))
    return count_all(((mask, np.full_like(mask, label)) for mask in masks), len(split.classes))
