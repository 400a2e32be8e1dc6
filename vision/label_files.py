"""Labels that people keep in files beside their images → a class of each image: CSV here, boxes in vision/box_labels.py.

An image is found by its path relative to data.root, with or without suffix; else by its file name alone, with or without
suffix, where only one image has it.
"""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vision.indicators import indicator_columns, read_indicators
from vision.listing import class_name, counted, one_line
from vision.multilabel import is_meant, understood
from vision.raster import SUFFIXES
from vision.text import read_lines

VOC = "voc"  # a value of data.labels: an XML file for each image
TABLES = (".csv", ".tsv")
COCO = ".json"
PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "image_name",
         "image_id", "id")
LABELS = ("label", "labels", "class", "class_name", "category", "target", "diagnosis")
SEVERAL = ";"  # between the labels of an image that has several; "|" too, where it is usual in the file


@dataclass
class GivenLabels:
    """What files say of the images of a data set, which are known by their numbers."""

    source: str  # the setting, as in data.labels=labels.csv
    classes: dict[int, str] = field(default_factory=dict)  # image → its class; the first of several
    several: dict[int, tuple[str, ...]] | None = None  # image → its classes, where it may have several; None: it has one
    order: tuple[str, ...] = ()  # of the classes, where the file has one
    groups: dict[int, str] | None = None  # image → its group; None where the files have no such column
    columns: tuple[str, ...] = ()  # of a table with a header
    notes: list[str] = field(default_factory=list)
    used: Counter = field(default_factory=Counter)  # files below data.root that were read, by suffix


@dataclass(frozen=True)
class LabelFile:
    """A data.labels that names a file.  column: of a table, the one with the labels; "" where it is found by its name."""

    path: Path
    column: str = ""

    @property
    def is_table(self) -> bool:
        return self.path.suffix.lower() in TABLES


def is_given(labels: str) -> bool:
    """Does data.labels name files that hold the labels?"""
    return labels == VOC or _pattern(labels) is not None


def label_file(labels: str, root: Path) -> LabelFile:
    """The file that data.labels names, relative to root.  Raises ValueError where there is none."""
    match = _pattern(labels)
    assert match is not None, labels
    path = root / Path(match["file"]).expanduser()
    if not path.is_file():
        here = Path(match["file"])
        hint = f"; there is one at {here.absolute()}, give that path" if here.is_file() else ""
        raise ValueError(f"data.labels={labels}: there is no file {path}; the path is relative to data.root{hint}")
    return LabelFile(path, match["column"] or "")


def names_labels(labels: str, path: str) -> bool:
    """Does data.labels name the file of this path, relative to root?"""
    if labels == VOC:
        return path.lower().endswith(".xml")
    match = _pattern(labels)
    return match is not None and os.path.normpath(match["file"]) == path


def _pattern(labels: str) -> re.Match[str] | None:
    return re.fullmatch(r"(?P<file>.+\.(csv|tsv|json))(:(?P<column>.+))?", labels, re.IGNORECASE | re.DOTALL)


class PathIndex:
    """Images by the ways in which people write their paths.  paths: of all images, relative to root."""

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        self.root, self.paths = root.absolute(), [plain_path(path) for path in paths]
        self.exact = {path: image for image, path in enumerate(self.paths)}
        self.loose: dict[str, int] = {}
        for image, path in enumerate(self.paths):
            name = path.rpartition("/")[2]
            for key in {_without_suffix(path), name, _without_suffix(name)} - {path}:
                self.loose[key] = -1 if key in self.loose else image  # −1: several images

    def find(self, written: str) -> int | None:
        """The image that a path means; None where there is none, or several."""
        path = plain_path(written)
        if path.startswith("/"):
            path = path.removeprefix(plain_path(str(self.root)) + "/")
        if path in self.exact:
            return self.exact[path]
        found = self.loose.get(path, self.loose.get(path.rpartition("/")[2], -1) if path.startswith("/") else -1)
        return None if found < 0 else found


def plain_path(path: str) -> str:
    """In Unicode's NFC, with slashes, and without "./" at its begin."""
    path = unicodedata.normalize("NFC", path.strip()).replace("\\", "/")
    return re.sub(r"/+", "/", re.sub(r"^(\./)+", "", path))


def _without_suffix(path: str) -> str:
    """Only a known suffix goes: patient.3 is a name."""
    stem, end = os.path.splitext(path)
    return stem if end.lower().encode("utf-8", "surrogateescape") in SUFFIXES else path


