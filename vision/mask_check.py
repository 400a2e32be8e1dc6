"""Masks before they are used: are they readable, of their images' sizes, and of the classes that there are?"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from math import ceil

import numpy as np
import torch
from torch import Tensor

from vision.decode import Unreadable, reason
from vision.listing import counted
from vision.mask_files import IGNORED, MOST, LabelMap, MaskFiles, upright_size
from vision.mask_layouts import Pairs
from vision.streamed import CHECK_ALL, CHECK_SOME, Files, Progress, Streamed, threads


def check_masks(
    pairs: Pairs, images: dict[str, Streamed], masks: dict[str, MaskFiles], progress: Progress | None
) -> tuple[LabelMap, Tensor | None]:
    """What masks mean, with the classes' names; and which classes images of train show, N,K int8, where all were read.

    Of more than CHECK_ALL masks CHECK_SOME are read, and all of train where only they say how many classes there are.
    Raises ValueError where one is unreadable, of another size than its image, or has a label that is no class.
    """
    total, labels = sum(map(len, masks.values())), pairs.labels
    share = 1.0 if total <= CHECK_ALL else CHECK_SOME / total
    tried = []
    for role in sorted(masks, key=["train", "validation", "test"].index):
        count = ceil(len(masks[role]) * (1 if role == "train" and labels.names is None else share))
        tried += [(role, i * len(masks[role]) // count) for i in range(count)]

    def look(which: tuple[str, int]) -> np.ndarray | str:
        role, index = which
        return _labels_or_fault(images[role], masks[role], index)

    of_train, faults, seen = [], [], 0
    with ThreadPoolExecutor(threads()) as pool:
        for done, ((role, index), found) in enumerate(zip(tried, pool.map(look, tried), strict=True), 1):
            if progress:
                progress(done, len(tried))
            if isinstance(found, str):
                faults.append(found)
                continue
            beyond = found[found != IGNORED]
            if role == "train":
                of_train.append(beyond)
                seen = max(seen, int(beyond.max(initial=-1)) + 1)
            elif labels.names is None and beyond.max(initial=-1) >= seen:
                faults.append(f"{masks[role].where(index)}: label {int(beyond.max())}, and train's go up to {seen - 1}")
    if faults:
        raise ValueError(f"data.root={pairs.root}: {counted(len(faults), 'mask')} of {len(tried):,} cannot be used; first: "
                         f"{faults[0]}")
    if labels.names is None:
        if not 2 <= seen <= MOST:
            raise ValueError(f"data.root={pairs.root}: the masks of train have {counted(seen, 'class', 'classes')} beside "
                             f"ignored pixels (data.ignore); if 255 is a class, as in masks of 0 and 255, name it in "
                             "data.classes=FILE.csv with the columns name, value")
        names = tuple(f"class {k}" for k in range(seen))
        ignore = next((value for value, label in (labels.values or {}).items() if label == IGNORED), None)
        labels = LabelMap.by_index(names, ignore)
    if len(of_train) < len(masks["train"]):
        return labels, None
    shown = torch.zeros(len(of_train), len(labels.names or ()), dtype=torch.int8)
    for row, some in enumerate(of_train):
        shown[row, some.tolist()] = 1
    return labels, shown


def _labels_or_fault(images: Streamed, masks: MaskFiles, index: int) -> np.ndarray | str:
    """The different labels of a mask, or why it cannot be used."""
    try:
        mask = masks[index]
        assert isinstance(images, Files), images
        with images.open(index) as file:
            size = upright_size(file)
    except (ValueError, OSError) as error:
        return str(error) if isinstance(error, ValueError) and not isinstance(error, Unreadable) else (
            f"{images.where(index)}: {reason(error)}")
    if mask.shape != size:
        return (f"{masks.where(index)} has {mask.shape[1]} by {mask.shape[0]} pixels, and its image {size[1]} by {size[0]}; "
                "save it at its image's size")
    return np.unique(mask).astype(np.int64)
