"""An array on disk that grows by rows and is resumed behind the last whole one after a kill. One process writes."""
import io
import json
import os
from pathlib import Path

import numpy as np

from core import checkpoint, lock
from core.errors import DiskFull

DTYPE = np.dtype("<f2")  # half of float32's memory, with a relative error of 2⁻¹¹ at most


class GrowingArray:
    """A folder with rows.npy, whose header states the final shape, and state.json: how many rows are whole, and which of them
    are not to be used.

    Rows are synced before state.json counts them, so what it counts is there after any end of a process. Raises ValueError
    (core/lock.py) where another command is writing to the folder.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...]):
        self.folder, self.shape, self.path = folder, shape, folder / "rows.npy"
        self.rows, self.skipped = 0, list[int]()
        folder.mkdir(parents=True, exist_ok=True)
        lock.hold(folder, self)
        checkpoint.sweep(folder)
        try:
            state = json.loads((folder / "state.json").read_text())
            if self.path.stat().st_size >= self._end(state["rows"]):
                self.rows, self.skipped = int(state["rows"]), list(state["skipped"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # none was begun, or not a row is whole

    def append(self, rows: np.ndarray, skipped: list[int]) -> None:
        """rows: B,… of this shape, flat or not; skipped: as in `note`"""
        try:
            if self.rows == 0:
                self.path.write_bytes(_header(self.shape))
            with open(self.path, "r+b") as file:
                file.seek(self._end(self.rows))
                file.write(rows.astype(DTYPE).tobytes())
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno in checkpoint.FULL:
                kept = f"the {self.rows:,} images before are kept"
                raise DiskFull(f"no room for {self.path}; {kept}; make room, or give a smaller budget=") from error
            raise
        self.rows += len(rows)
        self.note(skipped)

    def note(self, skipped: list[int]) -> None:
        """Keep which rows are not to be used, beside those known before."""
        self.skipped = sorted({*self.skipped, *skipped})
        checkpoint.write(self.folder / "state.json", json.dumps({"rows": self.rows, "skipped": self.skipped}))

    def read(self) -> np.ndarray:
        """All rows, memory-mapped."""
        return np.load(self.path, mmap_mode="r")

    def _end(self, rows: int) -> int:
        """The size of the file with so many rows, in bytes."""
        return len(_header(self.shape)) + rows * int(np.prod(self.shape[1:])) * DTYPE.itemsize


def _header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": DTYPE.str, "fortran_order": False, "shape": shape})
    return file.getvalue()
