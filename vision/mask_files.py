"""Mask files → the class of each pixel: palette and gray PNG by value, RGB by a table of colors."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vision.decode import Unreadable, identify, orientation_of, reason
from vision.listing import one_line
from vision.streamed import Files
from vision.text import read_lines

IGNORED = 255  # the label of pixels that neither train nor count
MASK_SUFFIXES = frozenset(b".png .bmp .tif .tiff .gif".split())
LOSSY = (b".jpg", b".jpeg")
MOST = 254  # classes
IGNORED_NAMES = ("ignored", "ignore", "void", "unlabeled", "unlabelled")  # in a table of classes
LOW_BITS = {"L;2": 85, "L;4": 17}  # how Pillow stretches gray of few bits; an index must stay what it is
SIDEWAYS = range(5, 9)  # EXIF orientations that exchange height and width


@dataclass(frozen=True)
class LabelMap:
    """What mask files hold → labels.  values, colors: value of a pixel, or red·65536 + green·256 + blue → label

    names: of the classes; None until masks show how many there are. shown: their colors, where a table has them.
    """

    values: dict[int, int] | None
    colors: dict[int, int] | None = None
    names: tuple[str, ...] | None = None
    shown: tuple[tuple[int, int, int], ...] | None = None
    _table: np.ndarray = field(init=False, repr=False, compare=False)  # 256 int16: value → label, −1: none

    def __post_init__(self):
        table = np.full(256, -1, np.int16)
        for value, label in (self.values or {}).items():
            table[value] = label
        object.__setattr__(self, "_table", table)

    @staticmethod
    def by_index(names: tuple[str, ...] | None, ignore: int | None) -> LabelMap:
        """Values are classes, from 0; `ignore` none."""
        count = 255 if names is None else len(names)
        return LabelMap({value: value for value in range(count)} | ({} if ignore is None else {ignore: IGNORED}), None, names)

    def read(self, file: BinaryIO) -> np.ndarray:
        """→ H,W uint8 labels.  Raises Unreadable."""
        try:
            image = identify(file)
            arguments = image.tile[0][3] if image.tile else ""
            raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments  # Pillow's raw mode
            image.load()
        except Unreadable:
            raise
        except Exception as error:  # a broken file makes Pillow raise nearly anything
            raise Unreadable(reason(error)) from error
        if image.mode in ("RGB", "RGBA"):
            return self._of_colors(np.asarray(image)[:, :, :3])
        if image.mode not in ("P", "L", "1", "I;16", "I"):
            raise Unreadable(f"a mask of Pillow's mode {image.mode}; save it as a palette, gray or RGB PNG")
        values = np.asarray(image).astype(np.int64) // LOW_BITS.get(raw, 1)
        if self.values is None:
            raise Unreadable("a mask of values, and data.classes has colors; give the classes' values there")
        beyond = (values < 0) | (values > 255)
        labels = np.where(beyond, np.int16(-1), self._table[np.where(beyond, 0, values)])
        if (wrong := labels < 0).any():
            found = int(values[wrong][0])
            raise Unreadable(f"label {found} in {int(wrong.sum()):,} pixels, which is no class; data.classes names "
                             f"{len(self.names or ())} of them, and data.ignore a value that is none")
        return labels.astype(np.uint8)

    def _of_colors(self, pixels: np.ndarray) -> np.ndarray:
        if self.colors is None:
            raise Unreadable("a mask of colors; data.classes=FILE.csv with the columns name, red, green, blue says which class "
                             "has which")
        codes = pixels.astype(np.int64) @ np.array([65536, 256, 1])
        found, place = np.unique(codes, return_inverse=True)
        labels = np.array([self.colors.get(int(code), -1) for code in found])
        if (labels < 0).any():
            code = int(found[labels < 0][0])
            raise Unreadable(f"the color {code >> 16},{code >> 8 & 255},{code & 255} in {int((codes == code).sum()):,} pixels, "
                             "which data.classes does not have")
        return labels[place.reshape(codes.shape)].astype(np.uint8)


class MaskFiles(Files):
    """Masks under one root, in the order of their images. It is the `Masks` of a `Segmentation`."""

    labels_of: LabelMap

    def fingerprint(self) -> str:
        """Of the files and of what their pixels mean."""
        return hashlib.sha256(f"{super().fingerprint()} {self.labels_of}".encode()).hexdigest()

    def __getitem__(self, index: int) -> np.ndarray:
        """H,W uint8.  Raises ValueError, which names the file."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            with self._open(int(self.rows[index])) as file:
                return self.labels_of.read(file)
        except OSError as error:
            raise ValueError(f"{self.where(index)}: {reason(error)}") from None
        except Unreadable as error:
            raise ValueError(f"{self.where(index)}: {error}") from None


