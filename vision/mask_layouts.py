"""Folders of images and masks → pairs by split: by name, or as published sets lay them out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vision.decode import SUFFIXES, reason
from vision.listing import counted, one_line, walk
from vision.mask_files import IGNORED, LOSSY, MASK_SUFFIXES, LabelMap, MaskFiles, read_classes
from vision.streamed import Files

IMAGES, MASKS = ("images",), ("masks", "labels", "annotations")
ROLES = {"train": ("train", "training"), "validation": ("val", "validation", "valid"), "test": ("test", "testing")}
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)


@dataclass(frozen=True)
class FolderOptions:
    """The settings data.* of data=segmentation_folder."""

    root: str | None = None
    layout: str = "folders"
    classes: str | None = None  # a table (vision/mask_files.py), relative to root
    ignore: int | None = 255  # the value of index masks that is no class
    max_corrupt: float = 0.2
    validation: float = 0.1

    def __post_init__(self):
        if self.layout not in LAYOUTS:
            raise ValueError(f"data.layout={self.layout}: must be one of {', '.join(LAYOUTS)}")
        if self.classes and self.layout not in ("folders", "ade20k"):
            raise ValueError(f"data.classes={self.classes}: data.layout={self.layout} has classes of its own; leave it out")
        if self.ignore is not None and not (isinstance(self.ignore, int) and 0 <= self.ignore <= 255):
            raise ValueError(f"data.ignore={self.ignore}: must be a value from 0 to 255, or null")
        for name, low, high in (("max_corrupt", 0, 1), ("validation", 0, 0.9)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"data.{name}={getattr(self, name):g}: must be a share from {low} to {high}")


@dataclass
class Pairs:
    """Images and masks of each split, in the same order, and what their pixels mean."""

    root: Path
    labels: LabelMap
    splits: dict[str, tuple[Files, MaskFiles]] = field(default_factory=dict)  # "train", maybe "validation" and "test"
    skipped: dict[str, str] = field(default_factory=dict)  # as `Dataset` has it
    ignored: Counter = field(default_factory=Counter)

    def add(self, role: str, images: list[str], masks: list[str]) -> None:
        """Paths relative to root."""
        of_masks = files_of(MaskFiles, self.root, masks)
        of_masks.labels_of = self.labels
        self.splits[role] = files_of(Files, self.root, images), of_masks


def files_of(kind: type[Any], root: Path, paths: list[str]) -> Any:
    """`Files`, or a kind of them, of these paths relative to root, in this order."""
    encoded = [os.fsencode(path) for path in paths]
    offsets = np.cumsum([0, *map(len, encoded)]).astype(np.int64)
    return kind(root, np.frombuffer(b"".join(encoded), np.uint8), offsets)


def find_pairs(options: FolderOptions) -> Pairs:
    """Raises ValueError, one line, with the fix: where a mask or an image lacks its other half, by name."""
    if not options.root:
        raise ValueError("data=segmentation_folder needs data.root, the folder that holds images/ and masks/")
    root = Path(options.root).expanduser()
    if not root.is_dir():
        raise ValueError(f"data.root={root} is no folder; give the one that holds images/ and masks/")
    pairs = LAYOUTS[options.layout](root, options)
    if not len(pairs.splits.get("train", ((), ()))[0]):
        raise ValueError(f"data.root={root}: there is no image with a mask to train on")
    return pairs


def _folders(root: Path, options: FolderOptions) -> Pairs:
    """images/ and masks/, each with train/, val/, test/ or without; or train/images/, train/masks/ and so on."""
    labels = LabelMap.by_index(None, options.ignore)
    if options.classes:
        labels = read_classes(root / Path(options.classes).expanduser(), options.ignore)
    return _by_name(root, labels)


def _ade20k(root: Path, options: FolderOptions) -> Pairs:
    """ADE20k's scene parsing: images/ and annotations/, each with training/ and validation/; 0 is ignored, k is class k − 1."""
    names = tuple(f"class {k}" for k in range(1, 151))
    if options.classes:
        table = read_classes(root / Path(options.classes).expanduser(), None)
        names = table.names or names
    return _by_name(root, LabelMap({0: IGNORED, 255: IGNORED} | {k + 1: k for k in range(len(names))}, None, names))


def _by_name(root: Path, labels: LabelMap) -> Pairs:
    pairs = Pairs(root, labels)
    below = {name.lower(): name for name in _folders_in(root)}
    images, masks = _one_of(IMAGES, below), _one_of(MASKS, below)
    if images and masks:
        roles = {role: (f"{images}/{one}", f"{masks}/{other}") for role, (one, other) in
                 _roles(_folders_in(root / images), _folders_in(root / masks)).items()}
        places = roles if "train" in roles else {"train": (images, masks)}
    else:
        places = {}
        for role, (folder, _) in _roles(list(below.values()), list(below.values())).items():
            inner = {name.lower(): name for name in _folders_in(root / folder)}
            if (one := _one_of(IMAGES, inner)) and (other := _one_of(MASKS, inner)):
                places[role] = f"{folder}/{one}", f"{folder}/{other}"
    if "train" not in places:
        raise ValueError(f"data.root={root} has no images/ and masks/, nor train/images/ and train/masks/")
    for role, (image_folder, mask_folder) in places.items():
        found = _listed(pairs, image_folder, SUFFIXES), _listed(pairs, mask_folder, MASK_SUFFIXES)
        if not found[1] and (lossy := _listed(pairs, mask_folder, frozenset(LOSSY))):
            raise ValueError(f"data.root={root}: {len(lossy):,} masks in {mask_folder} are JPEG files, which change values; "
                             "save them as PNG")
        _refuse_unpaired(root, *found, (image_folder, mask_folder))
        pairs.add(role, list(found[0].values()), [found[1][stem] for stem in found[0]])
    return pairs


