"""A folder of an object store → a folder of symlinks, so that what lists files lists objects; their bytes come by blocks.

Each object is a symlink to nothing, named by what the object was when it was listed (address, ETag, size). Bytes are read in
blocks of BLOCK, one ranged request each for hundreds of images, which the disk cache keeps (vision/store_cache.py). A process
holds at most 3 · PARALLEL blocks in memory, each twice while it is copied, 384 MiB, whatever the size of shards and data: those
that a step waits for, those that are fetched ahead, and those that threads read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Protocol

from torch import Tensor

from core.home import cache_folder
from vision.access import Access, Piece
from vision.store import PARALLEL, Store, Stored, StoreError, StoreSettings
from vision.store_cache import DiskCache

BLOCK = 8 << 20  # bytes of one request


class Mirror(Access):
    """The objects below a URL as files below `root`, which holds a symlink each.  notes: on objects that can be no files."""

    remote = True

    def __init__(self, root: Path, store: Store, cache: DiskCache, notes: list[str]) -> None:
        self.root, self.store, self.cache, self.notes = root, store, cache, notes
        self._root = os.fsencode(root)

    def open(self, path: bytes, sequential: bool = False) -> BinaryIO:
        if not os.path.islink(path):  # a file that was wanted whole
            if not self.root.is_dir():
                raise StoreError(f"{self.root} was removed while the run read it; the same command makes it again and resumes")
            return open(path, "rb")
        return io.BufferedReader(_Blocks(self, path, PARALLEL if sequential else 1), 1 << 16)

    def size(self, path: bytes) -> int:
        return _linked(path)[1] if os.path.islink(path) else os.stat(path).st_size

    def stamp(self, path: bytes) -> bytes:
        return os.readlink(path) + b"\n"

    def shown(self, path: bytes) -> bytes:
        return os.fsencode(self.store.url) + b"/" + os.path.relpath(path, self._root)

    def ready(self, pieces: Iterable[Piece]) -> None:
        blocks = {}
        for path, offset, length in pieces:
            if os.path.islink(path):
                stop = self.size(path) if length is None else offset + length
                blocks |= dict.fromkeys((path, number) for number in range(offset // BLOCK, -(-stop // BLOCK)))
        missing = [one for one in blocks if not self.cache.has(_entry(*one))]
        if len(missing) == 1:
            self.block(*missing[0]).close()
        elif missing:
            with ThreadPoolExecutor(PARALLEL) as pool:
                for file in pool.map(lambda one: self.block(*one), missing):
                    file.close()

    def block(self, path: bytes, number: int) -> BinaryIO:
        """A block of an object: the cache's file, or what was just fetched.  Raises StoreError."""
        key, size = _linked(path)
        start, stop = number * BLOCK, min(size, (number + 1) * BLOCK)

        def get() -> bytes:
            name = os.fsdecode(os.path.relpath(path, self._root))
            data, now = self.store.read(name, start, stop)
            if _key(self.store, now) != key or len(data) != stop - start:
                raise StoreError(f"{self.store.url}/{name}: the object in bucket {self.store.bucket} has changed since the run "
                                 f"began ({now.size:,} bytes now, {size:,} then): restore it and resume, or start another run")
            return data

        found = self.cache.fetch(_entry(path, number), stop - start, get)
        return io.BytesIO(found) if isinstance(found, bytes) else found


class Ahead:
    """Fetches what a later step needs while others are computed, in one thread of its process.  steps: how much later"""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._pool: ThreadPoolExecutor | None = None
        self._last: Future | None = None

    def fetch(self, split: Fetched, indices: Tensor) -> None:
        """Begin, unless the last one still runs. A store's failure is left to the step itself."""
        if self._last is None or self._last.done():
            self._pool = self._pool or ThreadPoolExecutor(1)
            self._last = self._pool.submit(split.ready, indices)


class Fetched(Protocol):
    def ready(self, indices: Tensor) -> None: ...


