"""A segmenter on a split: predictions at each mask's own size, counted image by image, by all processes."""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from core.processes import gather_objects, is_main, rank, world_size
from core.run import counting
from linear_eval.dense.metrics import SegmentationCounts, boundary_f, pixel_counts
from linear_eval.dense.pictures import SegmentedImage
from linear_eval.features import evaluating, images_of
from linear_eval.segment.decoders import resized
from linear_eval.segment.segmenter import Segmenter
from vision.augment import Augmentation
from vision.pixels import normalize_images
from vision.raster import shown
from vision.segmentation import Segmentation
from vision.streamed import Streamed

BATCH = 16  # images that pass the encoder at once


@dataclass(frozen=True, eq=False)
class SplitScores:
    """counts: of the split's images in their order; seen: those of the positions that were asked for"""

    counts: SegmentationCounts
    seen: list[SegmentedImage] = field(default_factory=list)


def score(
    method: Segmenter, split: Segmentation, recipe: Augmentation, device: torch.device, *, boundaries: bool = True,
    keep: Sequence[int] = (), title: str = "",
) -> SplitScores | None:
    """None on other processes than the main one.  boundaries: measure them too, which takes longer"""
    found: dict[int, tuple[np.ndarray, float]] = {}
    seen: dict[int, SegmentedImage] = {}
    with evaluating(method), counting(title or "segmenting") as progress:
        for index, image, predicted in _predictions(method, split, recipe, device):
            truth = split.masks[index]
            edges = boundary_f(truth, predicted) if boundaries else 0.0
            found[index] = pixel_counts(truth, predicted, len(split.classes)), edges
            if index in keep:
                seen[index] = SegmentedImage(image, truth, predicted)
            if title:
                progress(min(len(split), len(found) * world_size()), len(split))
    parts = gather_objects((found, seen))
    if not is_main():
        return None
    found = {index: counts for one, _ in parts for index, counts in one.items()}
    seen = {index: one for _, some in parts for index, one in some.items()}
    nothing = np.zeros((len(split.classes), 3), np.int64), float("nan")  # of an image that cannot be read
    pixels, edges = zip(*(found.get(index, nothing) for index in range(len(split))), strict=True)
    return SplitScores(SegmentationCounts(np.stack(pixels), np.array(edges)), [seen[index] for index in sorted(seen)])


def _predictions(
    method: Segmenter, split: Segmentation, recipe: Augmentation, device: torch.device
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Of this process's share, as far as it can be read: the image's place, itself as it was seen, and the class of each pixel
    of its mask."""
    spec = method.encoder.spec
    mine = torch.arange(rank(), len(split), world_size())
    for indices in mine.split(BATCH):
        images = images_of(split.images, indices, spec.geometry, spec.channels)
        x = normalize_images(images.to(device), recipe.mean, recipe.std)
        logits = method.logits(x).float()
        for index, image, own in zip(indices.tolist(), images.numpy(), logits, strict=True):
            if isinstance(split.images, Streamed) and split.images.where(index) in split.images.skipped:
                continue  # a neighbor stands in for it, and the mask is not the neighbor's
            predicted = resized(own[None], split.masks[index].shape)[0].argmax(0)
            yield index, shown(image), predicted.to(torch.uint8).cpu().numpy()
