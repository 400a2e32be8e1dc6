"""Classical image descriptors: features that an encoder has to beat.

HOG: Dalal and Triggs 2005 (CVPR, without an arXiv id), with scikit-image's hard orientation bins. scikit-image's `hog` gives
the same to 1e-7 (it sums in float32), one image at a time: 0.5 ms against 0.03 ms here, at 28 px on one core.
LBP: Ojala et al. 2002 (TPAMI), scikit-image's. SIFT words: Csurka et al. 2004 (ECCV workshop) on OpenCV's SIFT.
Descriptors are functions of single images, whatever block they come in; what must be fitted is fitted on training images alone.
"""
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from skimage.feature import local_binary_pattern
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional as F

from linear_eval.features import pixels_of

LARGEST = 64  # a side, at most, of what descriptors look at: beyond, cost grows and what tells classes apart does not
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's and OpenCV's gray

CELLS = 7  # HOG cells a side, or one more: 4 px at 28 and 32, 9 px at 64
ORIENTATIONS, BLOCK, CLIP = 9, 2, 0.2  # the paper's 20° bins, blocks of 2 × 2 cells and L2-Hys; see experiments.published
NEIGHBORS, RADIUS, GRID = 8, 1, 4  # LBP on the 8 next pixels; 4 × 4 histograms of its 10 uniform patterns
WORDS, POINTS, PATCH = 512, 7, 12 / 28  # SIFT: vocabulary, key points a side, side of a patch as a share of the image's
WORDS_SIDE = 56  # images are brought to it: SIFT blurs by 1.6 px first, which is too much for 28
FOR_WORDS = 2_000  # images whose 49 descriptors each make the vocabulary
COMPONENTS = 64


def pixels(images: Tensor) -> np.ndarray:
    """Levels in 0..1, averaged to 32 a side where there are more.  B,C,S,S uint8 → B,D"""
    return pixels_of(images).numpy()


