"""Where the images of shards lie: one walk over the headers of tar files, kept in the user's cache until a shard changes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from core.errors import RunError
from core.home import cache_folder
from vision.access import LOCAL, Access
from vision.decode import SUFFIXES, reason
from vision.listing import kind_of, litter_of, printable
from vision.streamed import Progress

FORMAT = b"2"  # of what is kept of an index
# Of an index. Per image: `shard` (of the paths), `offset` and `size` in bytes, `label` (row of the texts or UNKNOWN), `dotted`
# (PLAIN, DOTTED, OWN_LABEL). `names` and `texts` are bytes end to end, `ends` and `text_ends` where each ends. `ignored`: JSON.
COLUMNS = ("shard", "offset", "size", "label", "dotted", "names", "ends", "texts", "text_ends", "ignored")
UNKNOWN = -1  # label of an image that has none
LONGEST_LABEL = 200  # bytes of a .cls that are kept, and one more where it is longer
PLAIN, DOTTED, OWN_LABEL = 0, 1, 2  # 0001.png; 0001.mask.png; photo.v2.png beside photo.v2.cls
_BLOCK = tarfile.BLOCKSIZE


def indexed(
    paths: list[bytes], progress: Progress | None, access: Access = LOCAL
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Where every image lies, from the cache where no shard has changed; and what could not be read of which shard.

    Processes of one machine wait for the one that reads.
    """
    from filelock import FileLock  # comes with torch

    try:
        folder = cache_folder("shards")
        kept = folder / f"{_cache_key(paths, access)}.npz"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(kept.with_suffix(".lock")):
            if (index := _kept(kept)) is not None:
                return index, {}
            index, broken = read_index(paths, progress, access)
            if not broken:
                with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as file:
                    np.savez(file, **index)
                os.replace(file.name, kept)
            return index, broken
    except RunError:  # of an object store
        raise
    except (OSError, RuntimeError):  # no place for a cache, no home folder: it is read anew each time
        return read_index(paths, progress, access)


def _cache_key(paths: list[bytes], access: Access) -> str:
    """Of the shards as they are now."""
    digest = hashlib.sha256(FORMAT)
    for path in paths:
        digest.update(access.stamp(path))
    return digest.hexdigest()[:24]


