"""A folder of images → a data set: which files are images, what labels them, which splits they make."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from vision.decode import SUFFIXES, reason
from vision.streamed import Files, Progress, first_skipped, printable

if TYPE_CHECKING:
    from vision.datasets import Dataset

SPLITS = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}


def scan(
    root: str | Path, within: str = "", labels: str = "auto", classes: tuple[str, ...] | None = None
) -> tuple[Files, tuple[str, ...] | None, Counter, dict[str, str]]:
    """The images below root/within, in an order that no file system decides; hidden and other files are passed over.

    → files (names relative to root), classes or None, how many other files of which suffix, closed folders → reason.
    Labelled by first-level sub-folder where at least two have images and none lies beside them (`labels` "auto"; with
    "folders" anything else is an error; "none" never). Given `classes` (those of train), folders must be among them,
    and a split with none of them, as many a test/, is unlabelled.
    """
    others, closed = Counter(), {}
    buffer, offsets, groups, group_of = bytearray(), array("q", [0]), {}, array("q")
    for path, group in _walk(os.fsencode(root), os.fsencode(within), others, closed):
        buffer += path
        offsets.append(len(buffer))
        group_of.append(groups.setdefault(group, len(groups)))
    files = Files(root, np.frombuffer(buffer, np.uint8), np.frombuffer(offsets, np.int64))

    names = tuple(printable(group) for group in groups)  # "" for images directly in the folder
    if labels == "none":
        classes = None
    elif classes is None:
        classes = names if len(names) > 1 and "" not in names else None
        if classes is None and labels == "folders":
            raise ValueError(f"data.labels=folders needs two sub-folders with images, and no image beside them, in "
                             f"{Path(root, within)}; data.labels=none takes it unlabelled")
    elif not set(names) & set(classes):
        classes = None
    elif strange := sorted(set(names) - set(classes)):
        raise ValueError(f"data.root={root}: {within} has images in {strange[0] or 'no class folder'!r}, which is no "
                         f"class of train; move them, or set data.labels=none")
    if classes is not None:
        number = {name: k for k, name in enumerate(classes)}
        class_of = torch.tensor([number[name] for name in names])
        files.labels = class_of[torch.from_numpy(np.frombuffer(group_of, np.int64))]
    return files, classes, others, closed


def _walk(root: bytes, within: bytes, others: Counter, closed: dict[str, str]) -> Iterator[tuple[bytes, bytes]]:
    """(path relative to root, first-level folder below `within` or b"") of every image, each real folder once."""
    seen: set[tuple[int, int]] = set()  # a symlink to a folder already read, or to an ancestor, adds nothing
    stack = [(within, b"")]
    while stack:
        folder, group = stack.pop()
        try:
            status = os.stat(os.path.join(root, folder))
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            found = _listing(os.path.join(root, folder))
        except OSError as error:
            closed[printable(os.path.join(root, folder))] = reason(error)
            continue
        folders = []
        for name, kind in found:
            if kind == "folder":
                folders.append((os.path.join(folder, name), group or name))
            elif kind == "file" and _suffix(name) in SUFFIXES:
                yield os.path.join(folder, name), group
            else:
                others[printable(_suffix(name)) or "no suffix"] += 1
        stack.extend(reversed(folders))


def _listing(folder: bytes) -> list[tuple[bytes, str]]:
    """(name, "folder", "file" or "other") of what is not hidden, in the order of the names' bytes."""

    def kind(entry: os.DirEntry) -> str:
        try:
            if entry.is_dir():
                return "folder"
            # A symlink to nothing counts as a file, so as to be listed as unreadable; a pipe would block its reader.
            return "file" if entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)) else "other"
        except OSError:  # a symlink to itself
            return "file"

    with os.scandir(folder) as entries:
        return sorted((entry.name, kind(entry)) for entry in entries if not entry.name.startswith(b"."))


def _suffix(name: bytes) -> bytes:
    return os.path.splitext(name)[1].lower()


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
    return [os.fsdecode(name) for name, kind in _listing(os.fsencode(folder)) if kind == "folder"]


def load_folder(
    root: str | Path | None, labels: str = "auto", max_corrupt: float = 0.2, validation: float = 0.1, seed: int = 0,
    progress: Progress | None = None, image_size: int = 224,
) -> Dataset:
    """A folder of images as a data set: train/, val/, test/ as they are, and what is missing carved out of train.

    Labelled train/ and val/ without test/: val/ is the test split, as ImageNet's published figures have it, and
    validation is carved out of train. A labelled folder with neither gives 20 % (at most 10,000) for test, the same
    whatever the seed; an unlabelled one has an empty test split, for there is nothing to score. An official split
    without class folders beside a labelled train cannot be scored either: it is left out, which `skipped` says. Raises
    ValueError, one line, with the fix.
    """
    from vision.datasets import assemble

    root = _existing(root)
    files, others, skipped, classes = {}, Counter(), {}, None
    for role, folder in _official_splits(root).items():
        split, found, other, closed = scan(root, folder, labels, classes)
        if role == "train":
            classes, labels = found, "auto" if found else "none"  # classes come from train alone
        others += other
        skipped |= closed
        if classes and found is None and len(split):
            skipped[str(root / folder)] = f"{len(split)} images without class folders, so not used for {role}"
        elif len(split) or role == "train":
            files[role] = split
    if not len(files["train"]):
        raise ValueError(f"data.root={root} {_contents(others, skipped)}; image files end in "
                         f"{' '.join(sorted(map(bytes.decode, SUFFIXES)))}")

    return assemble("folder", str(root), files, classes, skipped, max_corrupt, validation, seed, progress, image_size)


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


def _contents(others: Counter, skipped: dict[str, str]) -> str:
    if not others:
        return f"has no image that can be reached: {first_skipped(skipped)}" if skipped else "is empty"
    listed = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(4))
    return f"has {others.total()} files, none an image ({listed}{', …' if len(others) > 4 else ''})"