def gray(images: Tensor, side: int | None = None) -> np.ndarray:
    """Gray levels of images brought to `side`, or to at most `LARGEST`.  B,C,S,S uint8, or float in 0..1 → B,side,side uint8

    Of two or more than three bands, their mean. Rectangles are squashed to a square.
    """
    side = side or min(max(images.shape[-2:]), LARGEST)
    levels = 255 * images if images.is_floating_point() else images.float()
    if images.shape[-2:] != (side, side):
        levels = F.interpolate(levels, (side, side), mode="bilinear", antialias=True)
    if images.shape[1] == 3:
        levels = (levels * torch.tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
    elif images.shape[1] > 1:
        levels = levels.mean(1, keepdim=True)
    return levels[:, 0].round().clamp(0, 255).to(torch.uint8).numpy()


@cache
def _gradients(orientations: int) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude and orientation bin of every gradient of uint8 images, by [down + 255, right + 255].  511,511 each"""
    steps = np.arange(-255.0, 256)
    down, right = steps[:, None], steps[None, :]
    degrees = np.rad2deg(np.arctan2(down, right)) % 180
    return np.hypot(down, right), (degrees // (180 / orientations)).astype(np.int64)


def hog(images: Tensor, cell: int | None = None, orientations: int = ORIENTATIONS, block: int = BLOCK) -> np.ndarray:
    """scikit-image's hog(image, orientations, (cell, cell), (block, block)) of many images at once.  B,C,S,S uint8 → B,D"""
    levels = gray(images).astype(np.int64)
    number, side, _ = levels.shape
    cell = cell or max(2, side // CELLS)
    cells = side // cell
    down, right = np.full_like(levels, 255), np.full_like(levels, 255)  # no gradient at the border
    down[:, 1:-1] += levels[:, 2:] - levels[:, :-2]
    right[:, :, 1:-1] += levels[:, :, 2:] - levels[:, :, :-2]
    inside = slice(cells * cell)
    gradient = (down * 511 + right)[:, inside, inside]
    magnitude, orientation = (table.ravel()[gradient] for table in _gradients(orientations))
    at = np.arange(cells * cell) // cell
    place = (np.arange(number)[:, None, None] * cells + at[:, None]) * cells + at  # which histogram a pixel votes in
    votes = np.bincount((place * orientations + orientation).ravel(), magnitude.ravel(), number * cells**2 * orientations)
    votes = votes.reshape(number, cells, cells, orientations) / cell**2
    blocks = sliding_window_view(votes, (block, block), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    blocks = blocks.reshape(*blocks.shape[:3], -1)  # B,rows,columns,block*block*orientations
    blocks = np.minimum(_unit(blocks), CLIP)
    return _unit(blocks).reshape(number, -1).astype(np.float32)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.square(x).sum(-1, keepdims=True) + 1e-5**2)


def lbp(images: Tensor) -> np.ndarray:
    """Shares of the uniform local binary patterns in each of 4 × 4 parts of the image.  B,C,S,S uint8 → B,160"""
    levels = gray(images)
    number, side, _ = levels.shape
    patterns = np.stack([local_binary_pattern(image, NEIGHBORS, RADIUS, "uniform") for image in levels]).astype(np.int64)
    at = np.arange(side) * GRID // side
    place = (np.arange(number)[:, None, None] * GRID + at[:, None]) * GRID + at
    kinds = NEIGHBORS + 2
    counts = np.bincount((place * kinds + patterns).ravel(), minlength=number * GRID**2 * kinds).reshape(-1, kinds)
    return (counts / counts.sum(1, keepdims=True).clip(1)).reshape(number, -1).astype(np.float32)


def sift(images: Tensor) -> np.ndarray:
    """SIFT descriptors of upright patches at a grid of key points.  B,C,S,S uint8 → B,49,128, whole numbers in 0..255"""
    detector = cv2.SIFT_create()
    centers = (np.arange(POINTS) + 0.5) * WORDS_SIDE / POINTS
    size = PATCH * WORDS_SIDE / 6  # OpenCV's descriptor is 4 bins of 1.5 sizes wide
    points = [cv2.KeyPoint(float(x), float(y), size, 0) for y in centers for x in centers]
    return np.stack([detector.compute(image, points)[1] for image in gray(images, WORDS_SIDE)])


@dataclass(frozen=True)
class VisualWords:
    """Bag of visual words.  vocabulary: W,128 of whole numbers, so that no product of them is ever rounded."""

    vocabulary: np.ndarray

    def __call__(self, images: Tensor) -> np.ndarray:
        """Square roots of the shares of the words, so of length 1.  B,C,S,S uint8 → B,W"""
        descriptors = sift(images)
        number, points, _ = descriptors.shape
        distance = (self.vocabulary**2).sum(1) - 2 * descriptors.reshape(number * points, -1) @ self.vocabulary.T
        word = np.arange(number).repeat(points) * len(self.vocabulary) + distance.argmin(1)
        counts = np.bincount(word, minlength=number * len(self.vocabulary)).reshape(number, -1)
        return np.sqrt(counts / points).astype(np.float32)


@dataclass(frozen=True)
class Projection:
    """Principal components of the pixels.  mean: D; components: P,D."""

    mean: np.ndarray
    components: np.ndarray

    def __call__(self, images: Tensor) -> np.ndarray:
        """B,C,S,S uint8 → B,P"""
        return ((pixels(images).astype(np.float64) - self.mean) @ self.components.T).astype(np.float32)


def descriptors(sample: Tensor, seed: int = 0) -> dict[str, Callable[[Tensor], np.ndarray]]:
    """The classical features by name, each a function of a block of images: B,C,S,S uint8 → B,D float32.

    sample: training images N,C,S,S uint8, some thousands, to fit the vocabulary of SIFT words and the principal components on.
    """
    rows = np.random.default_rng(seed).permutation(len(sample))[:FOR_WORDS]
    keypoints = sift(sample[torch.from_numpy(rows)]).reshape(-1, 128)
    words = MiniBatchKMeans(min(WORDS, len(keypoints)), batch_size=4096, n_init=1, random_state=seed).fit(keypoints)
    levels = pixels(sample)
    components = PCA(min(COMPONENTS, *levels.shape), svd_solver="randomized", random_state=seed).fit(levels)
    return {
        "raw pixels": pixels,
        "HOG": hog,
        "LBP": lbp,
        "SIFT words": VisualWords(words.cluster_centers_.round().astype(np.float32)),
        "PCA": Projection(components.mean_, components.components_),
    }
