"""A folder of images → a data set: which files are images, what labels them, which splits they make."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from vision import raster, raster_set
from vision.access import LOCAL, Access
from vision.decode import SUFFIXES, reason
from vision.duplicates import look_up
from vision.groups import sizes_note
from vision.label_files import is_given, names_labels
from vision.labelled import use_labels_and_groups
from vision.listing import class_name, entries, kind_of, listed, printable, suffix, walk
from vision.mirror import mirror
from vision.preprocess import Preprocessing
from vision.reading import Reading
from vision.splits import Collection, Dataset, assemble
from vision.store import StoreSettings, is_remote
from vision.streamed import Files, Progress, first_skipped

LABELS_OF_FOLDERS = ("auto", "folders", "none")
SPLITS = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}


class Scan(NamedTuple):
    """The images below a folder."""

    files: Files  # names relative to root
    classes: tuple[str, ...] | None
    ignored: Counter  # how many other files of which suffix, as `Dataset.ignored`
    skipped: dict[str, str]  # folders that cannot be read, and labels that are not used → reason


def scan(
    root: str | Path, within: str = "", labels: str = "auto", classes: tuple[str, ...] | None = None,
    suffixes: frozenset[bytes] = SUFFIXES,
) -> Scan:
    """The images below root/within, in an order that no file system decides; hidden and other files are passed over.

    Labelled by first-level sub-folder where at least two have images and none lies beside them (`labels` "auto"; with
    "folders" anything else is an error; "none" never). Given `classes` (those of train), folders must be among them,
    and a split with none of them, as many a test/, is unlabelled. Folders whose names are equal in Unicode's NFC are one
    class.
    """
    ignored, skipped = Counter(), {}
    buffer, offsets, groups, group_of = bytearray(), array("q", [0]), {}, array("q")
    name_of: dict[bytes, str] = {}
    for path, group in walk(os.fsencode(root), os.fsencode(within), ignored, skipped, suffixes):
        buffer += path
        offsets.append(len(buffer))
        if group not in name_of:
            name_of[group] = class_name(group)
        group_of.append(groups.setdefault(name_of[group], len(groups)))
    files = Files(root, np.frombuffer(buffer, np.uint8), np.frombuffer(offsets, np.int64))
    if classes is None and labels == "auto" and (stray := _stray(groups, group_of)):
        skipped[f"{printable(os.fsencode(Path(root, within)))}, labels"] = stray
    classes = _classes(tuple(groups), root, within, labels, classes)
    if classes is not None:
        number = {name: k for k, name in enumerate(classes)}
        class_of = torch.tensor([number[name] for name in groups])
        files.labels = class_of[torch.from_numpy(np.frombuffer(group_of, np.int64))]
    return Scan(files, classes, ignored, skipped)


def _classes(
    names: tuple[str, ...], root: str | Path, within: str, labels: str, of_train: tuple[str, ...] | None
) -> tuple[str, ...] | None:
    """The classes of a split, None where it is unlabelled.  names: of its sub-folders, "" for images directly in it."""
    if labels == "none":
        return None
    if of_train is None:
        if len(names) > 1 and "" not in names:
            return names
        if labels == "folders":
            raise ValueError(f"data.labels=folders needs two sub-folders with images, and no image beside them, in "
                             f"{Path(root, within)}; data.labels=none takes it unlabelled")
        return None
    if not set(names) & set(of_train):
        return None
    if strange := sorted(set(names) - set(of_train)):
        raise ValueError(f"data.root={root}: {within} has images in {strange[0] or 'no class folder'!r}, which is no "
                         f"class of train; move them, or set data.labels=none")
    return of_train


def _stray(groups: dict[str, int], group_of: array) -> str:
    """Why class folders give no labels: a few images that lie beside them. "" where that is not so."""
    if "" not in groups or len(groups) < 3:
        return ""
    beside = group_of.count(groups[""])
    if beside > len(group_of) / 2:
        return ""
    return (f"not used: {beside} {'image lies' if beside == 1 else 'images lie'} beside {len(groups) - 1} folders of images; "
            f"move {'it' if beside == 1 else 'them'} and the folders are classes")


def _official_splits(root: Path) -> dict[str, str]:
    """Role → sub-folder: official splits where train/ exists, else {"train": ""}, the whole folder.

    A folder train that has no folders, beside others that are no splits (bus/, car/, train/), is a class.
    """
    folders = {name.lower(): name for name in _folders(root)}
    splits = {role: folders[name] for role, names in SPLITS.items() for name in names if name in folders}
    if "train" not in splits:
        return {"train": ""}
    only_train_and_others = len(splits) == 1 and len(folders) > 1
    return {"train": ""} if only_train_and_others and not _folders(root / splits["train"]) else splits


def _folders(folder: Path) -> list[str]:
    return [os.fsdecode(name) for name, kind in entries(os.fsencode(folder)) if kind == "folder"]


def _outside(root: Path, splits: list[str]) -> Counter:
    """What lies in root beside the folders of its official splits, as `Dataset.ignored` has it."""
    ignored = Counter()
    for name, kind in entries(os.fsencode(root), ignored):
        if kind == "folder":
            ignored[f"{printable(name)}/"] += os.fsdecode(name) not in splits
        elif kind == "file" and suffix(name) in SUFFIXES:
            ignored[f"{printable(suffix(name))} beside {printable(os.fsencode(splits[0]))}/"] += 1
        else:
            ignored[kind_of(name)] += 1
    return +ignored


def load_folder(
    root: str | Path | None, labels: str = "auto", max_corrupt: float = 0.2, validation: float = 0.1, seed: int = 0,
    progress: Progress | None = None, reading: Reading | None = None,
) -> Dataset:
    """A folder of images as a data set: train/, val/, test/ as they are, and what is missing held out of train.

    Labelled train/ and val/ without test/: val/ is the test split, as ImageNet's published figures have it, and
    validation is held out of train. A labelled folder with neither gives 20 % (at most 10,000) for test, the same
    whatever the seed; an unlabelled one has an empty test split, for there is nothing to score. An official split
    without class folders beside a labelled train cannot be scored either: it is left out, and `skipped` gives the reason.
    Files that are no images, and what lies beside official splits, are counted in `ignored`. Labels may be in a file (CSV,
    COCO) or in XML beside the images (vision/label_files.py). Notes tell what these found, and files that are in two splits.

    reading: `group` keeps images of one group in one split (vision/groups.py). `pixels` says how images are read that are no
    8-bit gray or RGB ones (vision/raster_set.py); where it asks for nothing, files of such kinds alone are taken so, by their
    own numbers. Raises ValueError, one line, with the fix.
    """
    reading = reading or Reading()
    root, access = _located(root, labels, reading.store)
    request = reading.pixels
    declared = isinstance(request, Preprocessing) or request.declared
    collection = _collect(root, labels, raster.SUFFIXES if declared else SUFFIXES, access)
    if not declared and not len(collection.splits["train"]):
        declared = len((others := _collect(root, labels, raster.SUFFIXES, access)).splits["train"]) > 0
        collection = others if declared else collection
    if not len(collection.splits["train"]):
        raise ValueError(f"data.root={root} {_contents(collection.ignored, collection.skipped)}; image files end in "
                         f"{' '.join(sorted(map(bytes.decode, raster.SUFFIXES)))}")
    if reading.group or is_given(labels):
        use_labels_and_groups(collection, labels, reading.group, reading.multilabel)
    if declared or raster_set.unreadable_otherwise(collection.splits["train"], max_corrupt):
        dataset = raster_set.assemble_rasters(collection, request, max_corrupt, validation, seed, progress)
    else:
        dataset = raster_set.with_notes(assemble(collection, max_corrupt, validation, seed, progress))
    return _with_notes(dataset, reading.group)


def _with_notes(dataset: Dataset, group: str | None) -> Dataset:
    """Further notes: the splits' sizes by group, and files that are in two splits."""
    splits = {"train": dataset.pretrain, "validation": dataset.validation, "test": dataset.test}
    if group:
        shown = splits | {"train": dataset.train}
        dataset.notes.append(sizes_note(group, {role: split.groups for role, split in shown.items()},
                                        {role: split.labels for role, split in shown.items()}))
    if note := look_up(splits).note:
        dataset.notes.append(note)
    return dataset


