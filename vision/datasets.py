"""Names → data sets: images, labels and splits, none of which is ever part of another.

`load("digits")` and the other small sets lie in memory (vision/small_sets.py); `folder`, `shards` and `hf` are decoded on
demand (vision/folder.py, vision/shards.py, vision/hub.py).
"""

from __future__ import annotations

import difflib

import torch
from torch import Tensor

from vision.folder import LABELS_OF_FOLDERS as LABELS
from vision.folder import load_folder
from vision.hub import load_hub
from vision.label_files import VOC, is_given
from vision.multilabel import choice
from vision.pixel_format import SETTINGS, PixelRequest
from vision.reading import Reading
from vision.shards import load_shards
from vision.small_sets import READERS
from vision.splits import STATISTICS, Dataset, Images, complete_splits
from vision.store import is_remote
from vision.streamed import Progress
from vision.transfer_sets import load_transfer_set

NAMES = (*READERS, "folder", "shards", "hf", "torchvision")


def load(
    name: str, root: str | None = None, *, download: bool = True, labels: str = "auto", max_corrupt: float = 0.2,
    validation: float = 0.1, seed: int = 0, progress: Progress | None = None, reading: Reading | None = None,
) -> Dataset:
    """The data set called `name` (one of NAMES, or hf:<name> for hf with that root).

    root: the folder, for folder and shards, or its URL in an object store (vision/store.py); a Hub name, local folder or
    .parquet, for hf; where torchvision's sets lie or go (default data/). validation: the share of train held out for it where
    there is no official split, at most 5,000 images, stratified, a function of `seed`; a test split held out of train is the
    same for every seed. labels: "none" drops them; folder takes a file too (vision/label_files.py). progress: called as
    progress(done, total) while files are checked.
    reading: of folder, its groups and images that are no 8-bit gray or RGB ones; of torchvision, its set. Raises
    ValueError, one line, with the fix.
    """
    name, root = ("hf", name[3:]) if name.startswith("hf:") else (name, root)
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, 1, cutoff=0.4)
        raise ValueError(f"data={name} is not known{f'; did you mean {near[0]}?' if near else ''}; there are "
                         f"{', '.join(NAMES)}")
    if labels not in LABELS and not (name == "folder" and is_given(labels)):
        files = f", {VOC} (an XML file an image), or a file that ends in .csv, .tsv or .json" if name == "folder" else ""
        raise ValueError(f"data.labels={labels} is not one of {', '.join(LABELS)}{files}")
    if not 0 <= validation < 1:
        raise ValueError(f"data.validation={validation:g} must be at least 0 and below 1, a share of train")
    if not 0 <= max_corrupt <= 1:
        raise ValueError(f"data.max_corrupt={max_corrupt:g} must lie between 0 and 1, a share of all files")
    reading = reading or Reading()
    if choice(reading.multilabel) == "true" and not is_given(labels):
        raise ValueError(f"data.multilabel=true: data.labels={labels} gives one label an image; name a file, as "
                         "data.labels=labels.csv, or leave it out")
    if reading.group and name != "folder":
        raise ValueError(f"data.group={reading.group} is of data=folder alone; data={name} has no groups")
    if name != "folder" and isinstance(reading.pixels, PixelRequest) and reading.pixels.declared:
        raise ValueError(f"data.{', data.'.join(SETTINGS)}: of data=folder alone; data={name} has 8-bit gray or RGB images")
    if is_remote(root) and name not in ("folder", "shards"):
        raise ValueError(f"data.root={root}: object stores are read by data=folder and data=shards alone; copy it to a disk")
    if name == "folder":
        return load_folder(root, labels, max_corrupt, validation, seed, progress, reading)
    if name == "shards":
        return load_shards(root, labels, max_corrupt, validation, seed, progress, reading)
    if name == "hf":
        return load_hub(root, download, labels, max_corrupt, validation, seed, progress)
    if name == "torchvision":
        return load_transfer_set(reading.set, root, max_corrupt, validation, seed, progress)

    published = READERS[name](name, root, download)
    train, held_out, test = complete_splits(published.train, None, published.test, validation, seed)
    pretrain = train
    if published.unlabelled is not None:
        pretrain = Images(torch.cat((train.images, published.unlabelled)), None, f"{name}/pretrain")
    for split, role in ((train, "train"), (held_out, "validation"), (test, "test")):
        split.source = f"{name}/{role}"
        split.labels = None if labels == "none" else split.labels
    mean, std = STATISTICS.get(name) or pixel_statistics(train.images)
    _, channels, side, _ = train.images.shape
    classes = None if labels == "none" else published.classes
    return Dataset(name, pretrain, train, held_out, test, classes, channels, side, mean, std)


def pixel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in 0..1.  images: N,C,H,W uint8"""
    pixels = images.double() / 255
    return tuple(pixels.mean((0, 2, 3)).tolist()), tuple(pixels.std((0, 2, 3), correction=0).tolist())
