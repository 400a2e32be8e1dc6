"""A thousand training images of a data set by a rule that needs nothing but their number, as VTAB-1k's subsets (1910.04867).

Position i of the official training images has a random key, a function of (0, i); the first keys are the training images, the
next ones the validation images. linear_eval/suite_files/vtab1k/ holds the positions that follow for sets of the official sizes.
"""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from torch import Tensor

from core import counter_rng
from vision.splits import Dataset
from vision.streamed import Streamed

FOR_SUBSET = 3  # in place of the counter's epoch


def parse_subset(text: str) -> tuple[int, int]:
    """"800+200" → (800, 200).  Raises ValueError"""
    found = re.fullmatch(r"(\d+)\+(\d+)", text)
    if not found or not min(int(found[1]), int(found[2])):
        raise ValueError(f"subset={text}: must be training images + validation images, such as 800+200")
    return int(found[1]), int(found[2])


def ordered(rows: Tensor) -> Tensor:
    """Official training images by their keys.  rows: N int64, their positions among all of them → N, indices of `rows`"""
    return counter_rng.keys(0, FOR_SUBSET, rows, counter_rng.SPLIT).argsort(stable=True)


def subset(dataset: Dataset, text: str) -> Dataset:
    """The data set with so many training and validation images; its test images stay. None may be held out before.

    An unreadable file is passed over: the next key takes its place. Raises ValueError where there are too few images, or some
    are held out.
    """
    train, validation = parse_subset(text)
    whole = dataset.train
    if len(dataset.validation):
        raise ValueError(f"subset={text}: chooses among all training images; add +data.validation=0, so that none is held out")
    if train + validation > len(whole):
        raise ValueError(f"subset={text}: {dataset.name} has {len(whole):,} training images; give fewer")
    chosen = ordered(whole.rows if isinstance(whole, Streamed) else torch.arange(len(whole)))
    parts = [whole.select(part.sort().values) for part in (chosen[:train], chosen[train : train + validation])]
    return replace(dataset, pretrain=parts[0], train=parts[0], validation=parts[1])


def listing(count: int, text: str) -> str:
    """The positions as a file holds them: those of the training images in a line, those of validation images in the next."""
    train, validation = parse_subset(text)
    chosen = ordered(torch.arange(count))
    parts = chosen[:train], chosen[train : train + validation]
    return "".join(" ".join(map(str, part.sort().values.tolist())) + "\n" for part in parts)