def _kept(path: Path) -> dict[str, np.ndarray] | None:
    """None where it is not there, or broken."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in COLUMNS}
    except Exception:  # whatever half a file makes numpy or zipfile raise
        return None


def label_texts(index: dict[str, np.ndarray]) -> list[bytes]:
    """The distinct contents of .cls members, which `label` numbers."""
    data, ends = index["texts"].tobytes(), index["text_ends"].tolist()
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def ignored_members(index: dict[str, np.ndarray]) -> Counter:
    return Counter(json.loads(index["ignored"].tobytes()))


# ---------------------------------------------------------------------------------------------------------------- reading


def read_index(
    paths: list[bytes], progress: Progress | None = None, access: Access = LOCAL
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """One walk over the headers of all shards.  → COLUMNS, and shard, or place in it → why it could not be read."""
    reader = _IndexReader(access)
    for number, path in enumerate(paths):
        reader.read_shard(number, path)
        if progress:
            progress(number + 1, len(paths))
    return reader.index(), reader.broken


class _IndexReader:
    """Collects the columns of an index, shard by shard."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.columns = {name: array("q") for name in ("shard", "offset", "size", "label", "dotted", "ends")}
        self.names, self.texts, self.ignored = bytearray(), {}, Counter()
        self.broken: dict[str, str] = {}

    def read_shard(self, number: int, path: bytes) -> None:
        labels: dict[str, int] = {}  # key of a sample → its row of `texts`
        keys: list[tuple[str, str]] = []  # of each image: with the dots of its name, and up to the first
        try:
            with self.access.open(path, sequential=True) as file:
                for member in _members(file, self.access.shown(path), keys, self.broken):
                    if member.isreg():
                        self._add(member, number, file, labels, keys)
        except OSError as error:
            self.broken[printable(self.access.shown(path))] = f"read up to its image {len(keys)}: {reason(error)}"
        for row, (long, short) in enumerate(keys, len(self.columns["label"])):
            self.columns["label"].append(labels.get(long, labels.get(short, UNKNOWN)))
            if self.columns["dotted"][row] == DOTTED and long in labels:
                self.columns["dotted"][row] = OWN_LABEL

    def _add(self, member: tarfile.TarInfo, number: int, file: BinaryIO, labels: dict[str, int], keys: list) -> None:
        """One member of shard `number`: an image, a label, or another file."""
        key, kind = split_name(member.name)
        end = b"." + _bytes(kind.rpartition(".")[2])
        if litter := litter_of(member.name):
            self.ignored[litter] += 1
        elif end == b".cls":
            file.seek(member.offset_data)
            text = file.read(min(member.size, LONGEST_LABEL + 1))
            labels[_long(member.name)] = self.texts.setdefault(text, len(self.texts))
        elif end in SUFFIXES:
            keys.append((_long(member.name), key))
            self.names += _bytes(member.name)
            row = {"ends": len(self.names), "dotted": DOTTED if "." in kind else PLAIN, "shard": number,
                   "offset": member.offset_data, "size": member.size}
            for name, value in row.items():
                self.columns[name].append(value)
        else:
            self.ignored[kind_of(_bytes(member.name))] += 1

    def index(self) -> dict[str, np.ndarray]:
        index = {name: np.frombuffer(column, np.int64) for name, column in self.columns.items()}
        ends = np.cumsum([len(text) for text in self.texts], dtype=np.int64)
        index |= {"shard": index["shard"].astype(np.int32), "dotted": index["dotted"].astype(np.int8), "text_ends": ends}
        blobs = {"names": self.names, "texts": b"".join(self.texts), "ignored": json.dumps(self.ignored).encode()}
        return index | {name: np.frombuffer(blob, np.uint8) for name, blob in blobs.items()}


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def split_name(name: str) -> tuple[str, str]:
    """A member's sample and its part of it, as WebDataset has them: up to the first dot of its last part, and the rest."""
    folder, slash, last = name.rpartition("/")
    stem, _, kind = last.partition(".")
    return f"{folder}{slash}{stem}", kind.lower()


def _long(name: str) -> str:
    """A member's name up to its last dot: the sample of one whose key has dots."""
    return name[: name.rindex(".")]


def _members(file: BinaryIO, path: bytes, keys: list, broken: dict[str, str]) -> Iterator[tarfile.TarInfo]:
    """Every member whose header can be read. A damaged header costs its member: the next valid one is looked for.

    keys: of the images so far, for the message about a shard that ends too soon.
    """
    start, shard = 0, printable(path)
    while True:
        end, why = start, None
        file.seek(start)
        try:
            for member in tarfile.TarFile(fileobj=file):
                end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                yield member
        except (tarfile.TarError, ValueError) as error:  # ValueError: numbers in extended headers that are none
            why = reason(error)
        file.seek(end)
        block = file.read(_BLOCK)
        if len(block) < _BLOCK:  # cut
            broken[shard] = f"read up to its image {len(keys)}: {why or 'no mark of its end'}"
            return
        if not any(block):
            if (more := _nonzero(file)) is not None:
                broken[f"{shard}, byte {end}"] = f"what follows the mark of its end was not read (from byte {more})"
            return
        if (start := _next_header(file)) is None:
            broken[shard] = f"read up to its image {len(keys)}: {why or 'damaged'} at byte {end}"
            return
        broken[f"{shard}, byte {end}"] = f"damaged up to byte {start}: members in between are lost"


def _next_header(file: BinaryIO) -> int | None:
    """Offset of the first valid header from the file's position on, which is a block's; None where there is none."""
    while len(block := file.read(_BLOCK)) == _BLOCK:
        checksum = re.fullmatch(rb" *([0-7]+)[\0 ]*", block[148:156])
        if block[257:262] == b"ustar" and checksum and int(checksum[1], 8) in tarfile.calc_chksums(block):
            return file.tell() - _BLOCK
    return None


def _nonzero(file: BinaryIO) -> int | None:
    """Offset of the first byte that is not zero from the file's position on: a whole archive is padded with zeros."""
    while block := file.read(1 << 16):
        if rest := block.lstrip(b"\0"):
            return file.tell() - len(rest)
    return None
