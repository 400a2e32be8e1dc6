"""Frozen patch features of a split, N,h·w,D: computed once on any number of processes, on disk within a stated budget.

The file of a split grows block by block (linear_eval/dense/store.py): a command that was killed resumes where it was.
"""
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from core.image_size import size_text
from core.processes import broadcast_object, is_main
from linear_eval import features
from linear_eval.dense.store import GrowingArray
from linear_eval.features import Source, evaluating, evenly, feature_blocks, fingerprint
from vision import tokens
from vision.encoders import Spec
from vision.geometry import SQUASH, Geometry
from vision.pixels import normalize_images
from vision.splits import Images
from vision.streamed import Streamed

Split = Images | Streamed
BLOCK_BYTES, BLOCK = 2**26, 256  # of float32 patch features in one forward pass, at most; and images
GIGABYTE = 10**9
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class PatchSource:
    """A way of turning images into patch features.  source: its rows are B,h·w·D; grid: h,w; dim: D"""

    source: Source
    grid: tuple[int, int]
    dim: int

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def image_bytes(self) -> int:
        """On disk, in half precision."""
        return self.patches * self.dim * 2

    def blocks(self, split: Split, device: torch.device, title: str) -> Iterator[np.ndarray]:
        """Computed in passing and not kept.  → B,h·w,D float16"""
        for rows in feature_blocks(self.source, split, device, title):
            yield rows.reshape(len(rows), self.patches, self.dim)


@dataclass(frozen=True)
class PatchFeatures:
    """Patches of the images of a split that could be read.

    x: M,h·w,D float16, memory-mapped where it is cached; rows: M, which row of x an image is; indices: M, which image of the
    split it is.
    """

    x: np.ndarray
    rows: np.ndarray
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(indices B, patches B,h·w,D) in the split's order."""
        for start in range(0, len(self), size):
            some = slice(start, start + size)
            yield self.indices[some], self.x[self.rows[some]]


# ----------------------------------------------------------------------------------------------------------------- sources


def whole_images(split: Split, spec: Spec) -> Geometry:
    """The encoder's input, filled by the whole image, so that every pixel of a mask has a patch: squashed, as CAPI does
    (arXiv 2502.08769). Images in memory that have the input's proportions are resized as in every other evaluation."""
    height, width = spec.shape[1:]
    if isinstance(split, Images) and split.images.shape[2] * width == split.images.shape[3] * height:
        return Geometry(height, width)
    return Geometry(height, width, SQUASH)


