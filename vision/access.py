"""How the bytes of a path are reached: here on a file system; vision/mirror.py does the same for an object store."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import BinaryIO, NamedTuple


class Piece(NamedTuple):
    """Bytes of a file that are needed soon.  size: None, to its end"""

    path: bytes
    offset: int = 0
    size: int | None = None


class Access:
    """Files of a file system. Keeps no file open, and may be pickled."""

    remote = False
    notes: Sequence[str] = ()  # what a user should know of the files

    def open(self, path: bytes, sequential: bool = False) -> BinaryIO:
        """sequential: all of it will be read, from its begin on."""
        return open(path, "rb")

    def size(self, path: bytes) -> int:
        """Bytes of the file.  Raises OSError where it is not there."""
        return os.stat(path).st_size

    def stamp(self, path: bytes) -> bytes:
        """What differs once the file has changed.

        Beside size and time of change it has the inode and ctime, which neither `cp -p`, tar, rsync nor utime can set back: a
        file that was replaced by another of equal size and time counts as changed. Where a file system makes them up anew (some
        FUSE mounts, layers of containers), an index is read once more, never wrongly.
        """
        status = os.stat(path)
        return b"%s\0%d %d %d %d\n" % (path, status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)

    def shown(self, path: bytes) -> bytes:
        """The path as messages have it."""
        return path

    def ready(self, pieces: Iterable[Piece]) -> None:
        """Fetch these pieces at once, so that opening them does not wait."""


LOCAL = Access()
