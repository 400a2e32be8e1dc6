"""Contents of .cls members → classes: numbers, or names. One that is neither costs its own image's label."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vision.listing import class_name
from vision.shard_index import LONGEST_LABEL, UNKNOWN
from vision.text import read_lines

_FRACTION = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+)([eE][+-]?\d+)?")


class NoLabel(ValueError):
    """This image has no usable label; the text is a short reason."""


@dataclass(frozen=True)
class Labels:
    """What train's .cls members mean.  names: of the classes; number_of: what a .cls holds → its class."""

    names: tuple[str, ...]
    number_of: dict[int | str, int]
    numeric: bool

    def of(self, text: bytes) -> int:
        """The class, or UNKNOWN where train has none of that name or number.  Raises NoLabel."""
        value = parse(text)
        if value == UNKNOWN:
            return UNKNOWN
        if isinstance(value, int) and not self.numeric and str(value) in self.number_of:
            value = str(value)
        if isinstance(value, int) != self.numeric:
            raise NoLabel(f".cls is {'a name' if self.numeric else 'a number'} ({value}), the others' are "
                          f"{'numbers' if self.numeric else 'names'}")
        return self.number_of.get(value, UNKNOWN)


def parse(text: bytes) -> int | str:
    """The content of one .cls: a number from 0 on, UNKNOWN for -1, or a name in Unicode's NFC.  Raises NoLabel."""
    if len(text) > LONGEST_LABEL:
        raise NoLabel(f".cls is longer than {LONGEST_LABEL} bytes")
    try:
        content = text.decode("utf-8-sig").strip("\0 \t\r\n")
    except UnicodeDecodeError:
        raise NoLabel(".cls is no UTF-8 text") from None
    if not content:
        raise NoLabel(".cls is empty")
    if len(content.splitlines()) > 1:
        raise NoLabel(".cls has several lines")
    if not _FRACTION.fullmatch(content):
        return class_name(content)
    try:
        value = int(content)
    except ValueError:
        if not float(content).is_integer():  # 3.0 is a number of a class, 3.5 is none
            raise NoLabel(f".cls is {content[:20]}, a fraction") from None
        value = int(float(content))
    if value != UNKNOWN and not 0 <= value < 2**63:
        raise NoLabel(f".cls is {content[:20]}; classes are numbered from 0")
    return value


def of_train(texts: Sequence[bytes], counts: Sequence[int], root: Path, max_corrupt: float) -> Labels | None:
    """What the .cls members of train mean, `counts[i]` of them being `texts[i]`; None where none can be used.

    Numbers are named by the lines of classes.txt where root has one; names are sorted, or in the order of its lines. Where
    a share of at most `max_corrupt` is of the other kind, or of no line of classes.txt, it alone has no label.  Raises
    ValueError where the share is larger.
    """
    weight: dict[int | str, int] = {}
    for text, count in zip(texts, counts, strict=True):
        try:
            value = parse(text)
        except NoLabel:
            continue
        if value == UNKNOWN:
            continue
        weight[value] = weight.get(value, 0) + int(count)
    path = root / "classes.txt"
    lines = [class_name(line.strip()) for line in read_lines(path)] if path.is_file() else []
    if {str(value) for value in weight} <= {*lines}:  # names that are digits, beside letters
        weight = {str(value): n for value, n in weight.items()} if any(isinstance(value, str) for value in weight) else weight
    of_kind = {kind: {value: n for value, n in weight.items() if isinstance(value, kind)} for kind in (int, str)}
    numbers, names = (sum(of_kind[kind].values()) for kind in (int, str))
    if not numbers + names:
        return None
    if min(numbers, names) > max_corrupt * (numbers + names):
        number, word = (next(iter(of_kind[kind])) for kind in (int, str))
        raise ValueError(f"data.root={root}: .cls is a number for {numbers} images ({number}, …) and a name for {names} "
                         f"({word}, …); write one kind, name every class in classes.txt, or set data.labels=none")
    numeric = numbers >= names
    values = of_kind[int if numeric else str]

    if not lines:
        present = sorted(values)
        return Labels(tuple(map(str, present)), {value: k for k, value in enumerate(present)}, numeric)
    place = {value: value for value in range(len(lines))} if numeric else {line: k for k, line in enumerate(lines)}
    strange = {value: n for value, n in values.items() if value not in place}
    if strange and (len(strange) == len(values) or sum(strange.values()) > max_corrupt * (numbers + names)):
        about = f"up to {max(strange)}" if numeric else f"such as {next(iter(strange))}"
        raise ValueError(f"{path} names {len(lines)} classes, and there are labels {about} that it does not name; add their "
                         f"lines, or set data.labels=none")
    present = sorted(values.keys() - strange.keys(), key=place.__getitem__)
    return Labels(tuple(lines[place[value]] for value in present), {value: k for k, value in enumerate(present)}, numeric)


def classes_of(texts: Sequence[bytes], labels: Labels) -> tuple[np.ndarray, dict[int, str]]:
    """Of each text its class or UNKNOWN; and row of a text → why it is no label."""
    class_of, wrong = np.full(len(texts) + 1, UNKNOWN, np.int64), {}  # the last for images without .cls, whose row is -1
    for row, text in enumerate(texts):
        try:
            class_of[row] = labels.of(text)
        except NoLabel as error:
            wrong[row] = str(error)
    return class_of, wrong