def grid_of(encoder: nn.Module, setting: str) -> tuple[int, int]:
    """h,w of the patches that an encoder makes of its input.  Raises ValueError where it makes none, or a single one."""
    tokens.check(encoder, setting, "map")
    size = encoder.spec.image_size
    try:
        grid = tokens.grid(encoder, size)
    except (ValueError, RuntimeError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{setting} gives no map of patches at {size_text(size)} px ({error}); choose another") from error
    if grid[0] * grid[1] < 4:
        raise ValueError(f"{setting} gives {grid[0]} × {grid[1]} patches at {size_text(size)} px, too few to tell places "
                         "apart; use a larger image_size, stem=small, or an encoder with smaller patches")
    return grid


def patch_source(
    name: str, key: str, describe: Callable[[Tensor], Tensor], geometry: Geometry, channels: int | None, example: Tensor
) -> PatchSource:
    """describe: B,C,H,W uint8 → B,D,h,w; example: an image's result, 1,D,h,w"""
    _, dim, h, w = example.shape

    def rows(images: Tensor) -> Tensor:
        return describe(images).flatten(2).mT.flatten(1)

    block = max(1, min(BLOCK, BLOCK_BYTES // (4 * dim * h * w)))
    return PatchSource(Source(name, f"patches {h}×{w} {key}", rows, geometry, channels, block=block), (h, w), dim)


def of_encoder(
    name: str, encoder: nn.Module, moments: tuple[Tensor, Tensor], geometry: Geometry, device: torch.device
) -> PatchSource:
    """The patch tokens of a frozen encoder, normalized as its pooled features are (vision/tokens.py); of a convolutional
    one its last map.  moments: mean and standard deviation of the pixels, C each"""
    encoder = encoder.to(device).eval()

    def describe(images: Tensor) -> Tensor:
        with evaluating(encoder):
            return tokens.tokens(encoder, normalize_images(images.to(device), *moments)).map.float()

    example = describe(torch.zeros(1, *encoder.spec.shape, dtype=torch.uint8))
    key = json.dumps([fingerprint(encoder), *(m.tolist() for m in moments)])
    return patch_source(name, key, describe, geometry, encoder.spec.channels, example)


# ------------------------------------------------------------------------------------------------------------------ budget


@dataclass(frozen=True)
class Budget:
    """What of a source is kept on disk.  train, validation: images; test: all of them, or none: computed in passing"""

    train: int
    validation: int
    test: bool
    note: str = ""

    @staticmethod
    def of(counts: dict[str, int], image_bytes: int, gigabytes: float) -> "Budget":
        """All, where it fits. Else at most half of the budget for training images, a quarter for validation images, each
        evenly spaced, and the test images where the rest holds all of them.  counts: split → images

        Raises ValueError where the budget holds no image for training and validation.
        """
        room = int(gigabytes * GIGABYTE) // image_bytes
        train, validation, test = (counts[name] for name in SPLITS)
        if train + validation + test <= room:
            return Budget(train, validation, True)
        kept = min(train, room // 2), min(validation, room // 4)
        if not all(kept):
            raise ValueError(f"budget={gigabytes:g}: the patches of an image take {image_bytes / 1e6:.3g} MB; "
                             f"give {4 * image_bytes / GIGABYTE:.1g} GB at least")
        whole = test <= room - sum(kept)
        parts = [
            f"the patches of {kept[0]:,} of {train:,} training and {kept[1]:,} of {validation:,} validation images, evenly "
            "spaced"
        ]
        parts += [] if whole else ["those of test images are computed in passing, by one process"]
        return Budget(*kept, whole, f"budget={gigabytes:g} GB holds " + "; ".join(parts))


# -------------------------------------------------------------------------------------------------------------------- pass


def collect_patches(
    patches: PatchSource, split: Split, count: int, device: torch.device, cache: Path | None
) -> PatchFeatures | None:
    """The patches of `count` evenly spaced images of a split.  None on other processes than the main one.

    cache: folder of caches; None: they stay in memory. Raises ValueError where another command is computing the same patches;
    DiskFull.
    """
    kept = evenly(len(split), count).numpy()
    part = split if len(kept) == len(split) else split.select(torch.from_numpy(kept))
    title = f"{patches.source.name}: patches of {len(kept):,} images"
    if cache is None:
        blocks = [*patches.blocks(part, device, title)]
        skipped = features._skipped(part)
        return _features(np.concatenate(blocks), kept, skipped) if is_main() else None
    shape = (len(kept), patches.patches, patches.dim)
    store = GrowingArray(cache / features._key(patches.source, part), shape) if is_main() else None
    done = broadcast_object(store.rows if store else None)
    if done < len(kept):
        for rows in feature_blocks(patches.source, part, device, title, done):
            store.append(rows, unreadable(part))
        skipped = features._skipped(part)  # by any process
        if store:
            store.note(skipped)
    return _features(store.read(), kept, store.skipped) if store else None


def unreadable(split: Split) -> list[int]:
    """Images that this process could not read: a neighbor replaced them."""
    names = getattr(split, "skipped", {})
    return [i for i in range(len(split)) if split.where(i) in names] if names else []


def _features(x: np.ndarray, kept: np.ndarray, skipped: list[int]) -> PatchFeatures:
    rows = np.setdiff1d(np.arange(len(kept)), skipped)
    return PatchFeatures(x, rows, kept[rows])
