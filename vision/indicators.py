"""Tables with a column for each class that holds 0 or 1 for an image."""

from __future__ import annotations

from collections.abc import Sequence

from vision.listing import class_name, counted, one_line
from vision.multilabel import understood

ONE, ZERO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
FEWEST = 2  # columns of 0 and 1 that are taken for classes without being named


def indicator_columns(
    head: Sequence[str], rows: Sequence[Sequence[str]], others: Sequence[int], asked: str, source: str
) -> tuple[int, ...]:
    """The columns that hold 0, 1 or nothing in every line, and 0 or 1 in one; () where there are fewer than FEWEST.

    others: columns that hold neither path nor group; asked: their names by comma, "" for all that hold such values.
    Raises ValueError for a column that is asked for and holds others.
    """
    if asked:
        names = [name.strip() for name in asked.split(",")]
        if any(name not in head for name in names) or len(names) < FEWEST:
            return ()  # a single column, whose labels are read as ever, or an error there
        for name in names:
            if wrong := next((cell for cell in _cells(rows, head.index(name)) if not _is_indicator(cell)), None):
                raise ValueError(f"{source}: column {name} holds {one_line(wrong)[:40]}, and must hold 0 or 1 for its class")
        return tuple(head.index(name) for name in names)
    found = tuple(column for column in others if _holds_indicators(_cells(rows, column)))
    return found if len(found) >= FEWEST else ()


def read_indicators(
    head: Sequence[str], columns: Sequence[int], lines: dict[int, list[tuple[int, list[str]]]], source: str
) -> tuple[dict[int, tuple[str, ...]], tuple[str, ...], str]:
    """(image → its classes, the classes in the table's order, a note's part on what was understood).

    lines: image → its lines. An empty cell is 0; an image whose cells are all empty is unlabelled.  Raises ValueError for
    two lines of an image that differ.
    """
    names = tuple(class_name(head[column]) for column in columns)
    several: dict[int, tuple[str, ...]] = {}
    for image, some in lines.items():
        cells = [[one[column].strip().lower() if column < len(one) else "" for column in columns] for _, one in some]
        found = {tuple(name for name, cell in zip(names, row, strict=True) if cell in ONE) for row in cells if any(row)}
        if len(found) > 1:
            raise ValueError(f"{source}: lines {some[0][0]} and {some[1][0]} name one image and differ; keep one of them")
        if found:
            several[image] = found.pop()
    few = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return several, names, understood(several, f"{counted(len(names), 'column')} of 0 and 1: {few}")


def _cells(rows: Sequence[Sequence[str]], column: int) -> list[str]:
    return [cells[column].strip() if column < len(cells) else "" for cells in rows]


def _is_indicator(cell: str) -> bool:
    return cell.lower() in (*ONE, *ZERO, "")


def _holds_indicators(cells: list[str]) -> bool:
    return all(map(_is_indicator, cells)) and any(cells)
