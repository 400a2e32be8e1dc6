"""Data sets whose images have masks: of each split the images, the label of every pixel, and the classes' names and colors.

`build_segmentation` in vision/data.py opens one by the settings, as `build_data` does any data set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vision.datasets import pixel_statistics
from vision.mask_check import check_masks
from vision.mask_files import IGNORED as IGNORED
from vision.mask_layouts import FolderOptions, find_pairs
from vision.scenes import SceneOptions, Scenes, load_scenes
from vision.splits import STATISTICS, STREAMED_SIZE, Dataset, Images, complete_splits
from vision.streamed import Progress, Streamed, drop_unreadable

NAMES = ("scenes", "segmentation_folder")
ROLES = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


class Masks(Protocol):
    """The masks of a split, in the order of its images."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray:
        """H,W uint8 at the label's own size: classes from 0, `IGNORED` where there is no label."""
        ...

    def fingerprint(self) -> str: ...


class MasksInMemory:
    """masks: N,H,W uint8"""

    def __init__(self, masks: np.ndarray):
        self.masks = masks

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.masks[index]

    def fingerprint(self) -> str:
        return hashlib.sha256(str(self.masks.shape).encode() + self.masks.tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class Segmentation:
    """One split.  images: as every tool takes them, without labels; masks[i]: that of image i.

    classes: K names, labels are 0 … K−1; colors: K of red, green and blue, 0..255, to show them in.
    """

    images: Images | Streamed
    masks: Masks
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class SegmentationData:
    """dataset: the images alone, as an unlabelled data set; train, validation and test share no image."""

    dataset: Dataset
    train: Segmentation
    validation: Segmentation
    test: Segmentation

    def split(self, name: str) -> Segmentation:
        """Of `ROLES`.  Raises ValueError."""
        if name not in ROLES:
            raise ValueError(f"split={name}: must be train, val or test")
        return getattr(self, ROLES[name])


def load_segmentation(options: Mapping[str, Any], seed: int = 0, progress: Progress | None = None) -> SegmentationData:
    """The data set that the settings data.* name.  Raises ValueError, one line, with the fix.

    seed: of the choice of validation images, where they have no folder of their own. progress: as `datasets.load` takes it.
    """
    options = dict(options)
    name = options.pop("name")
    if name not in NAMES:
        raise ValueError(f"data={name} has no masks; take data={' or data='.join(NAMES)}")
    if name == "segmentation_folder":
        return _of_folder(FolderOptions(**options), seed, progress)
    scale = tuple(options.pop("scale"))
    return _of_scenes(load_scenes(SceneOptions(**options, scale=scale)))


def segmentation(data: Mapping[str, Any], split: str, seed: int = 0) -> Segmentation:
    """One split, train, val or test, of the data set that the settings data.* name; as `load_segmentation`."""
    return load_segmentation(data, seed).split(split)


def _of_scenes(scenes: dict[str, Scenes]) -> SegmentationData:
    classes = scenes["train"].classes
    colors = palette(len(classes))
    parts = {role: Segmentation(Images(part.images, None, f"scenes/{role}"), MasksInMemory(part.masks), classes, colors)
             for role, part in scenes.items()}
    train, validation, test = (parts[role].images for role in ("train", "validation", "test"))
    mean, std = pixel_statistics(train.images)
    side = train.images.shape[2]
    return SegmentationData(Dataset("scenes", train, train, validation, test, None, 3, side, mean, std), **parts)


def _of_folder(options: FolderOptions, seed: int, progress: Progress | None) -> SegmentationData:
    """A folder's images and masks: splits as they are given, and what is missing held out of train, by the classes that
    images show. A val/ without a test/ is the test, as published figures have it, so that nothing is chosen on it."""
    pairs, notes = find_pairs(options), []
    if "test" not in pairs.splits and "validation" in pairs.splits:
        pairs.splits["test"] = pairs.splits.pop("validation")
        notes.append(f"data.root={pairs.root}: its validation split is the test here, and validation is held out of train")
    images: dict[str, Streamed] = {role: files for role, (files, _) in pairs.splits.items()}
    for files in images.values():
        files.max_corrupt = options.max_corrupt
    images, unreadable = drop_unreadable(images, options.max_corrupt, _part(progress, 0))
    masks = {role: of_images.select(images[role].rows) for role, (_, of_images) in pairs.splits.items()}
    labels, shown = check_masks(pairs, images, masks, _part(progress, 1))
    train = images["train"]
    train.labels = shown if "test" not in images or "validation" not in images else None
    splits = complete_splits(train, images.get("validation"), images.get("test"), options.validation, seed)
    found, colors = {}, labels.shown or palette(len(labels.names or ()))
    for role, split in zip(("train", "validation", "test"), splits, strict=True):
        split.labels = None
        whole = pairs.splits[role if role in images else "train"][1]
        whole.labels_of = labels
        found[role] = Segmentation(split, whole.select(split.rows), labels.names or (), colors)
    mean, std = STATISTICS["imagenet"]
    dataset = Dataset("segmentation_folder", splits.train, splits.train, splits.validation, splits.test, None, 3, STREAMED_SIZE,
                      mean, std, pairs.skipped | unreadable, dict(+pairs.ignored), notes)
    return SegmentationData(dataset, **found)


def _part(progress: Progress | None, part: int) -> Progress | None:
    """Of two passes over the same files, the first (0) or the second (1)."""
    return progress and (lambda done, total: progress(part * total + done, 2 * total))


def palette(count: int) -> tuple[tuple[int, int, int], ...]:
    """Colors of classes, those of Pascal VOC's masks: black, then the bits of a class's number dealt to red, green and blue,
    the greatest first."""
    colors = []
    for number in range(count):
        color = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                color[channel] |= ((number >> (3 * bit + channel)) & 1) << (7 - bit)
        colors.append((color[0], color[1], color[2]))
    return tuple(colors)
