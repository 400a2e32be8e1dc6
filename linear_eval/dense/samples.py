"""Patches with their labels, drawn from a split: the bank of retrieval, and what a linear layer is fitted on."""
from dataclasses import dataclass

import numpy as np

from core.run import counting
from linear_eval.dense.patch_features import PatchFeatures
from linear_eval.dense.patch_labels import PatchLabels, draw_patches, patch_labels


@dataclass(frozen=True)
class PatchSample:
    """x: K,D float16; labels: of K patches; images: how many they come from; wanted: how many patches were asked for"""

    x: np.ndarray
    labels: PatchLabels
    images: int
    wanted: int

    def __len__(self) -> int:
        return len(self.x)

    @property
    def note(self) -> str:
        """Where there are fewer patches with a label than asked for."""
        if len(self) >= self.wanted:
            return ""
        return f"{len(self):,} patches, where {self.wanted:,} were asked for: an equal number an image, as far as there are"


def sample_patches(features: PatchFeatures, masks, classes: int, grid: tuple[int, int], draw: "Draw") -> PatchSample:
    """masks: of the whole split, [i] → H,W uint8.  Raises ValueError where no image has a labeled pixel."""
    share, extra = divmod(draw.count, len(features))
    rows, shares, images = [], [], 0
    with counting(draw.title) as progress:
        for i, (row, index) in enumerate(zip(features.rows, features.indices.tolist(), strict=True)):
            count = share + (i * extra // len(features) < (i + 1) * extra // len(features))  # the rest, evenly spread
            if count:
                labels = patch_labels(masks[index], grid, classes)
                chosen = draw_patches(labels, count, draw.seed, index, draw.rare_first)
                rows.append(features.x[row][chosen])
                shares.append(labels.shares[chosen])
                images += bool(len(chosen))
            progress(i + 1, len(features))
    if not images:
        raise ValueError(f"{draw.title}: no mask has a pixel with a label: all of {len(features):,} images are ignored")
    return PatchSample(np.concatenate(rows), PatchLabels(np.concatenate(shares)), images, draw.count)


@dataclass(frozen=True)
class Draw:
    """How many patches of a split, evenly over its images, and which: as `draw_patches`."""

    count: int
    seed: int
    rare_first: bool
    title: str
