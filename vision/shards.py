"""WebDataset shards → a data set: tar files whose members are images, and labels beside them (000123.jpg, 000123.cls).

Members are read where they lie, by offset, so that any image can be asked for: views, order and resuming are those of a
folder, whatever the number of processes. What lies where is read once and kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
import tempfile
from array import array
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from torch import Tensor

from vision.decode import SUFFIXES, Unreadable, reason
from vision.folder import SPLITS
from vision.streamed import Progress, Streamed, printable

if TYPE_CHECKING:
    from vision.datasets import Dataset

ROLES = {name: role for role, names in SPLITS.items() for name in names}
FORMAT = b"1"  # of what is kept of an index
COLUMNS = ("shard", "offset", "size", "label", "names", "ends")  # of an index; `names` are bytes, `ends` where each ends
UNKNOWN = -1  # label of an image that has none


class Shards(Streamed):
    """Images inside tar files.  paths: of all shards.

    index: of each image `shard` (of paths), `offset` and `size` in bytes, and where its member's name `ends` in `names`.
    """

    def __init__(self, paths: list[bytes], index: dict[str, np.ndarray], labels: Tensor | None = None) -> None:
        super().__init__(torch.arange(len(index["shard"])), labels)
        self.paths, self.index = paths, index

    def where(self, index: int) -> str:
        row = int(self.rows[index])
        return f"{printable(self.paths[self.index['shard'][row]])}:{self._member(row)}"

    def name(self, index: int) -> str:
        row = int(self.rows[index])
        return f"{printable(os.path.basename(self.paths[self.index['shard'][row]]))}:{self._member(row)}"

    def _member(self, row: int) -> str:
        start = self.index["ends"][row - 1] if row else 0
        return printable(self.index["names"][start : self.index["ends"][row]].tobytes())

    def _identify(self, digest) -> None:
        """Every member's name, size and shard."""
        rows = self.rows.tolist()
        for row in rows:
            digest.update(f"{self._member(row)}\n".encode())
        for name in ("shard", "size"):
            digest.update(self.index[name][rows].tobytes())

    def _open(self, row: int) -> BinaryIO:
        size = int(self.index["size"][row])
        with open(self.paths[self.index["shard"][row]], "rb") as file:
            file.seek(int(self.index["offset"][row]))
            data = file.read(size)
        if len(data) < size:
            raise Unreadable("the shard ends inside it")
        return io.BytesIO(data)


def load_shards(
    root: str | Path | None, labels: str = "auto", max_corrupt: float = 0.2, validation: float = 0.1, seed: int = 0,
    progress: Progress | None = None, image_size: int = 224,
) -> Dataset:
    """A folder of shards as a data set; splits by folder (train/) or by name (imagenet1k-validation-07.tar), else all train.

    Labels are the numbers in .cls members, named by the lines of classes.txt where root has one. Where most images of train
    have one, the others are left out; else there are no labels; `skipped` says so. As of a folder, validation is the test
    split where there is no other, and what is missing is carved out of train. Raises ValueError, one line, with the fix.
    """
    from vision.datasets import assemble

    root = _existing(root)
    skipped, splits, classes, known = {}, {}, None, None
    for role, paths in _roles(root).items():
        index, broken = _indexed(paths, progress)
        skipped |= broken
        split, found = Shards(paths, index), index["label"]
        if role == "train":
            if not len(split):
                raise ValueError(f"data.root={root} has shards without images; members end in "
                                 f"{' '.join(sorted(map(bytes.decode, SUFFIXES)))}")
            lacking = int((found == UNKNOWN).sum())
            if labels == "folders" and lacking:
                raise ValueError(f"data.labels=folders: {lacking} of {len(split)} images in {root} have no .cls beside them; "
                                 f"data.labels=none takes them unlabelled")
            if labels != "none" and lacking < len(split) / 2:
                known = np.unique(found[found != UNKNOWN])
                classes = _names(root, known)
            elif labels != "none" and lacking < len(split):
                skipped[f"{root}, labels"] = f"{lacking} of {len(split)} images have no .cls beside them, so none is used"
        if classes:
            labelled = np.isin(found, known)
            split.labels = torch.from_numpy(np.searchsorted(known, found).clip(max=len(known) - 1)).long()
            if not labelled.all():
                skipped[f"{root}, {role}"] = f"{(~labelled).sum()} of {len(split)} images have no .cls of a class of train"
                split = split.select(torch.from_numpy(labelled).nonzero().flatten())
            if not len(split):
                continue
        splits[role] = split
    return assemble("shards", str(root), splits, classes, skipped, max_corrupt, validation, seed, progress, image_size)


def _existing(root: str | Path | None) -> Path:
    if not root:
        raise ValueError("data=shards needs data.root, the folder that holds the .tar files")
    if "://" in str(root):
        raise ValueError(f"data.root={root}: shards are read by offset from a file system; mount the store and give its folder")
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ValueError(f"data.root={root} {'is a file; give the folder of shards' if root.exists() else 'does not exist'}")
    return root


