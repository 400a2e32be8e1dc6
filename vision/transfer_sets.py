"""Data sets of the transfer suites, as torchvision lays them out: data=torchvision, data.set=dtd. Nothing is downloaded here.

Official splits as they are; official train and validation images together, of which validation is held out by our rule. A set
without an official test split gets the rule that its entry states.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor

from core import counter_rng
from vision.decode import reason
from vision.multilabel import multi_hot
from vision.splits import Collection, Dataset, assemble
from vision.streamed import Files, Progress

PER_CLASS = 30  # training images of each class of Caltech-101, as Kornblith et al. have it (arXiv 1805.08974)
FOR_CALTECH = 2  # in place of the counter's epoch, after those of vision/splits.py


@dataclass(frozen=True)
class Listing:
    """Image files with a class each, or with several.  labels: N int64, or N,K int8"""

    paths: list[str]
    labels: Tensor


@dataclass(frozen=True)
class TransferSet:
    """read: root → classes, and listings of "train" and, unless it is held out by our rule, "test".

    folder: below the root, where its files lie.
    """

    folder: str
    read: Callable[[str], tuple[tuple[str, ...], dict[str, Listing]]]


def _of(kind: str, train: tuple[dict[str, Any], ...], test: dict[str, Any] | None) -> Callable:
    """Read torchvision's class of that name.  train, test: arguments for it; several of train are one after the other"""

    def read(root: str) -> tuple[tuple[str, ...], dict[str, Listing]]:
        from torchvision import datasets

        parts = [getattr(datasets, kind)(root, **arguments) for arguments in train]
        listings = [_listing(part) for part in parts]
        paths = [path for one in listings for path in one.paths]
        found = {"train": Listing(paths, torch.cat([one.labels for one in listings]))}
        if test is not None:
            found["test"] = _listing(getattr(datasets, kind)(root, **test))
        classes = getattr(parts[0], "classes", None) or [str(n) for n in range(int(found["train"].labels.max()) + 1)]
        return tuple(map(str, classes)), found

    return read


def _listing(dataset: Any) -> Listing:
    """torchvision has no public list of files and labels: the one place that knows its private names."""
    held = vars(dataset)
    if pairs := held.get("_samples") or held.get("samples"):
        paths, labels = zip(*pairs, strict=True)
    else:
        paths, labels = held.get("_image_files") or held["_images"], held["_labels"]
    return Listing([os.fspath(path) for path in paths], torch.tensor(labels, dtype=torch.int64))


def _caltech(root: str) -> tuple[tuple[str, ...], dict[str, Listing]]:
    """Without the background class, as torchvision has it: PER_CLASS random images of each of 101 to train on, the others to
    test. A class's images are in order of name."""
    folder = Path(root, "caltech101", "101_ObjectCategories")
    classes = sorted(one.name for one in folder.iterdir() if one.is_dir() and one.name != "BACKGROUND_Google")
    paths = [sorted(map(str, (folder / name).iterdir())) for name in classes]
    labels = torch.tensor([k for k, some in enumerate(paths) for _ in some])
    every = np.array([path for some in paths for path in some])
    key = counter_rng.keys(0, FOR_CALTECH, torch.arange(len(every)), counter_rng.SPLIT)
    chosen = torch.zeros(len(every), dtype=torch.bool)
    for k in range(len(classes)):
        mine = (labels == k).nonzero().flatten()
        chosen[mine[key[mine].argsort(stable=True)[:PER_CLASS]]] = True
    split = {"train": chosen, "test": ~chosen}
    return tuple(classes), {role: Listing(every[rows.numpy()].tolist(), labels[rows]) for role, rows in split.items()}


def _sun397(root: str) -> tuple[tuple[str, ...], dict[str, Listing]]:
    """The first official partition: Training_01.txt and Testing_01.txt, which torchvision's copy lacks, beside the images."""
    folder = Path(root, "SUN397")
    classes = [line[3:].strip() for line in (folder / "ClassName.txt").read_text().splitlines()]
    found = {}
    for role, name in (("train", "Training_01.txt"), ("test", "Testing_01.txt")):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{name}, of the official partitions, is not there")
        lines = [line.strip() for line in (folder / name).read_text().splitlines() if line.strip()]  # /a/abbey/sun_….jpg
        labels = [classes.index("/".join(line.split("/")[2:-1])) for line in lines]
        found[role] = Listing([f"{folder}{line}" for line in lines], torch.tensor(labels))
    return tuple(classes), found