def _collect(root: Path, labels: str, suffixes: frozenset[bytes], access: Access) -> Collection:
    """The files that end so, by split, before any is read."""
    collection = Collection("folder", str(root), notes=[*access.notes])
    folders = _official_splits(root)
    of_folders = "none" if is_given(labels) else labels
    if any(folders.values()):
        collection.ignored += _outside(root, list(folders.values()))
    for role, folder in folders.items():
        split, classes, ignored, skipped = scan(root, folder, of_folders, collection.classes, suffixes)
        split.access = access
        if role == "train":
            collection.classes, of_folders = classes, "auto" if classes else "none"  # classes come from train alone
        collection.ignored += ignored
        collection.skipped |= skipped
        if collection.classes and classes is None and len(split):
            place = printable(os.fsencode(root / folder))
            collection.skipped[place] = f"{len(split)} images without class folders, so not used for {role}"
        elif len(split) or role == "train":
            collection.splits[role] = split
    return collection


def _located(root: str | Path | None, labels: str, store: StoreSettings) -> tuple[Path, Access]:
    """The folder, and how its files are opened. Of an object store: a folder of links, and the files of labels themselves."""
    if not is_remote(root):
        return _existing(root), LOCAL
    found = mirror(str(root), store, wanted=lambda name: names_labels(labels, name))
    return found.root, found


def _existing(root: str | Path | None) -> Path:
    if not root:
        raise ValueError("data=folder needs data.root, the folder that holds the images")
    root = Path(root).expanduser()
    if not root.exists():
        raise ValueError(f"data.root={root} does not exist")
    if not root.is_dir():
        raise ValueError(f"data.root={root} is a file; give the folder that holds the images")
    try:
        os.scandir(root).close()
    except OSError as error:
        raise ValueError(f"data.root={root} cannot be listed: {reason(error)}") from None
    return root


def _contents(ignored: Counter, skipped: dict[str, str]) -> str:
    if not ignored:
        return f"has no image that can be reached: {first_skipped(skipped)}" if skipped else "is empty"
    return f"has {ignored.total()} files, none an image ({listed(ignored)})"


def files_to_train_on(
    root: str | Path | None, labels: str = "auto", store: StoreSettings | None = None
) -> tuple[Files, int]:
    """The files that look like training images, before any is read, and the number of their classes: 0 without labels.

    Where validation and test images have no folders of their own, they are among them.  Raises ValueError as `load_folder`.
    """
    root, access = _located(root, labels, store or StoreSettings())
    for suffixes in (SUFFIXES, raster.SUFFIXES):
        collection = _collect(root, labels, suffixes, access)
        if len(files := collection.splits["train"]):
            break
    return files, len(collection.classes or ())


def files_by_split(root: str | Path | None, labels: str = "auto") -> Collection:
    """The files that look like 8-bit images, by official splits, before any is read.  Raises ValueError, StoreError."""
    folder, access = _located(root, labels, StoreSettings())
    collection = _collect(folder, labels, SUFFIXES, access)
    if not len(collection.splits["train"]):
        raise ValueError(f"data.root={root} {_contents(collection.ignored, collection.skipped)}")
    return collection
