"""The rows of a dense evaluation as text: on a terminal, and the cells of the report's tables."""
import textwrap
from collections.abc import Sequence

from core.image_size import size_text
from core.page import Table
from linear_eval.dense.metrics import Figure
from linear_eval.dense.results import DenseEvaluation, DenseRow
from linear_eval.tables import WIDTH, aligned, figure, setting

TITLES = {"dense_knn": "retrieval", "dense_linear": "linear", "constant": "constant"}
HEAD = ("source", "method", "mIoU", "95 % interval", "per image", "Dice", "pixels", "boundary F", "validation", "settings")
NUMBERS = slice(2, 9)  # columns of HEAD that are figures
FURTHER = ("patches", "images", "selected on", "note")  # columns of the report alone


def cells(row: DenseRow, encoder: str) -> list[str]:
    """In HEAD's columns."""
    f = row.figures
    return [
        encoder if row.is_encoders else row.source, TITLES[row.method], figure(f.miou.value), interval(f.miou),
        *(figure(one.value) for one in (f.image_miou, f.dice, f.pixel_accuracy, f.boundary_f)), figure(row.validation),
        ", ".join(f"{name} {setting(value)}" for name, value in row.chosen.items()),
    ]


def interval(one: Figure) -> str:
    return "–" if one.interval is None else f"{one.interval[0]:.1f} … {one.interval[1]:.1f}"


def title(evaluation: DenseEvaluation) -> str:
    return f"Dense features of {evaluation.encoder.name} on {evaluation.data.name}"


def facts(evaluation: DenseEvaluation) -> str:
    """Which encoder, data and protocol, in a line."""
    e, d, (h, w) = evaluation.encoder, evaluation.data, evaluation.grid
    changed = ", ".join(f"{name} {setting(value)}" for name, value in evaluation.protocol_changes.items())
    ignored = evaluation.rows[0].figures.ignored
    return (
        f"{e.source} ({e.parameters / 1e6:.2f} M parameters, {h} × {w} patches of {size_text(e.image_size)} px); "
        f"{d.train:,} training, {d.validation:,} validation, {d.test:,} test images"
        f"{f', {ignored:,} of them without a label' if ignored else ''}, {len(d.classes)} classes; "
        f"protocol {evaluation.protocol}{f', changed: {changed}' if changed else ''}"
    )


def ahead(rows: Sequence[DenseRow]) -> str:
    """A sentence that names what beats the encoder by the same method, or predicts one class and beats its best."""
    own = {row.method: row for row in rows if row.is_encoders}
    best = max(own.values(), key=lambda row: row.miou)
    better = [
        f"{row.source} by {TITLES[row.method]} ({row.miou:.1f}, it {own.get(row.method, best).miou:.1f})"
        for row in rows if not row.is_encoders and row.miou > own.get(row.method, best).miou
    ]
    return f"Ahead of the encoder: {'; '.join(better)}." if better else "Nothing it was compared with is ahead of the encoder."


def text_table(evaluation: DenseEvaluation) -> str:
    rows = [list(HEAD), *(cells(row, evaluation.encoder.name) for row in evaluation.rows)]
    lines = aligned(rows, range(len(HEAD))[NUMBERS])
    about = textwrap.wrap(f"{title(evaluation)}: {facts(evaluation)}", WIDTH)
    rule = "─" * max(map(len, lines))
    return "\n".join([*about, "", lines[0], rule, *lines[1:], "", *textwrap.wrap(ahead(evaluation.rows), WIDTH)])


def report_table(evaluation: DenseEvaluation) -> Table:
    rows = [
        [*cells(row, evaluation.encoder.name), f"{row.patches:,}" if row.patches else "–", f"{row.train_images:,}",
         row.selected_on, row.note]
        for row in evaluation.rows
    ]
    own = frozenset(i for i, row in enumerate(evaluation.rows) if row.is_encoders)
    return Table([*HEAD, *FURTHER], rows, NUMBERS, strong=own)


def class_table(row: DenseRow) -> Table:
    """IoU and more of every class, by one row."""
    columns = ["class", "IoU", "Dice", "precision", "recall", "test images", "share of pixels"]
    rows = [
        [c.name, *map(figure, (c.iou, c.dice, c.precision, c.recall)), f"{c.images:,}", f"{c.share:.1f} %"] for c in row.classes
    ]
    return Table(columns, rows, slice(1, None))