def upright_size(file: BinaryIO) -> tuple[int, int]:
    """Height and width of an image as `decode` turns it, from its head alone.  Raises Unreadable."""
    try:
        image = identify(file)
        orientation = orientation_of(image)
        width, height = image.size
    except Unreadable:
        raise
    except Exception as error:
        raise Unreadable(reason(error)) from error
    return (width, height) if orientation in SIDEWAYS else (height, width)


def read_classes(path: Path, ignore: int | None) -> LabelMap:
    """A table of classes: CSV with a header (name, and value or red, green, blue), or YAML (a list of names, or a mapping of
    names to values or to [red, green, blue]).

    A class called ignored or void is none. Names alone are values from 0.  Raises ValueError, one line.
    """
    if not path.is_file():
        raise ValueError(f"data.classes={path}: there is no such file; the path is relative to data.root")
    rows = _rows_of_yaml(path) if path.suffix.lower() in (".yaml", ".yml") else _rows_of_csv(path)
    if not rows:
        raise ValueError(f"data.classes={path} names no class")
    if len({name for name, _ in rows}) < len(rows):
        twice = next(name for i, (name, _) in enumerate(rows) if name in {other for other, _ in rows[:i]})
        raise ValueError(f"data.classes={path} has {one_line(twice)!r} twice")
    kinds = {len(numbers) for _, numbers in rows}
    if len(kinds) > 1 or not kinds <= {0, 1, 3}:
        raise ValueError(f"data.classes={path}: every class needs one value, or red, green and blue, or all have none")
    names = tuple(name for name, _ in rows if name.lower() not in IGNORED_NAMES)
    if not 2 <= len(names) <= MOST:
        raise ValueError(f"data.classes={path} has {len(names)} classes; there must be 2 to {MOST}")
    if kinds == {0}:
        return LabelMap.by_index(names, ignore)
    label = {name: number for number, name in enumerate(names)}
    if any(not 0 <= number <= 255 for _, numbers in rows for number in numbers):
        raise ValueError(f"data.classes={path}: values and colors are numbers from 0 to 255")
    code = {name: sum(number << shift for number, shift in zip(numbers, (16, 8, 0) if len(numbers) == 3 else (0,), strict=True))
            for name, numbers in rows}
    if len(set(code.values())) < len(code):
        raise ValueError(f"data.classes={path} gives two classes the same {'color' if kinds == {3} else 'value'}")
    labels = {number: label.get(name, IGNORED) for name, number in code.items()}
    if kinds == {1}:
        return LabelMap(({} if ignore is None else {ignore: IGNORED}) | labels, None, names)
    shown = tuple((numbers[0], numbers[1], numbers[2]) for name, numbers in rows if name in label)
    return LabelMap(None, labels, names, shown)


def _rows_of_csv(path: Path) -> list[tuple[str, list[int]]]:
    lines = list(csv.reader(read_lines(path)))
    header = [cell.strip().lower() for cell in (lines or [[]])[0]]
    short = {"r": "red", "g": "green", "b": "blue", "index": "value", "id": "value", "class": "name"}
    header = [short.get(cell, cell) for cell in header]
    wanted = [column for column in ("red", "green", "blue") if column in header] or [c for c in ("value",) if c in header]
    if "name" not in header:
        raise ValueError(f"data.classes={path}: its first line must name the columns: name, and value or red, green, blue")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        cells = dict(zip(header, map(str.strip, line), strict=False))
        try:
            if any(line):
                rows.append((cells["name"], [int(cells[column]) for column in wanted]))
        except (KeyError, ValueError):
            raise ValueError(f"data.classes={path}, line {number}: {', '.join(['a name', *wanted])} are needed, as numbers "
                             "from 0 to 255") from None
    return rows


def _rows_of_yaml(path: Path) -> list[tuple[str, list[int]]]:
    import yaml

    try:
        found = yaml.safe_load("\n".join(read_lines(path)))
    except yaml.YAMLError as error:
        raise ValueError(f"data.classes={path} is no YAML: {' '.join(str(error).split())[:120]}") from None
    if isinstance(found, list):
        return [(str(name), []) for name in found]
    if not isinstance(found, dict):
        raise ValueError(f"data.classes={path}: it must be a list of names, or names with values or colors")
    rows = []
    for name, value in found.items():
        numbers = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
            raise ValueError(f"data.classes={path}: {name} has {value!r}; it must be a number, or [red, green, blue]")
        rows.append((str(name), numbers))
    return rows