def _listed(pairs: Pairs, folder: str, suffixes: frozenset[bytes]) -> dict[str, str]:
    """Path below the folder, without its suffix → path below the root.  Raises ValueError where two differ by suffix alone."""
    found: dict[str, str] = {}
    for path, _ in walk(os.fsencode(pairs.root), os.fsencode(folder), pairs.ignored, pairs.skipped, suffixes):
        name = os.fsdecode(path)
        stem = os.path.splitext(os.path.relpath(name, folder))[0]
        if stem in found:
            raise ValueError(f"data.root={pairs.root}: {one_line(found[stem])} and {one_line(name)} differ by suffix alone, so "
                             "that their other half is unknown; take one away")
        found[stem] = name
    return found


def _refuse_unpaired(root: Path, images: dict[str, str], masks: dict[str, str], folders: tuple[str, str]) -> None:
    for some, others, place, what in ((images, masks, folders[1], "mask"), (masks, images, folders[0], "image")):
        if lacking := [path for stem, path in some.items() if stem not in others]:
            kind = "image" if what == "mask" else "mask"
            raise ValueError(f"data.root={root}: {counted(len(lacking), kind)} without a file of that name in {place} (first: "
                             f"{one_line(lacking[0])}); add the {what}, or take the {kind} away")


def _roles(some: list[str], others: list[str]) -> dict[str, tuple[str, str]]:
    """Role → the folder of either list that is called so, where both have one."""
    found = {}
    for role, names in ROLES.items():
        pair = [next((one for one in folders if one.lower() in names), None) for folders in (some, others)]
        if pair[0] and pair[1]:
            found[role] = pair[0], pair[1]
    return found


def _one_of(names: tuple[str, ...], folders: dict[str, str]) -> str | None:
    return next((folders[name] for name in names if name in folders), None)


def _folders_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


# ----------------------------------------------------------------------------------------------- torchvision's published sets


def _voc2012(root: Path, options: FolderOptions) -> Pairs:
    from torchvision.datasets import VOCSegmentation

    labels = LabelMap.by_index(VOC_CLASSES, IGNORED)

    def open_split(name: str) -> tuple[list, list]:
        found = VOCSegmentation(str(root), year="2012", image_set=name)
        return found.images, found.targets

    return _torchvision(root, labels, "VOCdevkit/VOC2012/", open_split, {"train": "train", "validation": "val"})


def _pets(root: Path, options: FolderOptions) -> Pairs:
    """Oxford-IIIT Pet's trimaps: 1 the pet, 2 the background, 3 the border between both, which is ignored."""
    from torchvision.datasets import OxfordIIITPet

    labels = LabelMap({1: 1, 2: 0, 3: IGNORED}, None, ("background", "pet"))

    def open_split(name: str) -> tuple[list, list]:
        found = OxfordIIITPet(str(root), split=name, target_types="segmentation")
        return found._images, found._segs

    return _torchvision(root, labels, "oxford-iiit-pet/", open_split, {"train": "trainval", "test": "test"})


def _cityscapes(root: Path, options: FolderOptions) -> Pairs:
    """The 19 classes that Cityscapes evaluates; the others are ignored. Its test labels are not published: val is the test."""
    from torchvision.datasets import Cityscapes

    known = sorted((one for one in Cityscapes.classes if one.train_id not in (-1, 255)), key=lambda one: one.train_id)
    values = dict.fromkeys(range(256), IGNORED) | {one.id: one.train_id for one in known}
    labels = LabelMap(values, None, tuple(one.name for one in known), tuple(one.color for one in known))

    def open_split(name: str) -> tuple[list, list]:
        found = Cityscapes(str(root), split=name, mode="fine", target_type="semantic")
        both = sorted(zip(found.images, (targets[0] for targets in found.targets), strict=True))
        return [image for image, _ in both], [mask for _, mask in both]

    return _torchvision(root, labels, "leftImg8bit/ and gtFine/", open_split, {"train": "train", "validation": "val"})


def _torchvision(
    root: Path, labels: LabelMap, holds: str, open_split: Callable[[str], tuple[list, list]], names: dict[str, str]
) -> Pairs:
    """Pairs as torchvision's class lists them.  names: role → the split's name there"""
    pairs = Pairs(root, labels)
    for role, name in names.items():
        try:
            both = open_split(name)
        except Exception as error:  # RuntimeError, FileNotFoundError, ValueError of a list that is no list …
            raise ValueError(f"data.root={root}: torchvision finds no split {name} there ({reason(error)}); give the folder "
                             f"that holds {holds}") from None
        pairs.add(role, *([os.path.relpath(path, root) for path in paths] for paths in both))
    return pairs


LAYOUTS: dict[str, Callable[[Path, FolderOptions], Pairs]] = {
    "folders": _folders, "voc2012": _voc2012, "pets": _pets, "cityscapes": _cityscapes, "ade20k": _ade20k,
}
