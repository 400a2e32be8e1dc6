"""A sheet of nearest neighbors of frozen features: what an encoder holds for alike, for the eye."""
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from core.image_size import sides
from linear_eval import pictures
from linear_eval.features import images_of
from linear_eval.knn import neighbors
from linear_eval.samples import Sample
from vision.raster import shown

QUERIES, NEAREST = 8, 8  # images whose neighbors are shown, and how many at most
SIDE = 96  # pixels of a picture, at most
ABOUT = "Left, an image; right of it the images nearest to it, of {count:,} of this data, nearest first, by cosine."


def neighbor_sheet(sample: Sample, positions: Tensor, rows: Tensor, names: Sequence[str] = ()) -> bytes:
    """A PNG: QUERIES of the sample's images, evenly spaced, each with its nearest other ones; with frames where the sample's
    labels have names.

    positions, rows: of two images or more, and their features, as `Sample.describe` gives them
    """
    queries = np.unique(np.linspace(0, len(rows) - 1, min(QUERIES, len(rows))).astype(int))
    count = min(NEAREST, len(rows) - 1)
    _, index = neighbors(rows, rows[queries], count + 1)
    nearest = np.stack([row[row != query][:count] for row, query in zip(index, queries, strict=True)])

    def picture(places: np.ndarray) -> np.ndarray:
        indices = sample.indices[positions[torch.from_numpy(places.ravel())]]
        side = min(max(sides(sample.spec.image_size)), SIDE)  # squares, whatever the encoder's shape
        images = shown(images_of(sample.split, indices, side, None).numpy())
        return images.reshape(*places.shape, *images.shape[1:])

    labels = sample.labels[positions].numpy() if names and sample.labels is not None else None
    of = (lambda places: None) if labels is None else labels.__getitem__
    return pictures.neighbors(pictures.NeighborRows(picture(queries), of(queries), picture(nearest), of(nearest)), names)
