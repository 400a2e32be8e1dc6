"""Splits that stay on disk: images decoded one at a time, in memory that hardly grows with their number.

Nothing here keeps a file open or a thread alive, so a split travels to DataLoader workers by fork or by pickle.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.image_size import Size
from core.machine import cores
from vision.access import LOCAL, Access, Piece
from vision.color_image import ColorImage, read_color
from vision.decode import Unreadable, decode, reason
from vision.geometry import Geometry
from vision.listing import printable
from vision.order import Windows
from vision.preprocess import at_least as draft_size
from vision.preprocess import fitted

T = TypeVar("T")
Progress = Callable[[int, int], None]  # (done, total)

CHECK_ALL = 5_000  # up to so many files are all decoded up front …
CHECK_SOME = 500  # … of more than that, so many, evenly spread
SAMPLE = 32_768  # bytes at three places of a large file that its fingerprint covers


class Streamed:
    """A split decoded on demand. A subclass opens the bytes of image i (`_open`) and names it (`where`).

    rows: N int64, which entries of the shared source this split has, ascending; labels: N int64, N,K int8 of several
    an image (vision/multilabel.py), or None.
    skipped: path → reason of the files found unreadable by *this process's copy* after the check up front.
    """

    channels: int = 3
    dtype: torch.dtype = torch.uint8  # of the pixels, 0..255; float32: 0..1 (vision/raster_split.py)
    access: Access = LOCAL  # how files are opened

    def __init__(self, rows: Tensor, labels: Tensor | None = None, max_corrupt: float = 0.2) -> None:
        self.rows, self.labels, self.max_corrupt = rows, labels, max_corrupt
        self.skipped: dict[str, str] = {}
        self.groups: Tensor | None = None  # N int64, equal numbers for images that stay in one split (vision/groups.py)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def windows(self) -> Windows | None:
        """Within which an epoch's order is random; None: over all images."""
        return None

    def select(self, positions: Tensor) -> Streamed:
        """A split of these positions that shares the source."""
        part = copy.copy(self)
        part.rows, part.skipped = self.rows[positions], {}
        part.labels = None if self.labels is None else self.labels[positions]
        part.groups = None if self.groups is None else self.groups[positions]
        return part

    def read(self, index: int, at_least: int | None = None, mode: str = "RGB") -> Image.Image:
        """Image `index` as `decode` gives it. Raises Unreadable; IndexError past the end."""
        return self._read(index, lambda file: decode(file, at_least, mode))

    def _read(self, index: int, how: Callable[[BinaryIO], T]) -> T:
        row = int(self.rows[index])
        try:
            with self._open(row) as file:
                return how(file)
        except OSError as error:
            raise Unreadable(reason(error)) from error

    def readable(self, index: int, at_least: int | None = None, mode: str = "RGB") -> tuple[Image.Image, int]:
        """Image `index`, or the next one (index + 1 modulo N, …) that can be read, and the index it really is.

        So the same file stands in whoever asks. Raises ValueError once the skipped are over `max_corrupt` of the split.
        """
        return self._first(index, lambda used: self.read(used, at_least, mode))

    def croppable(self, index: int, at_least: int | None = None) -> tuple[ColorImage, int]:
        """As `readable`, of the image as pretraining cuts crops from it."""
        return self._first(index, lambda used: self._read(used, lambda file: read_color(file, at_least)))

    def _first(self, index: int, read: Callable[[int], T]) -> tuple[T, int]:
        for used in ((index + step) % len(self) for step in range(len(self))):
            where = self.where(used)
            if where in self.skipped:
                continue
            try:
                return read(used), used
            except Unreadable as error:
                self.skipped[where] = str(error)
                refuse_many(self.skipped, len(self), self.max_corrupt)
        raise ValueError("no image can be read any more, first: " + first_skipped(self.skipped))

    def resized(self, indices: Tensor, size: Size | Geometry) -> Tensor:
        """→ B,3,height,width uint8: what evaluation sees (vision/preprocess.py) of the file that `readable` gives.

        size: alone, cropped. A letterbox has the channels of its padding.

        Where `skipped` has grown meanwhile, a file stands in for its neighbor in path order, mostly of the same class.
        """

        self.ready(indices)
        geometry = Geometry.of(size)

        def one(index: int) -> np.ndarray:  # C,height,width
            return fitted(self.readable(index, at_least=draft_size(geometry.size))[0], geometry)

        with ThreadPoolExecutor(1 if torch.utils.data.get_worker_info() else threads()) as pool:
            pixels = list(pool.map(one, indices.tolist()))
        return torch.from_numpy(np.stack(pixels)).contiguous()

    def ready(self, indices: Tensor) -> None:
        """Fetch at once what these images need, where they lie in an object store.  Raises StoreError."""
        if self.access.remote:
            self.access.ready(map(self._piece, self.rows[indices].tolist()))

    def _piece(self, row: int) -> Piece:
        raise NotImplementedError

    def name(self, index: int) -> str:
        """A short printable name of image `index`, unique in the data set."""
        return self.where(index)

    def fingerprint(self) -> str:
        """Of the images in their order: names, sizes and sampled bytes, so that it is the same wherever the files lie.

        Of every file, or of CHECK_SOME spread evenly where there are more than CHECK_ALL, at most 3 × SAMPLE bytes are read.
        """
        digest = hashlib.sha256(b"%d" % len(self))
        self._identify(digest)
        count = len(self) if len(self) <= CHECK_ALL else CHECK_SOME
        sampled = torch.arange(count) * len(self) // max(count, 1)
        self.ready(sampled)
        with ThreadPoolExecutor(threads()) as pool:
            for part in pool.map(self._sample, self.rows[sampled].tolist()):
                digest.update(part)
        return digest.hexdigest()

    def _sample(self, row: int) -> bytes:
        """Some of an image's bytes: all, or those at its begin, in its middle and at its end."""
        try:
            with self._open(row) as file:
                size = file.seek(0, os.SEEK_END)
                starts = [0] if size <= 3 * SAMPLE else [0, size // 2, size - SAMPLE]
                parts = [b"%d" % size]
                for start in starts:
                    file.seek(start)
                    parts.append(file.read(3 * SAMPLE if len(starts) == 1 else SAMPLE))
                return b" ".join(parts)
        except (OSError, Unreadable) as error:
            return reason(error).encode()

    def where(self, index: int) -> str:
        raise NotImplementedError

    def _identify(self, digest) -> None:
        """Add to the digest what takes no reading: names, sizes. No path, no time of change."""
        raise NotImplementedError

    def _open(self, row: int) -> BinaryIO:
        raise NotImplementedError


class Files(Streamed):
    """Image files under one root. All paths lie end to end in one buffer: path r is buffer[offsets[r]:offsets[r + 1]],
    relative to root, in the bytes of the file system; 60 bytes a file or so, where a list of str takes 150."""

    def __init__(self, root: str | Path, buffer: np.ndarray, offsets: np.ndarray, labels: Tensor | None = None,
                 max_corrupt: float = 0.2) -> None:
        super().__init__(torch.arange(len(offsets) - 1), labels, max_corrupt)
        self.root, self.buffer, self.offsets = os.fsencode(root), buffer, offsets

    def path(self, index: int) -> Path:
        return Path(os.fsdecode(self._path(int(self.rows[index]))))

    def name(self, index: int) -> str:
        return printable(self._relative(int(self.rows[index])))

    def where(self, index: int) -> str:
        return printable(self.access.shown(self._path(int(self.rows[index]))))

    def relative_paths(self) -> list[str]:
        """Of each image its path relative to root, as os.fsdecode has it."""
        return [os.fsdecode(self._relative(row)) for row in self.rows.tolist()]

    def _relative(self, row: int) -> bytes:
        return self.buffer[self.offsets[row] : self.offsets[row + 1]].tobytes()

    def _path(self, row: int) -> bytes:
        return os.path.join(self.root, self._relative(row))

    def _identify(self, digest) -> None:
        """Every file's name below the root, and its size."""

        for row, size in zip(self.rows.tolist(), self.sizes(), strict=True):
            digest.update(b"%d %s\n" % (size, self._relative(row)))

    def sizes(self) -> Iterator[int]:
        """Bytes of each file; −1 of one that is gone, as a broken link's."""

        def size(row: int) -> int:
            try:
                return self.access.size(self._path(row))
            except OSError:
                return -1

        with ThreadPoolExecutor(threads()) as pool:
            yield from pool.map(size, self.rows.tolist(), chunksize=256)

    def open(self, index: int) -> BinaryIO:
        """The file of image `index`.  Raises OSError."""
        return self._open(int(self.rows[index]))

    def _piece(self, row: int) -> Piece:
        return Piece(self._path(row))

    def _open(self, row: int) -> BinaryIO:
        return self.access.open(self._path(row))


def threads() -> int:
    """Images that one process decodes at once."""
    return min(8, cores())  # so many images of up to MAX_PIXELS may be decoded at once


def first_skipped(skipped: dict[str, str]) -> str:
    return ", ".join(f"{path} ({reason})" for path, reason in list(skipped.items())[:3])


def refuse_many(skipped: dict[str, str], total: int, limit: float) -> None:
    """ValueError if more than `limit` of `total` files are unreadable."""
    if len(skipped) > limit * total:
        raise ValueError(f"{len(skipped)} of {total} images are unreadable ({len(skipped) / total:.0%}), more than "
                         f"data.max_corrupt={limit:g} allows; first: {first_skipped(skipped)}")


def drop_unreadable(
    splits: dict[str, Streamed], max_corrupt: float, progress: Progress | None = None
) -> tuple[dict[str, Streamed], dict[str, str]]:
    """The splits without the files that do not decode, and those files with their reasons.

    All files are tried up to CHECK_ALL; of more, CHECK_SOME spread evenly, so that a hopeless set is refused before
    training, and `readable` deals with the rest. Raises ValueError where more than `max_corrupt` of the tried fail.
    """
    total = sum(map(len, splits.values()))
    share = 1 if total <= CHECK_ALL else CHECK_SOME / total
    tried = []
    for name, split in splits.items():
        count = ceil(len(split) * share)
        tried += [(name, i * len(split) // count) for i in range(count)]

    def why_not(which: tuple[str, int]) -> str | None:
        name, index = which
        try:
            splits[name].read(index, at_least=1)  # a JPEG is read to its end, but only 1/64 of the pixels is made
        except Unreadable as error:
            return str(error)

    skipped, bad = {}, {name: [] for name in splits}
    with ThreadPoolExecutor(threads()) as pool:
        for done, ((name, index), why) in enumerate(zip(tried, pool.map(why_not, tried), strict=True), 1):
            if why is not None:
                skipped[splits[name].where(index)] = why
                bad[name].append(index)
            if progress:
                progress(done, len(tried))
    refuse_many(skipped, len(tried), max_corrupt)
    for name, split in splits.items():
        good = torch.ones(len(split), dtype=torch.bool)
        good[bad[name]] = False
        splits = splits | {name: split.select(good.nonzero().flatten())}
    return splits, skipped