# -------------------------------------------------------------------------------------------------------------------- CSV


@dataclass(frozen=True)
class Table:
    """A table's rows, and which column is what; group: None where no column is asked for or has that name."""

    rows: list[tuple[int, list[str]]]  # (line in the file, cells)
    header: tuple[str, ...]
    path: int
    label: int
    group: int | None
    indicators: tuple[int, ...] = ()  # columns that hold 0 or 1 for a class each, in place of `label`


def read_table(
    file: LabelFile, labels: str, index: PathIndex, group: str | None, multilabel: str = "false"
) -> GivenLabels:
    """The labels, and the groups where a column is called `group`, of a CSV (or TSV) with path and label.

    A first line without an image's path is a header; the columns are then found by name (PATHS, LABELS, or the one that
    `file` names), or are the first and second of two. Comma, semicolon and tab are read as delimiters. Lines with an empty
    label leave an image unlabelled.

    multilabel: "true", an image may have several labels, as "cat;dog" or "cat|dog" in a cell, or in several lines, or as a
    column of 0 and 1 for each class; "auto", so it is where more than USUAL of the labelled images have several, or the
    table has such columns and no label; "false", one label an image.  Raises ValueError for columns that cannot be told,
    several labels of an image that has one, and a table that names no image.
    """
    given = GivenLabels(f"data.labels={labels}")
    table = _table(file, given.source, index, group, multilabel)
    given.columns = table.header
    given.groups = {} if table.group is not None else None
    lines: dict[int, list[tuple[int, list[str]]]] = {}  # image → its lines
    strange: list[str] = []
    for line, cells in table.rows:
        written = _cell(cells, table.path)
        image = index.find(written)
        if image is None:
            strange.append(f"line {line}, {one_line(written)[:80]}")
            continue
        lines.setdefault(image, []).append((line, cells))
        name = "" if table.group is None else class_name(_cell(cells, table.group))
        if name and given.groups is not None and given.groups.setdefault(image, name) != name:
            raise ValueError(f"{given.source} gives {one_line(index.paths[image])} two groups in column {group}: "
                             f"{given.groups[image]} and {name} (line {line}); keep one of them")
    if not lines:
        there = f"an image there: {index.paths[0]}" if index.paths else "there is no image"
        raise ValueError(f"{given.source}: none of its {counted(len(table.rows), 'line')} names an image below {index.root} "
                         f"(first: {strange[0] if strange else 'no line'}; {there}); paths are relative to data.root")
    if table.indicators:
        given.several, given.order, note = read_indicators(table.header, table.indicators, lines, given.source)
        given.notes.append(note)
    else:
        _use_labels(given, table, lines, file, index, multilabel)
    if strange:
        given.notes.append(f"{counted(len(strange), 'line')} of it {_verb(strange, 'names', 'name')} no image, or several "
                           f"(first: {strange[0]})")
    return given


def _use_labels(
    given: GivenLabels, table: Table, lines: dict[int, list[tuple[int, list[str]]]], file: LabelFile, index: PathIndex,
    multilabel: str,
) -> None:
    """The labels of a column, one or several an image."""
    found = {image: [(line, class_name(_cell(cells, table.label))) for line, cells in some] for image, some in lines.items()}
    parts = {image: _parts([label for _, label in some]) for image, some in found.items()}
    parts = {image: some for image, some in parts.items() if some}
    many = sum(len(some) > 1 for some in parts.values())
    if multilabel == "true" or (multilabel == "auto" and is_meant(many, len(parts))):
        given.several = parts
        marks = [mark for mark in (SEVERAL, "|") if any(mark in label for some in found.values() for _, label in some)]
        ways = [f"separated by {' or '.join(marks)}"] if marks else []
        ways += ["in several lines"] if any(len(some) > 1 for some in lines.values()) else []
        column = f"of column {table.header[table.label]}" if table.header else "of the second column"
        given.notes.append(understood(parts, " ".join([column, " and ".join(ways)]).strip()))
        return
    several: list[str] = []
    for line, image, label in sorted((line, image, label) for image, some in found.items() for line, label in some):
        several += [f"line {line}, {label}"] if SEVERAL in label.strip(SEVERAL) else []
        first, label = found[image][0], label.strip(SEVERAL)
        if first[0] != line and first[1].strip(SEVERAL) != label:
            raise ValueError(f"{given.source} gives {one_line(index.paths[image])} two labels: {first[1] or 'none'} in line "
                             f"{first[0]}, {label or 'none'} in line {line}; keep one of them, or set data.multilabel=true")
        if label:
            given.classes[image] = label
    if several:
        raise ValueError(f"{given.source} gives {counted(len(several), 'image')} several labels (first: {several[0]}), and one "
                         f"label an image is used; keep one, name another column ({file.path.name}:COLUMN), or set "
                         f"data.multilabel=true")


