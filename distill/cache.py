"""What a teacher says of an augmented view depends only on (seed, epoch, index, view): so it is computed once and kept.

A folder for each teacher, data, augmentation and seed; in it, for each epoch, one memory-mapped array with a row an image and
one with the row's checksum. A row without its checksum, never written or torn by a crash, is computed again. Processes write
rows of their own; students that come later, in this job or another, read.
"""
import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
from torch import Tensor

from core.processes import gather_objects, is_main

FORMAT = 1
WRITTEN = 1 << 32  # above any CRC-32: 0 means that a row is not there


class Cache:
    """Rows of half-precision numbers by (epoch, image).

    what: all that the rows depend on beside epoch and image; images: rows of an epoch; limit: bytes that it may take. Epochs
    beyond the limit are not kept.  Raises ValueError where the folder cannot be written.
    """

    def __init__(self, folder: str | Path, what: dict, images: int, width: int, limit: float):
        text = json.dumps({"format": FORMAT, **what}, sort_keys=True)
        self.folder = Path(folder) / f"teacher-{hashlib.sha256(text.encode()).hexdigest()[:20]}"
        self.epoch_bytes = images * (2 * width + 8)
        self.shape, self.epochs = (images, width), int(limit // self.epoch_bytes)
        self.hits = self.misses = 0
        self._open: tuple[int, np.ndarray, np.ndarray] | None = None
        if self.epochs and is_main():
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                (self.folder / "what.json").write_text(text + "\n")
            except OSError as error:
                raise ValueError(f"cache={folder} cannot be written: {error.strerror}; give another folder, or none") from error
        gather_objects(None)  # the folder is there for all

    def get(self, epoch: int, indices: np.ndarray) -> np.ndarray | None:
        """Rows of these images, or None where one of them is missing or damaged.  B int64 → B,D float16"""
        if epoch >= self.epochs:
            return None
        rows, sums = self._epoch(epoch)
        found = rows[indices]
        whole = bool((sums[indices] == checksums(found)).all())
        self.hits, self.misses = self.hits + whole, self.misses + (not whole)
        return found if whole else None

    def put(self, epoch: int, indices: np.ndarray, found: np.ndarray) -> None:
        """B int64; B,D float16"""
        if epoch < self.epochs:
            rows, sums = self._epoch(epoch)
            rows[indices] = found
            sums[indices] = checksums(found)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        if self._open is None or self._open[0] != epoch:
            rows, sums = (self.folder / f"{epoch:05}.{kind}" for kind in ("rows", "sums"))
            self._open = epoch, _mapped(rows, np.float16, self.shape), _mapped(sums, np.uint64, self.shape[:1])
        return self._open[1:]


def _mapped(path: Path, dtype, shape: tuple[int, ...]) -> np.ndarray:
    """The file as an array, made where it is not there: full of zeros and taking no room until rows are written."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with open(path, "ab") as file:  # any number of processes at once
        if file.tell() < size:
            file.truncate(size)
    return np.memmap(path, dtype, "r+", shape=shape)


def half(rows: Tensor) -> Tensor:
    """Rounded to half precision; what it cannot hold becomes its largest number."""
    return rows.clamp(-65_504, 65_504).half()


def checksums(rows: np.ndarray) -> np.ndarray:
    """B,D float16 → B uint64"""
    return np.array([zlib.crc32(row) + WRITTEN for row in np.ascontiguousarray(rows)], np.uint64)
