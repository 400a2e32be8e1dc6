"""Splits of images and data sets made of them: which image is in train, validation and test, whatever reads the files."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from core import counter_rng
from core.image_size import Size
from vision.geometry import Geometry
from vision.groups import hold_out
from vision.listing import counted
from vision.multilabel import has_label, is_multilabel
from vision.pixel_format import PixelFormat
from vision.preprocess import fitted
from vision.stratify import iterative_holdout
from vision.streamed import Progress, Streamed, drop_unreadable

VALIDATION_CAP = 5_000
STREAMED_SIZE = 224  # pixels a side at which files are used where nothing else is set
TEST_SHARE, TEST_CAP = 0.2, 10_000  # held out where a labelled set has no test split
FOR_TEST, FOR_VALIDATION = 0, 1  # in place of the counter's epoch: which holdout a random number is for

# Mean and standard deviation over the pixels of the official train split, per channel in 0..1. MNIST: PyTorch's
# examples; Fashion-MNIST: computed from Debian's copy (a test repeats it); CIFAR-10, CIFAR-100, STL-10 (labelled
# split): the four digits that circulate, not recomputed here; ImageNet's, as in timm, for folders and hf.
STATISTICS = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "stl10": ((0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class Images:
    """A split held in memory.  images: N,C,H,W uint8; labels: N int64, N,K int8 of several an image
    (vision/multilabel.py), or None where unlabelled."""

    groups = windows = None  # as in `Streamed`

    def __init__(self, images: Tensor, labels: Tensor | None = None, source: str = "images") -> None:
        assert images.ndim == 4, images.shape
        assert images.dtype == torch.uint8, images.dtype
        assert labels is None or labels.shape[:1] == images.shape[:1], (labels.shape, images.shape)
        self.images, self.labels, self.source = images, labels, source

    def __len__(self) -> int:
        return len(self.images)

    def select(self, positions: Tensor) -> Images:
        """A copy of these positions."""
        return Images(self.images[positions], None if self.labels is None else self.labels[positions], self.source)

    def resized(self, indices: Tensor, size: Size | Geometry) -> Tensor:
        """→ B,C,height,width uint8, bilinear with antialiasing; the pixels themselves where they have that size.

        size: alone, cropped; these images are square, so that nothing is lost where it is one number. Rectangles, and other
        fits, are resized by Pillow (vision/preprocess.py), as files are; a letterbox has the channels of its padding.
        """
        images, geometry = self.images[indices], Geometry.of(size)
        if not geometry.is_center_square:
            pixels = [fitted(Image.fromarray(one.permute(1, 2, 0).squeeze(2).numpy()), geometry) for one in images]
            return torch.from_numpy(np.stack(pixels))
        if images.shape[-2:] == (geometry.height, geometry.width):
            return images
        images = interpolate(images.float(), (geometry.height, geometry.width), mode="bilinear", antialias=True)
        return images.round().clamp(0, 255).to(torch.uint8)

    def name(self, index: int) -> str:
        return f"{self.source}/{index}"

    def fingerprint(self) -> str:
        """Of the images, in their order."""
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        for part in self.images.split(4096):
            digest.update(part.contiguous().numpy())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Dataset:
    """What every tool gets. No image is in two of train, validation and test; pretrain shares none with the last two.

    pretrain: what pretraining sees, train itself or more (STL-10). test: empty (length 0, no labels) where nothing
    could be scored on it, that is for an unlabelled folder. classes: from train, or None where unlabelled.
    image_size: natural side in pixels (224 for folder, shards and hf). mean, std: per channel, in 0..1 (`STATISTICS`).
    skipped: file or folder → why it was left out. ignored: kind → how many files of it were never looked at: ".heic",
    "without suffix"; folders that were not entered end in "/" ("@eaDir/"). pixels: how files are read that are no 8-bit gray
    or RGB ones; then images are float32 in 0..1, and not uint8. notes: further lines that a user should read: on label files,
    groups, and files that are in two splits.
    """

    name: str
    pretrain: Images | Streamed
    train: Images | Streamed
    validation: Images | Streamed
    test: Images | Streamed
    classes: tuple[str, ...] | None
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    skipped: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    pixels: PixelFormat | None = None

    @property
    def multilabel(self) -> bool:
        """May an image have several labels? Labels are N,K int8 then, of 0 and 1."""
        return is_multilabel(self.train.labels)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """"images.train" → "1,164 images, 0f3c…", and so on: different for other images, labels or classes.

        They are part of the identity of a run that sees them (core/identity.py), and the same wherever the files lie.
        """
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        if self.pretrain is not self.train:
            splits["pretrain"] = self.pretrain
        prints = {f"images.{role}": f"{len(split):,} images, {split.fingerprint()[:16]}" for role, split in splits.items()}
        if self.classes:
            labels = hashlib.sha256()
            for split in splits.values():
                labels.update(b"none" if split.labels is None else split.labels.numpy().tobytes())
            names = ", ".join(self.classes[:3]) + (", …" if len(self.classes) > 3 else "")
            every = hashlib.sha256("\n".join(self.classes).encode()).hexdigest()[:8]
            prints |= {"images.labels": labels.hexdigest()[:16], "images.classes": f"{len(self.classes)} ({names}; {every})"}
        return prints


class Splits(NamedTuple):
    """No image is in two of them."""

    train: Any  # Images, or a Streamed
    validation: Any
    test: Any


def complete_splits(
    train: Images | Streamed, validation: Images | Streamed | None, test: Images | Streamed | None, share: float,
    seed: int, test_share: float = TEST_SHARE,
) -> Splits:
    """The splits, where what is None is held out of train: first test, which does not depend on the seed, so that an
    encoder pretrained with one seed never meets its own images in the test of another; then validation."""
    if test is None:
        train, test = split_holdout(train, test_share, TEST_CAP, 0, FOR_TEST)
    if validation is None:
        train, validation = split_holdout(train, share, VALIDATION_CAP, seed, FOR_VALIDATION)
    return Splits(train, validation, test)


def split_holdout(split: Images | Streamed, share: float, cap: int, seed: int, use: int) -> tuple[Any, Any]:
    """(what stays, the holdout), both in the order of `split`; stratified where it is labelled, by groups where it has some."""
    labels = torch.zeros(len(split), dtype=torch.int64) if split.labels is None else split.labels
    if split.groups is not None:
        held_out = hold_out(labels, split.groups, share, cap, seed, use)
        if share and not held_out.any():
            role, count = "test" if use == FOR_TEST else "validation", counted(len(split.groups.unique()), "group")
            raise ValueError(f"data.group leaves no group for {role}: train needs its {count} to keep each class; give smaller "
                             f"groups, or images in a folder {role}/ of its own")
        return split.select((~held_out).nonzero().flatten()), split.select(held_out.nonzero().flatten())
    # A file keeps its random number when another one turns out unreadable: it belongs to the row, not the position.
    rows = split.rows if isinstance(split, Streamed) else torch.arange(len(split))
    order = counter_rng.keys(seed, use, rows, counter_rng.SPLIT).argsort(stable=True)
    if is_multilabel(labels):
        held_out = torch.from_numpy(iterative_holdout(labels.numpy(), order.numpy(), share, cap))
        return split.select((~held_out).nonzero().flatten()), split.select(held_out.nonzero().flatten())
    counts = labels.bincount()
    order = order[labels[order].argsort(stable=True)]  # class by class, in random order within each
    rank = torch.empty_like(labels)
    rank[order] = torch.arange(len(split)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    held_out = rank < _apportion(counts, share, cap)[labels]
    return split.select((~held_out).nonzero().flatten()), split.select(held_out.nonzero().flatten())


def _apportion(counts: Tensor, share: float, cap: int) -> Tensor:
    """How many of each class to hold out.  counts: C int64 → C int64.

    round(share · N), at most `cap`, by largest remainders; at least one of every class that keeps another (while that
    respects `cap`), never all of a class.
    """
    one = (counts > 1).long()
    if share == 0 or not one.any():
        return torch.zeros_like(counts)
    if one.sum() > cap:
        one = torch.zeros_like(counts)
    total = max(min(round(share * int(counts.sum())), cap), int(one.sum()))
    beyond = (counts.double() * total / counts.sum() - one).clamp(min=0)
    beyond *= (total - one.sum()) / beyond.sum().clamp(min=1e-9)
    take = beyond.floor().long()
    take[(beyond - take).argsort(descending=True, stable=True)[: total - int((one + take).sum())]] += 1
    return (one + take).minimum((counts - 1).clamp(min=0))


@dataclass
class Collection:
    """The files that a reader finds, before unreadable ones are dropped and missing splits are held out of train."""

    name: str  # the data set's
    root: str
    splits: dict[str, Streamed] = field(default_factory=dict)  # "train", maybe "validation" and "test"
    classes: tuple[str, ...] | None = None
    skipped: dict[str, str] = field(default_factory=dict)  # as in `Dataset`
    ignored: Counter = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def assemble(
    collection: Collection, max_corrupt: float, validation: float, seed: int, progress: Progress | None = None
) -> Dataset:
    """The data set of what was collected, without unreadable files.

    Images of train whose label is below 0 have none: they are for pretraining alone.
    Where labelled data has an official validation split and no test that can be scored, as ImageNet, that split is the
    test, since published figures are figures on it, and validation is held out of train: nothing is ever selected on
    what is reported.
    """
    splits, classes = collection.splits, collection.classes
    if classes and "test" not in splits and "validation" in splits:
        splits = {"train": splits["train"], "test": splits["validation"]}
    for split in splits.values():
        split.max_corrupt = max_corrupt
    splits, unreadable = drop_unreadable(splits, max_corrupt, progress)
    if not len(splits["train"]):
        first = next(iter(unreadable), collection.root)
        raise ValueError(f"data.root={collection.root} has no readable image in train; see {first}")
    everything = splits["train"]
    labelled = everything if everything.labels is None else everything.select(has_label(everything.labels).nonzero().flatten())
    if classes and not len(labelled):
        raise ValueError(f"data.root={collection.root} has no readable image with a label in train")
    train, held_out, test = complete_splits(
        labelled, splits.get("validation"), splits.get("test"), validation, seed, TEST_SHARE if classes else 0
    )
    pretrain = train if len(labelled) == len(everything) else with_unlabelled(train, everything, [held_out, test])
    mean, std = STATISTICS["imagenet"]
    return Dataset(
        collection.name, pretrain, train, held_out, test, classes, 3, STREAMED_SIZE, mean, std,
        collection.skipped | unreadable, dict(+collection.ignored), collection.notes,
    )


def with_unlabelled(train: Streamed, everything: Streamed, held_out: list[Streamed]) -> Streamed:
    """train and the unlabelled images among everything, as one unlabelled split, without images of a held-out group."""
    keep = ~has_label(everything.labels)
    for split in held_out:
        if everything.groups is not None and split.groups is not None:
            keep &= ~torch.isin(everything.groups, split.groups)
    part = everything.select((keep | torch.isin(everything.rows, train.rows)).nonzero().flatten())
    part.labels = None
    return part
