"""A sheet of nearest neighbors of frozen features, without labels: what an encoder holds for alike, for the eye."""
import numpy as np
import torch

from core.image_size import sides
from linear_eval import pictures
from linear_eval.features import images_of
from linear_eval.knn import neighbors
from linear_eval.samples import Describe, Sample
from vision.raster import shown

QUERIES, NEAREST = 8, 8  # images whose neighbors are shown, and how many at most
SIDE = 96  # pixels of a picture, at most
ABOUT = "Left, an image; right of it the images nearest to it, of {count:,} of this data, nearest first, by cosine."


def neighbor_sheet(sample: Sample, describe: Describe) -> bytes | None:
    """A PNG: QUERIES of the sample's images, evenly spaced, each with its nearest other ones.  None of less than two images.

    describe: as `Sample.describe` takes it, images to features.
    """
    if len(sample) < 2:
        return None
    positions, (rows,) = sample.describe(describe)
    if len(positions) < 2:
        return None
    queries = np.unique(np.linspace(0, len(rows) - 1, min(QUERIES, len(rows))).astype(int))
    count = min(NEAREST, len(rows) - 1)
    _, index = neighbors(rows, rows[queries], count + 1)
    nearest = np.stack([row[row != query][:count] for row, query in zip(index, queries, strict=True)])

    def picture(places: np.ndarray) -> np.ndarray:
        indices = sample.indices[positions[torch.from_numpy(places.ravel())]]
        side = min(max(sides(sample.spec.image_size)), SIDE)  # squares, whatever the encoder's shape
        images = shown(images_of(sample.split, indices, side, None).numpy())
        return images.reshape(*places.shape, *images.shape[1:])

    return pictures.neighbors(pictures.NeighborRows(picture(queries), None, picture(nearest), None), ())
