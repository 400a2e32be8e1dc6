"""WebDataset shards → a data set: tar files whose members are images, and labels beside them (000123.jpg, 000123.cls).

Members are read where they lie, by offset, so that any image can be read alone: views, order and resuming are those of a
folder, whatever the number of processes. What lies where is read once and kept in the user's cache.

    uv run python -m vision.shards --from ~/photos --to shards           # writes shards of a folder (vision/write_shards.py)
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from vision import shard_labels
from vision.access import LOCAL, Access, Piece
from vision.decode import SUFFIXES, Unreadable
from vision.folder import SPLITS
from vision.listing import listed, printable, walk
from vision.mirror import mirror
from vision.order import Windows
from vision.reading import Reading
from vision.shard_index import DOTTED, PLAIN, UNKNOWN, ignored_members, indexed, label_texts
from vision.splits import Collection, Dataset, assemble
from vision.store import is_remote
from vision.streamed import Progress, Streamed

ROLES = {name: role for role, names in SPLITS.items() for name in names}
NAMED = 1_000  # images of a split whose .cls is no label that are named one by one


class Shards(Streamed):
    """Images inside tar files.  paths: of all shards.

    index: of each image `shard` (of paths), `offset` and `size` in bytes, and where its member's name `ends` in `names`
    (vision/shard_index.py). window: shards whose images are shuffled among each other (vision/order.py).
    """

    window: int | None = None

    def __init__(
        self, paths: list[bytes], index: dict[str, np.ndarray], labels: Tensor | None = None, access: Access = LOCAL
    ) -> None:
        super().__init__(torch.arange(len(index["shard"])), labels)
        self.paths, self.index, self.access = paths, index, access

    @property
    def windows(self) -> Windows | None:
        shard = torch.from_numpy(self.index["shard"][self.rows.numpy()].astype(np.int64))
        return None if self.window is None else Windows(shard, self.window)

    def where(self, index: int) -> str:
        row = int(self.rows[index])
        return f"{printable(self.access.shown(self.paths[self.index['shard'][row]]))}:{self._member(row)}"

    def name(self, index: int) -> str:
        row = int(self.rows[index])
        return f"{printable(os.path.basename(self.paths[self.index['shard'][row]]))}:{self._member(row)}"

    def _member(self, row: int) -> str:
        start = self.index["ends"][row - 1] if row else 0
        return printable(self.index["names"][start : self.index["ends"][row]].tobytes())

    def _identify(self, digest) -> None:
        """Every member's name, size and shard."""
        rows, ends, names = self.rows.numpy(), self.index["ends"], self.index["names"].tobytes()
        for row in rows.tolist():
            digest.update(names[ends[row - 1] if row else 0 : ends[row]] + b"\n")
        for name in ("shard", "size"):
            digest.update(self.index[name][rows].tobytes())

    def _piece(self, row: int) -> Piece:
        index = self.index
        return Piece(self.paths[index["shard"][row]], int(index["offset"][row]), int(index["size"][row]))

    def _open(self, row: int) -> BinaryIO:
        path, offset, size = self._piece(row)
        with self.access.open(path) as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise Unreadable("the shard ends inside it")
        return io.BytesIO(data)


def load_shards(
    root: str | Path | None, labels: str = "auto", max_corrupt: float = 0.2, validation: float = 0.1, seed: int = 0,
    progress: Progress | None = None, reading: Reading | None = None,
) -> Dataset:
    """A folder of shards, on a disk or in an object store (vision/store.py), as a data set; splits by folder (train/) or by
    name (imagenet1k-validation-07.tar), else all train.

    Labels are the numbers or the names in .cls members (vision/shard_labels.py). Where most images of train have one, the
    others are left out; else there are no labels; `skipped` gives the reason. As of a folder, validation is the test split
    where there is no other, and what is missing is held out of train. reading: its window and its store's settings.  Raises
    ValueError, one line, with the fix; StoreError.
    """
    reading, access = reading or Reading(), LOCAL
    if reading.window is not None and reading.window < 1:
        raise ValueError(f"data.window={reading.window} must be 1 or more shards, or null: the order is over all images")
    if is_remote(root):
        access = mirror(str(root), reading.store, wanted=lambda name: name == "classes.txt")
        root = access.root
    root = _existing(root)
    collection, meaning = Collection("shards", str(root), notes=[*access.notes]), None
    for role, paths in _roles(root, access, collection.ignored, collection.skipped).items():
        index, broken = indexed(paths, progress, access)
        collection.skipped |= broken
        collection.ignored += ignored_members(index)
        whole = Shards(paths, index, access=access)
        whole.window = reading.window
        split = _of_samples(whole, collection.ignored)
        if role == "train":
            if not len(split):
                raise ValueError(f"data.root={root} has shards without images; members end in "
                                 f"{' '.join(sorted(map(bytes.decode, SUFFIXES)))}")
            if labels != "none":
                meaning = _labels(split, root, labels == "folders", max_corrupt, collection.skipped)
        if meaning:
            split = _labelled(split, meaning, f"{root}, {role}", collection.skipped)
        if len(split) or not meaning:
            collection.splits[role] = split
    collection.classes = meaning.names if meaning else None
    return assemble(collection, max_corrupt, validation, seed, progress)


