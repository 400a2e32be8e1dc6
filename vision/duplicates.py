"""Files that are in two splits, byte for byte: scores on them are too good."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from core.machine import cores
from vision.listing import counted
from vision.multilabel import equal
from vision.streamed import CHECK_SOME, Files

MOST = 100_000  # files that are read in part, at most, where all held-out ones are looked up
PIECE = 4_096  # bytes at three places that equal files must share before they are read whole


@dataclass(frozen=True)
class Copies:
    """Images of one split that another one has too.  example: of the names of such a pair"""

    split: str
    also_in: str
    count: int
    other_label: int  # of them, those with another class there
    example: tuple[str, str]


@dataclass
class _Candidates:
    """Files of one size, as (split, index)."""

    splits: set[str] = field(default_factory=set)
    files: list[tuple[str, int]] = field(default_factory=list)


def copies_across(splits: Mapping[str, Files]) -> list[Copies]:
    """Which files of a later split are in an earlier one too.  splits: in the order train, validation, test.

    Files of equal size are compared by SHA-256. Where more than MOST files have a size that another split has too, CHECK_SOME
    of each held-out split, spread evenly, are looked up in the others. Files that cannot be read are passed over.
    """
    return look_up(splits).copies


@dataclass(frozen=True)
class LookUp:
    """What was found, and of how many held-out files: `asked` of `held_out`."""

    copies: list[Copies]
    asked: int
    held_out: int

    @property
    def note(self) -> str:
        """A line on what was found, or on how many were looked up; "" where all were and none is there twice."""
        note = duplicates_note(self.copies)
        if self.asked == self.held_out:
            return note
        part = (f"of {self.held_out:,} held-out images {self.asked:,}, spread evenly, were looked up for equal files in other "
                "splits")
        return f"{note}; {part}" if note else f"{part}: none is there"


def look_up(splits: Mapping[str, Files]) -> LookUp:
    """`copies_across`, and how many files were looked up."""
    names = list(splits)
    sizes = {name: np.fromiter(split.sizes(), np.int64, len(split)) for name, split in splits.items()}
    asked = {name: np.arange(len(splits[name])) for name in names[1:]}
    alike = _of_equal_size(sizes, asked)
    if sum(map(len, alike)) > MOST:
        asked = {name: _spread(len(splits[name])) for name in asked}
        alike = _of_equal_size(sizes, asked)
    for digest in (_pieces, _whole):
        alike = _refined(alike, splits, digest)
    found: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    known = {name: set(indices.tolist()) for name, indices in asked.items()}
    for files in alike:
        first = dict(reversed(files))  # split → its first file
        for name, index in files:
            for earlier in names[: names.index(name)]:
                if earlier in first and index in known[name]:
                    found[name, earlier].append((index, first[earlier]))
    copies = [_copies(splits, one, other, sorted(pairs)) for (one, other), pairs in sorted(found.items(), reverse=True)]
    return LookUp(copies, sum(map(len, known.values())), sum(len(splits[name]) for name in asked))


def _of_equal_size(sizes: Mapping[str, np.ndarray], asked: Mapping[str, np.ndarray]) -> list[list[tuple[str, int]]]:
    """Sets of files of one size that are in two splits, one of them asked for."""
    wanted = np.unique(np.concatenate([sizes[name][some] for name, some in asked.items()] or [np.empty(0, np.int64)]))
    of_size: dict[int, _Candidates] = defaultdict(_Candidates)
    for name, all_sizes in sizes.items():
        for index in np.flatnonzero(np.isin(all_sizes, wanted[wanted > 0])).tolist():
            one = of_size[int(all_sizes[index])]
            one.splits.add(name)
            one.files.append((name, index))
    return [one.files for one in of_size.values() if len(one.splits) > 1]


def duplicates_note(copies: list[Copies]) -> str:
    """One line with counts, an example and the way out. "" where there are none."""
    if not copies:
        return ""
    parts = []
    for one in copies:
        labels = f", {one.other_label:,} of them with another label" if one.other_label else ""
        verb = "is" if one.count == 1 else "are"
        parts.append(f"{counted(one.count, 'image')} of {one.split} {verb} in {one.also_in} too{labels} (first: "
                     f"{one.example[0]} = {one.example[1]})")
    return f"equal files in two splits: {'; '.join(parts)}; scores on them are too good: remove the copies"


def _copies(splits: Mapping[str, Files], one: str, other: str, pairs: list[tuple[int, int]]) -> Copies:
    mine, theirs = splits[one], splits[other]
    differ = 0
    if mine.labels is not None and theirs.labels is not None:
        differ = sum(not equal(mine.labels[i], theirs.labels[j]) for i, j in pairs)
    i, j = pairs[0]
    return Copies(one, other, len(pairs), differ, (mine.name(i), theirs.name(j)))


def _refined(alike: list[list[tuple[str, int]]], splits: Mapping[str, Files], digest) -> list[list[tuple[str, int]]]:
    """Sets of files whose digest too is equal, where they are of two splits."""
    files = [one for some in alike for one in some]
    with ThreadPoolExecutor(min(8, cores())) as pool:
        digests = dict(zip(files, pool.map(lambda one: digest(splits[one[0]], one[1]), files), strict=True))
    finer = []
    for some in alike:
        by_digest = defaultdict(list)
        for one in some:
            by_digest[digests[one]].append(one)
        finer += [same for key, same in by_digest.items() if key and len({name for name, _ in same}) > 1]
    return finer


def _pieces(split: Files, index: int) -> bytes:
    try:
        with split.open(index) as file:
            size = file.seek(0, os.SEEK_END)
            digest = hashlib.sha256()
            for start in (0, size // 2, max(size - PIECE, 0)):
                file.seek(start)
                digest.update(file.read(PIECE))
            return digest.digest()
    except OSError:
        return b""


def _whole(split: Files, index: int) -> bytes:
    try:
        with split.open(index) as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b""


def _spread(count: int) -> np.ndarray:
    few = min(count, CHECK_SOME)
    return np.arange(few) * count // max(few, 1)