class _Blocks(io.RawIOBase):
    """An object as a file; of its blocks one is open.  ahead: missing blocks that are fetched at once"""

    def __init__(self, mirror: Mirror, path: bytes, ahead: int) -> None:
        self.mirror, self.path, self.ahead, self.size, self.at = mirror, path, ahead, mirror.size(path), 0
        self.number, self.file = -1, io.BytesIO()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer) -> int:
        if self.at >= self.size:
            return 0
        number, start = divmod(self.at, BLOCK)
        if number != self.number:
            if self.ahead > 1 and number % self.ahead == 0:
                self.mirror.ready([Piece(self.path, self.at - start, min(self.ahead * BLOCK, self.size - self.at + start))])
            self.file.close()
            self.file, self.number = self.mirror.block(self.path, number), number
        self.file.seek(start)
        count = self.file.readinto(buffer)
        self.at += count
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


def mirror(url: str, settings: StoreSettings, wanted: Callable[[str], bool] = lambda name: False) -> Mirror:
    """The folder at `url` as it is now.  wanted: of an object's name, whether the file itself is needed, as a table is.

    Processes of a machine share the symlinks. Raises ValueError for a wrong URL, StoreError where the store fails.
    """
    store = Store(url, settings.retry_minutes)
    cache = DiskCache(int(settings.cache * 1e9))
    if not (objects := store.list()):
        raise StoreError(f"data.root={store.url}: bucket {store.bucket} has no object below this prefix; give the folder that "
                         "holds the files", 2)
    digest = hashlib.sha256("\n".join(f"{one.name}\0{_key(store, one)}" for one in objects).encode("utf-8", "surrogateescape"))
    root = cache_folder("mirrors") / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', store.url)[:100]}-{digest.hexdigest()[:12]}"
    folders = {one.name[:at] for one in objects for at, letter in enumerate(one.name) if letter == "/"}
    usable = [one for one in objects if _usable(one.name) and one.name not in folders]  # an empty "cat/" stands for a folder
    strange = sum(one.size > 0 for one in objects) - sum(one.size > 0 for one in usable)
    notes = [f"{store.url}: {strange:,} objects have names that no file can have, and are left out"]
    with cache.writing():
        if not root.is_dir():
            _link(root, store, usable)
        found = Mirror(root, store, cache, notes if strange else [])
        for one in usable:
            if wanted(one.name) and (root / one.name).is_symlink():
                _materialize(found, root / one.name)
    return found


def _link(root: Path, store: Store, objects: list[Stored]) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=root.parent, suffix=".tmp"))
    for one in objects:
        path = beside / one.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(f"{_key(store, one)}-{one.size}")
    try:
        beside.rename(root)
    except OSError:  # another process was faster
        shutil.rmtree(beside)
        if not root.is_dir():
            raise


def _materialize(found: Mirror, link: Path) -> None:
    path = os.fsencode(link)
    with (
        found.open(path, sequential=True) as file,
        tempfile.NamedTemporaryFile(dir=link.parent, prefix=".", suffix=".tmp", delete=False) as copy,
    ):
        shutil.copyfileobj(file, copy, 1 << 20)
    with contextlib.suppress(FileNotFoundError):
        os.replace(copy.name, link)


def _usable(name: str) -> bool:
    parts = name.split("/")
    return all(part not in ("", ".", "..") and len(os.fsencode(part)) < 256 and "\0" not in part for part in parts)


def _key(store: Store, one: Stored) -> str:
    """What the object is: 32 hexadecimal digits."""
    text = f"{store.url}/{one.name}\0{one.version}\0{one.size}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _linked(path: bytes) -> tuple[str, int]:
    """(key, size) of the object that a symlink stands for."""
    key, _, size = os.readlink(path).decode().partition("-")
    return key, int(size)


def _entry(path: bytes, number: int) -> str:
    return f"{os.readlink(path).decode()}.{number}"