def _roles(root: Path) -> dict[str, list[bytes]]:
    """Role → its shards in the order of their names, train first."""
    found: dict[str, list[bytes]] = {"train": []}
    others = Counter()
    for path in _files(root):
        if path.suffix.lower() != ".tar":
            others["".join(path.suffixes[-2:]) or "no suffix"] += 1
            continue
        words = re.split(r"[-_.]", path.stem.lower())
        folders = [part.lower() for part in path.relative_to(root).parts[:-1]]
        role = next((ROLES[word] for word in (*folders, *words) if word in ROLES), "train")
        found.setdefault(role, []).append(os.fsencode(path))
    if not found["train"]:
        there = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(4)) or "nothing else"
        raise ValueError(f"data.root={root} has no .tar for train ({there}); shards are uncompressed .tar files")
    return found


def _files(root: Path) -> list[Path]:
    """All that are not hidden, in the order of their paths; folders behind symlinks too, each once."""
    found, seen = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(folder, name) for name in names if not name.startswith(".") and Path(folder, name).is_file()]
    return sorted(found)


def _names(root: Path, known: np.ndarray) -> tuple[str, ...]:
    path = root / "classes.txt"
    lines = path.read_text().splitlines() if path.is_file() else []
    if lines and known[-1] >= len(lines):
        raise ValueError(f"{path} names {len(lines)} classes, and there are labels up to {known[-1]}")
    return tuple(lines[k] if lines else str(k) for k in known)


# -------------------------------------------------------------------------------------------------------------- the index


def _indexed(paths: list[bytes], progress: Progress | None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Where every image lies, from the cache where no shard has changed; and shards that could not be read to their end.

    Processes of one machine wait for the one that reads.
    """
    from filelock import FileLock  # comes with torch

    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nolabel" / "shards"
    kept = folder / f"{hashlib.sha256(FORMAT + _stamp(paths)).hexdigest()[:24]}.npz"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(kept.with_suffix(".lock")):
            if (found := _kept(kept)) is not None:
                return found, {}
            index, broken = read_index(paths, progress)
            if not broken:
                with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as file:
                    np.savez(file, **index)
                os.replace(file.name, kept)
            return index, broken
    except OSError:  # no place for a cache: it is read anew each time
        return read_index(paths, progress)


def _kept(path: Path) -> dict[str, np.ndarray] | None:
    """None where it is not there, or broken."""
    try:
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in COLUMNS}
    except Exception:  # whatever half a file makes numpy or zipfile raise
        return None


def _stamp(paths: list[bytes]) -> bytes:
    """Of the shards as they are: paths, sizes, times of change."""
    stats = ((path, os.stat(path)) for path in paths)
    return b"\n".join(b"%s %d %d" % (path, status.st_size, status.st_mtime_ns) for path, status in stats)


def read_index(paths: list[bytes], progress: Progress | None = None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """One walk over the headers of all shards.  → COLUMNS, and shard → why it could not be read to its end"""
    shard, offset, size, label, ends, names = array("i"), array("q"), array("q"), array("q"), array("q"), bytearray()
    broken: dict[str, str] = {}
    for number, path in enumerate(paths):
        classes: dict[str, int] = {}
        keys: list[str] = []
        end = 0
        try:
            with tarfile.open(os.fsdecode(path), "r:") as tar:
                for member in tar:
                    key, kind = _split(member.name)
                    end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                    if not member.isreg() or os.path.basename(key).startswith("."):
                        continue
                    if kind == "cls":
                        classes[key] = int(tar.extractfile(member).read())
                    elif b"." + os.fsencode(kind) in SUFFIXES:  # not a second picture of the sample, such as 0001.mask.png
                        keys.append(key)
                        names += os.fsencode(member.name)
                        for column, value in ((shard, number), (offset, member.offset_data), (size, member.size)):
                            column.append(value)
                        ends.append(len(names))
            if os.stat(path).st_size < end + tarfile.BLOCKSIZE:
                raise tarfile.ReadError("no mark of its end")
        except (tarfile.TarError, OSError, ValueError) as error:  # ValueError: a .cls that is no number
            broken[printable(path)] = f"read up to its image {len(keys)}: {reason(error)}"
        label.extend(classes.get(key, UNKNOWN) for key in keys)
        if progress:
            progress(number + 1, len(paths))
    columns = zip(COLUMNS, (shard, offset, size, label, names, ends), strict=True)
    types = {"shard": np.int32, "names": np.uint8}
    return {name: np.frombuffer(column, types.get(name, np.int64)) for name, column in columns}, broken


def _split(name: str) -> tuple[str, str]:
    """A member's sample and what it is of it, as WebDataset tells them: up to the first dot of its last part, and the rest."""
    folder, slash, last = name.rpartition("/")
    stem, _, kind = last.partition(".")
    return f"{folder}{slash}{stem}", kind.lower()