def _parts(labels: list[str]) -> tuple[str, ...]:
    """The labels in these cells, each once."""
    return tuple(dict.fromkeys(part.strip() for label in labels for part in re.split(r"[;|]", label) if part.strip()))


def _table(file: LabelFile, source: str, index: PathIndex, group: str | None, multilabel: str) -> Table:
    lines = read_lines(file.path)
    first = next((line for line in lines if line.strip()), "")
    delimiter = next((mark for mark in "\t,;" if mark in first), ",")
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    try:
        rows = [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise ValueError(f"{source}: line {reader.line_num} is no CSV ({error})") from None
    if not rows:
        raise ValueError(f"{source} is empty; write a line for each image: its path, a comma, its label")
    head = tuple(cell.strip() for cell in rows[0][1])
    names_image = [_without_suffix(cell) != cell or index.find(cell) is not None for cell in head if cell.lower() not in PATHS]
    if any(names_image):
        if file.column:
            raise ValueError(f"{source}: without a header no column is called {file.column}; add a first line of names")
        if len(head) < 2:
            raise ValueError(f"{source}: line {rows[0][0]} has one column; write path and label, with a comma between them")
        return Table(rows, (), 0, 1, None)
    path, of_group = _column(head, PATHS, "", 0, source), head.index(group) if group in head else None
    if multilabel != "false" and not _names_label(head, file.column):
        others = [column for column in range(len(head)) if column not in (path, of_group)]
        if columns := indicator_columns(head, [cells for _, cells in rows[1:]], others, file.column, source):
            return Table(rows[1:], head, path, -1, of_group, columns)
    return Table(rows[1:], head, path, _column(head, LABELS, file.column, 1, source), of_group)


def _names_label(head: tuple[str, ...], asked: str) -> bool:
    """Is there a column with labels: the one asked for, or one of a usual name?"""
    return asked in head if asked else any(name.lower().replace(" ", "_") in LABELS for name in head)


def _column(head: tuple[str, ...], names: tuple[str, ...], asked: str, place: int, source: str) -> int:
    """The column that is asked for, or has one of the names, or, of two, is at its place."""
    lower = [name.lower().replace(" ", "_") for name in head]
    if asked:
        if asked in head:
            return head.index(asked)
        raise ValueError(f"{source}: no column is called {asked}; there are {', '.join(head)}")
    for name in names:
        if name in lower:
            return lower.index(name)
    if len(head) == 2:
        return place
    way = f"name the column by {source}:COLUMN" if place else f"call the one with the paths {names[0]}"
    raise ValueError(f"{source}: its columns are {', '.join(head)}, and none is called {names[0]}; {way}")


def _cell(cells: list[str], column: int) -> str:
    return cells[column].strip() if column < len(cells) else ""


# -------------------------------------------------------------------------------------------------------------- all kinds


def sorted_classes(labels: Iterable[str], source: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """(classes in order: numbers by value, names by code point; label as written → its class).

    Whole floats are the class of the integer, as "1.0" is 1.  Raises ValueError for fractions, a single class, and labels of
    which each occurs once.
    """
    counts = Counter(labels)
    numbers = {}
    for label in counts:
        try:
            numbers[label] = float(label)
        except ValueError:
            break
    if len(numbers) == len(counts):
        if fraction := next((label for label, value in numbers.items() if not value.is_integer()), None):
            raise ValueError(f"{source} holds fractions such as {fraction}, which are no classes; set data.labels=none")
        name_of = {label: str(int(value)) for label, value in numbers.items()}
        classes = tuple(sorted(set(name_of.values()), key=int))
    else:
        name_of = {label: label for label in counts}
        classes = tuple(sorted(counts))
    if len(classes) < 2:
        raise ValueError(f"{source} has a single class, {classes[0]}; label a second one, or set data.labels=none")
    if len(classes) == counts.total():
        raise ValueError(f"{source} gives each of {counts.total():,} images a label of its own (such as {classes[0]}), which "
                         f"are no classes; name the column that has them, or set data.labels=none")
    return classes, name_of


def _verb(those: Sequence, one: str, many: str) -> str:
    return one if len(those) == 1 else many
