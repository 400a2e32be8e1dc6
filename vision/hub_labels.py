"""A column of a Hugging Face table → the class of each row, as a name; what is no class, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vision.listing import class_name


@dataclass
class Values:
    """rows: of each row the name of its class, or None; classes: all of them, in order; wrong: row → why it has no label.

    A row that is empty (null, "", NaN, −1 of a ClassLabel) is None and not in `wrong`.
    """

    rows: list[str | None]
    classes: tuple[str, ...]
    wrong: dict[int, str] = field(default_factory=dict)


def of_table(table: Any, column: str, root: str, max_corrupt: float) -> Values:
    """The labels in a column of a datasets.Dataset. Names are in Unicode's NFC.

    A ClassLabel has all its names as classes, in its order; of other kinds the values that are there, sorted: integers,
    whole floats and booleans by value, texts by code point.  Raises ValueError where a share of more than `max_corrupt`
    of the values are fractions, or the kind of column holds no classes.
    """
    import pyarrow as pa
    from datasets import ClassLabel

    array = table.select_columns([column]).with_format("arrow")[:].column(column)
    kind, values = array.type, array.to_pylist()
    if isinstance(table.features[column], ClassLabel):
        return _numbered(values, table.features[column].names)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _whole(values, column, root, max_corrupt)
    if pa.types.is_nested(kind):
        raise ValueError(f"data.root={root}: column {column!r} holds {kind}, which are no classes; set data.labels=none")
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return _sorted(values)
    return _sorted([_text(value) for value in values])


def _numbered(values: list[int | None], names: list[str]) -> Values:
    classes = [class_name(name) for name in names]
    inside = [value is not None and 0 <= value < len(classes) for value in values]
    wrong = {row: f"label {value}, and there are {len(classes)} names" for row, value in enumerate(values)
             if not inside[row] and value not in (None, -1)}
    rows = [classes[value] if good else None for value, good in zip(values, inside, strict=True)]
    return Values(rows, tuple(dict.fromkeys(classes)), wrong)


def _whole(values: list[Any], column: str, root: str, max_corrupt: float) -> Values:
    """Floats that stand for integers."""
    there = [None if value is None or value != value else float(value) for value in values]  # NaN is unequal to itself
    wrong = {row: f"label {value:g}, a fraction" for row, value in enumerate(there)
             if value is not None and not value.is_integer()}  # nor is infinity
    if len(wrong) > max_corrupt * sum(value is not None for value in there):
        first = next(iter(wrong.values())).split()[1].rstrip(",")
        raise ValueError(f"data.root={root}: column {column!r} holds fractions such as {first}, which are no classes; set "
                         f"data.labels=none to take the images unlabelled")
    whole = _sorted([None if value is None or row in wrong else int(value) for row, value in enumerate(there)])
    whole.wrong = wrong
    return whole


def _sorted(values: list[Any]) -> Values:
    """Of plain values, which are named as they print."""
    name = {value: str(value) for value in sorted({value for value in values if value is not None})}
    return Values([name.get(value) for value in values], tuple(name.values()))


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    text = class_name(str(value)) if value is not None else ""
    return text if text.strip() else None
