"""What object stores gave, kept on disk up to a number of bytes and shared by the processes of a machine."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from typing import BinaryIO
from zlib import crc32

from core.home import cache_folder
from vision.decode import reason
from vision.store import StoreError

LOCKS = 64  # entries of different locks are fetched at once
KEEP = 0.9  # of the budget is left when the oldest entries make room, so that this is not done for every new one


class DiskCache:
    """Entries by name; the ones that were opened longest ago are removed as soon as all would be more than `budget` bytes.

    An entry is written under another name and renamed. Several processes that want the same one wait for the one that fetches
    it. May be pickled.
    """

    def __init__(self, budget: int) -> None:
        self.folder, self.budget = cache_folder("store"), budget
        self.entries = self.folder / "entries"
        with self.writing():
            self.entries.mkdir(parents=True, exist_ok=True)

    def open(self, name: str, size: int) -> BinaryIO | None:
        """The entry of that name and size, None where it is not there."""
        try:
            file = open(self.entries / name, "rb")  # noqa: SIM115 the caller closes it
        except OSError:
            return None
        if os.fstat(file.fileno()).st_size != size:  # a disk was full, or failed
            file.close()
            return None
        with contextlib.suppress(OSError):
            os.utime(file.fileno())
        return file

    def has(self, name: str) -> bool:
        return (self.entries / name).is_file()

    def fetch(self, name: str, size: int, get: Callable[[], bytes]) -> BinaryIO | bytes:
        """The entry; where it is not there what `get` returns, which is kept."""
        from filelock import FileLock  # comes with torch

        if (file := self.open(name, size)) is not None:  # entries come by renaming: no need to wait for others
            return file
        with self.writing(), FileLock(self.folder / f"{crc32(name.encode()) % LOCKS}.lock"):
            if (file := self.open(name, size)) is not None:
                return file
            data = get()
            self._keep(name, data)
            return data

    def _keep(self, name: str, data: bytes) -> None:
        from filelock import FileLock

        if len(data) > self.budget:
            return
        with FileLock(self.folder / "usage.lock"):
            used = self._usage()
            if used is None or used + len(data) > self.budget:
                used = self._make_room(len(data))
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".tmp", delete=False) as file:
                file.write(data)
            os.replace(file.name, self.entries / name)
            (self.folder / "usage").write_text(str(used + len(data)))

    def _usage(self) -> int | None:
        try:
            return int((self.folder / "usage").read_text())
        except (OSError, ValueError):
            return None

    def _make_room(self, needed: int) -> int:
        """Remove the oldest entries where `needed` more bytes would be over the budget.  → bytes of those that stay."""
        for left in self.folder.glob("*.tmp"):  # of processes that were killed: the others wait for the lock
            left.unlink(missing_ok=True)
        with os.scandir(self.entries) as listing:
            found = sorted((status.st_mtime_ns, status.st_size, entry.path) for entry in listing if (status := entry.stat()))
        used = sum(size for _, size, _ in found)
        if used + needed <= self.budget:
            return used
        goal = min(self.budget - needed, int(KEEP * self.budget))
        for _, size, path in found:
            if used <= goal:
                break
            os.unlink(path)
            used -= size
        return used

    @contextlib.contextmanager
    def writing(self):
        """Around what is written there: StoreError, which names data.cache, for OSError."""
        try:
            yield
        except OSError as error:
            raise StoreError(f"data.cache={self.budget / 1e9:g}: {self.folder} cannot be written ({reason(error)}); give a "
                             "smaller data.cache, or XDG_CACHE_HOME=FOLDER on another disk", 2) from None