def _of_samples(split: Shards, ignored: Counter) -> Shards:
    """Without the second images of samples, such as 0001.mask.png beside 0001.png.

    In a name without other dots WebDataset's sample is what stands before the suffix. Where no image of the split is named so,
    or photo.v2.png has a photo.v2.cls, the dots belong to the sample's name.
    """
    dotted = split.index["dotted"]
    second = dotted == DOTTED
    if not second.any() or not (dotted == PLAIN).any():
        return split
    ignored["second image of a sample"] += int(second.sum())
    return split.select(torch.from_numpy(~second).nonzero().flatten())


def _labels(
    split: Shards, root: Path, required: bool, max_corrupt: float, skipped: dict[str, str]
) -> shard_labels.Labels | None:
    """What the .cls members of train mean; None where fewer than half of its images have one.  required: that is an error."""
    texts, label_rows = label_texts(split.index), split.index["label"][split.rows.numpy()]
    counts = np.bincount(label_rows[label_rows != UNKNOWN], minlength=len(texts))
    meaning = shard_labels.of_train(texts, counts, root, max_corrupt)
    lacking, why = int((label_rows == UNKNOWN).sum()), "have no .cls beside them"
    if meaning:
        class_of, wrong = shard_labels.classes_of(texts, meaning)
        lacking = int((class_of[label_rows] == UNKNOWN).sum())
    elif texts:
        lacking, wrong = len(split), {0: _why_not(texts[0])}
    if texts and wrong:
        why = f"have no .cls beside them that is a label ({next(iter(wrong.values()))})"
    if required and lacking:
        raise ValueError(f"data.labels=folders: {lacking} of {len(split)} images in {root} {why}; data.labels=none takes them "
                         f"unlabelled")
    if lacking < len(split) / 2:
        return meaning
    if texts:
        skipped[f"{root}, labels"] = f"{lacking} of {len(split)} images {why}, so none is used"
    return None


def _why_not(text: bytes) -> str:
    try:
        return f".cls is {shard_labels.parse(text)}"
    except shard_labels.NoLabel as error:
        return str(error)


def _labelled(split: Shards, meaning: shard_labels.Labels, place: str, skipped: dict[str, str]) -> Shards:
    """The images that have a class of train. The others are left out: named where their .cls is wrong, else counted."""
    class_of, wrong = shard_labels.classes_of(label_texts(split.index), meaning)
    label_rows = split.index["label"][split.rows.numpy()]
    labels = class_of[label_rows]
    bad = np.flatnonzero(np.isin(label_rows, list(wrong)))
    skipped |= {split.where(int(i)): wrong[int(label_rows[i])] for i in bad[:NAMED]}
    if len(bad) > NAMED:
        skipped[f"{place}, labels"] = f"{len(bad) - NAMED} more images have a .cls that is no label"
    if without := int((labels == UNKNOWN).sum()) - len(bad):
        skipped[place] = f"{without} of {len(split)} images have no .cls of a class of train"
    split.labels = torch.from_numpy(labels.clip(min=0))
    return split.select(torch.from_numpy(labels != UNKNOWN).nonzero().flatten())


def _existing(root: str | Path | None) -> Path:
    if not root:
        raise ValueError("data=shards needs data.root, the folder that holds the .tar files")
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ValueError(f"data.root={root} {'is a file; give the folder of shards' if root.exists() else 'does not exist'}")
    return root


def _roles(root: Path, access: Access, ignored: Counter, skipped: dict[str, str]) -> dict[str, list[bytes]]:
    """Role → its shards in the order of their paths, train first."""
    roles: dict[str, list[bytes]] = {"train": []}
    shards = walk(os.fsencode(root), b"", ignored, skipped, frozenset([b".tar"]))
    ignored[".txt"] -= (root / "classes.txt").is_file()
    for path in sorted(root / os.fsdecode(name) for name, _ in shards):
        if not path.is_file() and not access.remote:  # a symlink to nothing
            skipped[printable(os.fsencode(path))] = "No such file or directory"
            continue
        words = re.split(r"[-_.]", path.stem.lower())
        folders = [part.lower() for part in path.relative_to(root).parts[:-1]]
        role = next((ROLES[word] for word in (*folders, *words) if word in ROLES), "train")
        roles.setdefault(role, []).append(os.fsencode(path))
    if not roles["train"]:
        there = listed(+ignored) or "nothing else"
        raise ValueError(f"data.root={root} has no .tar for train ({there}); shards are uncompressed .tar files")
    return roles


def main(argv: list[str] | None = None) -> int:
    from vision import write_shards

    return write_shards.main(argv)


if __name__ == "__main__":
    sys.exit(main())
