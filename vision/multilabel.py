"""Several labels an image: how they are held, which settings ask for them, and what of a data set they are.

Labels of a split are N int64 where an image has one class, and N,K int8 of 0 and 1 where it may have several of K. An image
without a label is −1, or a row of −1; a row of zeros is an image of which it is known that it shows none of the classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

UNLABELLED = -1
CHOICES = ("auto", "true", "false")  # of data.multilabel
USUAL = 0.05  # auto: share of the labelled images beyond which a table's several labels are meant, and no slip


def is_multilabel(labels: Tensor | None) -> bool:
    """May an image have several labels?"""
    return labels is not None and labels.ndim == 2


def has_label(labels: Tensor) -> Tensor:
    """Which images have a label.  N int64 or N,K int8 → N bool"""
    return labels >= 0 if labels.ndim == 1 else (labels >= 0).all(1)


def class_counts(labels: Tensor, classes: int) -> Tensor:
    """Images of each class.  N int64 or N,K int8 → K int64"""
    return labels.bincount(minlength=classes) if labels.ndim == 1 else labels.clamp(min=0).long().sum(0)


def choice(value: object) -> str:
    """data.multilabel as one of CHOICES; None is auto.  Raises ValueError."""
    text = "auto" if value is None else str(value).lower()
    if text not in CHOICES:
        raise ValueError(f"data.multilabel={value}: must be {', '.join(CHOICES[:-1])} or {CHOICES[-1]}")
    return text


def is_meant(several: int, labelled: int) -> bool:
    """auto's rule: are there enough images with several labels that they are meant?"""
    return several > USUAL * labelled


def multi_hot(names: Sequence[tuple[str, ...] | None], classes: Sequence[str]) -> Tensor:
    """Of each image its classes' names, or None without a label → N,K int8. Names that are no class are passed over."""
    place = {name: number for number, name in enumerate(classes)}
    labels = torch.zeros(len(names), len(classes), dtype=torch.int8)
    for image, some in enumerate(names):
        if some is None:
            labels[image] = UNLABELLED
        else:
            labels[image, [place[name] for name in some if name in place]] = 1
    return labels


def equal(one: Tensor, other: Tensor) -> bool:
    """Do two images have the same labels?  of each its row"""
    return bool((one == other).all())


def understood(several: Mapping[int, tuple[str, ...]], how: str) -> str:
    """A note's part on what a file was taken for.  several: image → its classes; how: where in the file they stand"""
    counts = [len(some) for some in several.values()]
    many, none = sum(count > 1 for count in counts), sum(count == 0 for count in counts)
    return (f"taken as several labels an image, {how} ({many:,} images have several, at most {max(counts, default=0)}"
            f"{f'; {none:,} have none of the classes' if none else ''})")


def refuse(labels: Tensor | None, what: str, way_out: str) -> None:
    """ValueError where an image may have several labels.  what: the setting that takes one an image"""
    if is_multilabel(labels):
        raise ValueError(f"{what} takes one label an image, and this data has several; {way_out}")
