"""A robustness run as text, and as report.md and report.html, one file that needs nothing else."""
from pathlib import Path

from core import checkpoint
from core.image_size import size_text
from core.page import Chart, Page, Section, Table, Tile, write_report
from linear_eval import provenance
from linear_eval.robustness.heat_map import heat_map
from linear_eval.robustness.results import Robustness, RobustnessRow
from linear_eval.rows import METHODS
from linear_eval.tables import aligned, figure, setting

QUESTIONS = {"Robustness": "robust", "By corruption": "by corruption", "Shift": "shift",
             "How it was measured": "how it was measured"}  # fmt: skip
HEAD = ("source", "method", "clean", "corrupted", "95 % interval", "drop", "relative drop, %", "mCE", "95 % interval",
        "settings")  # fmt: skip
FAMILIES = ("noise", "blur", "weather", "digital")


def write(folder: Path, result: Robustness) -> None:
    write_report(lambda name, content: checkpoint.write(folder / name, content), lambda: page(result))


def page(result: Robustness) -> Page:
    title = f"{result.encoder.name} on corrupted {result.data.name}"
    sections = [_overview(result), _by_corruption(result), *_shift(result), provenance.section(result)]
    return Page(title, facts(result), summary(result), sections, questions=QUESTIONS)


def facts(result: Robustness) -> str:
    e = result.encoder
    changed = ", ".join(f"{name} {setting(value)}" for name, value in result.protocol_changes.items())
    return (f"{e.source} ({e.parameters / 1e6:.2f} M parameters, {size_text(e.image_size)} px); {result.images:,} test images "
            f"of {len(result.data.classes)} classes, corrupted at {result.side} px with {result.constants} constants; "
            f"protocol {result.protocol}{f', changed: {changed}' if changed else ''}")


def summary(result: Robustness) -> list[Tile]:
    """The verdict in three numbers, of the encoder's head that is best on clean validation images."""
    row = result.best()
    same = next((one for one in result.rows if one.source == "untrained" and one.method == row.method), None)
    low, high = row.corrupted_interval
    tiles = [Tile("corrupted test images", f"{row.corrupted:.1f}", [f"{low:.1f} … {high:.1f}", f"clean {row.clean:.1f}"])]
    low, high = row.relative_drop_interval
    beside = [f"untrained {same.relative_drop:.1f}"] if same else []
    tiles.append(Tile("of the accuracy is lost", f"{row.relative_drop:.1f}", [f"{low:.1f} … {high:.1f}", *beside]))
    if row.mce is not None and row.mce_interval is not None:
        low, high = row.mce_interval
        tiles.append(Tile("mean corruption error", f"{row.mce:.1f}", [f"{low:.1f} … {high:.1f}", "100: the reference"]))
    return tiles


def cells(result: Robustness) -> list[list[str]]:
    """The rows as text, in HEAD's columns."""
    found = []
    for row in result.rows:
        low, high = row.corrupted_interval
        error = f"{row.mce_interval[0]:.1f} … {row.mce_interval[1]:.1f}" if row.mce_interval else "–"
        found.append([
            _name(result, row), METHODS[row.method], figure(row.clean), figure(row.corrupted), f"{low:.1f} … {high:.1f}",
            figure(row.drop), figure(row.relative_drop), figure(row.mce), error,
            ", ".join(f"{key} {setting(value)}" for key, value in row.chosen.items()),
        ])  # fmt: skip
    return found


def text_table(result: Robustness) -> str:
    """For a terminal: rows, without their settings."""
    lines = [line[:-1] for line in (list(HEAD), *cells(result))]
    if shifts := [row.shift for row in result.rows if row.shift]:
        lines[0].append(f"on {shifts[0].data}")
        for line, row in zip(lines[1:], result.rows, strict=True):
            line.append(figure(row.shift.accuracy) if row.shift else "–")
    return "\n".join(aligned(lines))


def _name(result: Robustness, row: RobustnessRow) -> str:
    return result.encoder.name if row.is_encoders else row.source


def _overview(result: Robustness) -> Section:
    own = frozenset(i for i, row in enumerate(result.rows) if row.is_encoders)
    return "Robustness", [
        Table(list(HEAD), cells(result), slice(2, 9), strong=own),
        f"Accuracies in % of test images; corrupted: the mean over {len(result.mean_over)} corruptions and five severities. "
        "drop: points below clean; relative drop: its share of clean. mCE, the mean corruption error (arXiv 1903.12261): "
        f"errors as a share of the reference's, here {result.reference}. Intervals: 95 %, bootstrap over images. Heads were "
        "fitted on clean training images and chosen on clean validation images. The images are not those of ImageNet-C's "
        "files: other random numbers, computed frost, no JPEG at the end.",
    ]


def _by_corruption(result: Robustness) -> Section:
    best = result.best()
    rivals = [row for row in result.rows if row is not best]
    head = ["corruption", "family", "error", "drop", "relative error"]
    head += [f"{_name(result, row)}, {row.method}: error" for row in rivals]
    order = sorted(range(len(best.corruptions)), key=lambda i: FAMILIES.index(best.corruptions[i].family))
    lines = []
    for i in order:
        score = best.corruptions[i]
        lines.append([
            score.corruption.replace("_", " ") + (" *" if score.extra else ""), score.family, figure(score.error),
            figure(score.drop), figure(score.corruption_error), *(figure(row.corruptions[i].error) for row in rivals),
        ])  # fmt: skip
    severities = [[lines[n][0], *(f"{a:.1f} ({low:.1f} … {high:.1f})" for a, (low, high) in
                                  zip(best.corruptions[i].accuracies, best.corruptions[i].intervals, strict=True))]
                  for n, i in enumerate(order)]
    about = f"Accuracy in % by severity: {_name(result, best)}, {METHODS[best.method]}. * none of those that means are over"
    return "By corruption", [
        Chart("corruptions.svg", heat_map(best), about),
        Table(head, lines, slice(2, None)),
        "Errors in %, means over five severities; relative error: against the reference's.",
        Table(["corruption", *(f"severity {n}" for n in range(1, 6))], severities, slice(1, None),
              folded="Accuracies with 95 % intervals"),
    ]


def _shift(result: Robustness) -> list[Section]:
    shifted = [(row, row.shift) for row in result.rows if row.shift]
    if not shifted:
        return []
    lines = [[_name(result, row), METHODS[row.method], figure(row.clean), figure(shift.accuracy),
              f"{shift.interval[0]:.1f} … {shift.interval[1]:.1f}", figure(shift.drop)] for row, shift in shifted]
    first = shifted[0][1]
    head = ["source", "method", result.data.name, first.data, "95 % interval", "drop"]
    about = f"The same heads on {first.images:,} test images of {first.data}; nothing was fitted or chosen on it."
    return [("Shift", [Table(head, lines, slice(2, None)), about])]
