"""Scenes of several objects on textured backgrounds, with exact masks: data for segmentation that needs no download.

Each scene is a function of (draw, split, index). Objects are scikit-learn's digits, or Fashion-MNIST's articles where they are
installed. Polarity and colors are drawn for each scene, whatever its objects, so that only shape tells classes apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from core import counter_rng
from vision.datasets import load

BACKGROUND = "background"
ROLES = ("train", "validation", "test")  # the counter's epoch is a split's place here
HELD_OUT = 5  # one scene each of validation and test for so many of train
THRESHOLD = {"digits": 0.4, "fashion_mnist": 0.1}  # gray level, in 0..1, from which on a pixel belongs to the object
LATTICES = (5, 17)  # points a side of a background's random gray levels: coarse and fine
SHARPNESS = 4.0  # of an object's edge: how steeply it rises from background to object
BLOCK = 64  # scenes at a time
NUMBERS = 16  # random numbers of an object


@dataclass(frozen=True)
class SceneOptions:
    """The settings data.* of data=scenes."""

    objects: str = "digits"  # or fashion_mnist
    images: int = 2000  # of train; validation and test have a fifth of it each
    size: int = 64  # pixels a side
    most: int = 4  # objects an image: 1 to so many
    scale: tuple[float, float] = (0.35, 0.7)  # an object's side as a share of the image's
    draw: int = 0  # which scenes they are
    root: str | None = None  # where Fashion-MNIST's files lie, if not where it is installed

    def __post_init__(self):
        if self.objects not in THRESHOLD:
            raise ValueError(f"data.objects={self.objects}: must be {' or '.join(THRESHOLD)}")
        for name, low, high in (("images", 2 * HELD_OUT, 10**7), ("size", 16, 1024), ("most", 1, 16), ("draw", 0, 2**63 - 1)):
            if not (isinstance(value := getattr(self, name), int) and low <= value <= high):
                raise ValueError(f"data.{name}={value}: must be a whole number from {low} to {high}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"data.scale={list(self.scale)}: must be two shares of the image's side, such as [0.35,0.7]")


@dataclass(frozen=True, eq=False)
class Scenes:
    """A split.  images: N,3,S,S uint8; masks: N,S,S uint8, 0 the background, then the objects' classes in their order."""

    images: torch.Tensor
    masks: np.ndarray
    classes: tuple[str, ...]


@lru_cache(maxsize=2)
def load_scenes(options: SceneOptions) -> dict[str, Scenes]:
    """Role → scenes. Objects of one split are in no other.  Raises ValueError, one line, where objects are not installed."""
    data = load(options.objects, options.root, download=False)
    scenes = {}
    for role, split in zip(ROLES, (data.train, data.validation, data.test), strict=True):
        count = options.images if role == "train" else options.images // HELD_OUT
        objects = split.images[:, 0].numpy() / 255.0, split.labels.numpy()
        blocks = [_scenes(options, ROLES.index(role), np.arange(start, min(start + BLOCK, count)), *objects)
                  for start in range(0, count, BLOCK)]
        images, masks = (np.concatenate(part) for part in zip(*blocks, strict=True))
        scenes[role] = Scenes(torch.from_numpy(images), masks, (BACKGROUND, *data.classes))
    return scenes


def _scenes(
    options: SceneOptions, role: int, index: np.ndarray, objects: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Images N,3,S,S and masks N,S,S, both uint8.  index: N; objects: M,h,w in 0..1; labels: M

    Later objects lie over earlier ones. A pixel belongs to the object that makes up half of it or more.
    """
    N, S, cells = len(index), options.size, sum(side * side for side in LATTICES)
    # in float64, so that no rounding to 256 levels depends on a processor's order of operations
    bits = counter_rng.random_bits(options.draw, role, torch.from_numpy(index), counter_rng.SCENES,
                                   8 + NUMBERS * options.most + cells + S * S).numpy()
    u = bits * 2.0**-32
    own, placed, lattice, noise = np.split(u, np.cumsum([8, NUMBERS * options.most, cells]), axis=1)
    bright, dark = (np.stack([low + 0.45 * own[:, i : i + 3] for i in (0, 3)], 1) for low in (0.55, 0.0))  # N,2,3
    is_bright = own[:, 6] < 0.5  # the background
    ground = np.where(is_bright[:, None, None], bright, dark)
    images = _between(ground[:, 0], ground[:, 1], _texture(lattice, S))
    masks = np.zeros((N, S, S), np.uint8)
    count = 1 + (own[:, 7] * options.most).astype(int)
    low, high = options.scale
    for k in range(options.most):
        v = placed[:, NUMBERS * k : NUMBERS * (k + 1)].T  # NUMBERS,N
        side = S * (low + (high - low) * v[0])
        chosen = (v[1] * len(objects)).astype(int)
        rows, columns = (_resampling(v[i] * (S - side), side, S, objects.shape[i - 1]) for i in (2, 3))
        gray = rows @ objects[chosen] @ columns.transpose(0, 2, 1)  # N,S,S
        solid = rows @ np.minimum(objects[chosen] / (2 * THRESHOLD[options.objects]), 1) @ columns.transpose(0, 2, 1)
        cover = np.clip((solid - 0.5) * SHARPNESS + 0.5, 0, 1) * (k < count)[:, None, None]
        colors = np.where(is_bright[:, None, None], 0.45 * v[4:10].T.reshape(N, 2, 3), 0.55 + 0.45 * v[4:10].T.reshape(N, 2, 3))
        images += cover[:, None] * (_between(colors[:, 0], colors[:, 1], gray) - images)
        masks = np.where(cover >= 0.5, 1 + labels[chosen][:, None, None], masks).astype(np.uint8)
    images += 0.1 * (noise.reshape(N, 1, S, S) - 0.5)
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8), masks


def _between(one: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Two colors mixed.  N,3 each, and N,S,S in 0..1 → N,3,S,S"""
    return one[:, :, None, None] + (other - one)[:, :, None, None] * share[:, None]


def _texture(lattice: np.ndarray, size: int) -> np.ndarray:
    """Random gray levels on lattices, interpolated and averaged.  N,Σ side² → N,S,S in 0..1"""
    parts = np.split(lattice, np.cumsum([side * side for side in LATTICES])[:-1], axis=1)
    whole = 0.0
    for side, part in zip(LATTICES, parts, strict=True):
        matrix = _resampling(np.array([0.0]), np.array([float(size)]), size, side)[0]
        whole = whole + matrix @ part.reshape(-1, side, side) @ matrix.T / len(LATTICES)
    return whole


def _resampling(start: np.ndarray, length: np.ndarray, size: int, source: int) -> np.ndarray:
    """Bilinear interpolation along one axis, 0 outside.  start, length: N, where the source's samples come to lie, in pixels
    → N,size,source"""
    at = (np.arange(size) + 0.5 - start[:, None]) / length[:, None] * source - 0.5  # N,size: in samples of the source
    return np.maximum(1 - np.abs(at[:, :, None] - np.arange(source)), 0)