def _voc2007(root: str) -> tuple[tuple[str, ...], dict[str, Listing]]:
    """The classes of each image's objects that are not marked as difficult; several an image."""
    from torchvision.datasets import VOCDetection

    names: dict[str, list[tuple[str, ...]]] = {}
    paths = {}
    for role, image_set in (("train", "trainval"), ("test", "test")):
        part = VOCDetection(root, year="2007", image_set=image_set)
        paths[role], names[role] = list(part.images), [_objects(path) for path in part.targets]
    classes = tuple(sorted({name for some in names["train"] for name in some}))
    return classes, {role: Listing(paths[role], multi_hot(names[role], classes)) for role in names}


def _objects(path: str) -> tuple[str, ...]:
    found = ElementTree.parse(path).getroot().findall("object")
    return tuple(sorted({one.findtext("name", "") for one in found if one.findtext("difficult", "0").strip() != "1"}))


SETS = {
    "aircraft": TransferSet("fgvc-aircraft-2013b", _of("FGVCAircraft", ({"split": "trainval"},), {"split": "test"})),
    "caltech101": TransferSet("caltech101", _caltech),
    "cars": TransferSet("stanford_cars", _of("StanfordCars", ({"split": "train"},), {"split": "test"})),
    "clevr_count": TransferSet("clevr", _of("CLEVRClassification", ({"split": "train"},), {"split": "val"})),
    "dtd": TransferSet("dtd", _of("DTD", ({"split": "train"}, {"split": "val"}), {"split": "test"})),
    "eurosat": TransferSet("eurosat", _of("EuroSAT", ({},), None)),
    "flowers102": TransferSet("flowers-102", _of("Flowers102", ({"split": "train"}, {"split": "val"}), {"split": "test"})),
    "food101": TransferSet("food-101", _of("Food101", ({"split": "train"},), {"split": "test"})),
    "pets": TransferSet("oxford-iiit-pet", _of("OxfordIIITPet", ({"split": "trainval"},), {"split": "test"})),
    "sun397": TransferSet("SUN397", _sun397),
    "voc2007": TransferSet("VOCdevkit/VOC2007", _voc2007),
}


def load_transfer_set(
    name: str | None, root: str | None, max_corrupt: float = 0.2, validation: float = 0.1, seed: int = 0,
    progress: Progress | None = None,
) -> Dataset:
    """One of SETS.  Raises ValueError, one line, with the fix."""
    if name not in SETS:
        raise ValueError(f"data.set={name}: there are {', '.join(SETS)}")
    root, kind = os.fspath(Path(root or "data").expanduser()), SETS[name]
    fix = f"put torchvision's copy of it there ({kind.folder}/), or set data.root to the folder that holds {kind.folder}"
    if not Path(root, kind.folder).is_dir():
        raise ValueError(f"data.set={name}: {Path(root, kind.folder)} is not there; {fix}")
    try:
        classes, listings = kind.read(root)
    except Exception as error:  # what torchvision raises of a copy that is not whole: RuntimeError, OSError, KeyError, …
        raise ValueError(f"data.set={name}: {Path(root, kind.folder)} cannot be used ({reason(error)}); {fix}") from None
    collection = Collection(name, root, {role: _files(root, one) for role, one in listings.items()}, classes)
    return assemble(collection, max_corrupt, validation, seed, progress)


def _files(root: str, listing: Listing) -> Files:
    relative = [os.fsencode(os.path.relpath(path, root)) for path in listing.paths]
    offsets = np.concatenate([[0], np.cumsum([len(path) for path in relative])]).astype(np.int64)
    return Files(root, np.frombuffer(b"".join(relative), np.uint8), offsets, listing.labels)
