"""The measures as lines of a terminal and as the report's sections, one a question."""
from collections.abc import Sequence

from core.page import Picture, Section, Table
from linear_eval import pictures
from linear_eval.report_data import ReportData
from linear_eval.results import ENCODER, Evaluation, Figure, Measure

QUESTIONS = {  # heading → the parts that answer it
    "Whole images": ("retrieval",),
    "Few labels": ("few_shot",),
    "Open set": ("open_set",),
    "Structure": ("clustering", "quality", "leakage"),
}
NEAR_DUPLICATES = "Near-duplicates by the encoder's features: test images, below each the training image nearest to it"


def measure_line(measure: Measure) -> str:
    """Of the terminal: the source, the part and its figures."""
    name = " ".join(filter(None, [measure.part.replace("_", " "), measure.variant]))
    figures = ", ".join(f"{one.name} {number(one)}" for one in measure.figures) or measure.note
    return f"{measure.source:<12}{name:<22}{figures}"


def number(figure: Figure) -> str:
    if figure.value is None:
        return "–"
    return digits(figure.value, figure.unit)


def digits(value: float, unit: str) -> str:
    """More of them just below 1, where similarities differ."""
    if 0.99 <= value < 1 and not unit:
        return f"{value:.4f}"
    return f"{value:.1f}" if unit or abs(value) >= 10 else f"{value:.2f}"


def measure_sections(evaluation: Evaluation, data: ReportData | None) -> list[Section]:
    """A section for each question that a part has answered."""
    sections: list[Section] = []
    for heading, parts in QUESTIONS.items():
        found = [[one for one in evaluation.measures if one.part == part] for part in parts]
        blocks: list = [block for some in found if some for block in part_blocks(some, evaluation.encoder.name)]
        if "leakage" in parts and data and data.near_duplicates:
            drawn = pictures.above_below(data.near_duplicates.test, data.near_duplicates.train)
            blocks.append(Picture("near_duplicates.png", drawn, NEAR_DUPLICATES))
        if blocks:
            sections.append((heading, blocks))
    return sections


def part_blocks(some: Sequence[Measure], encoder: str) -> list[str | Table]:
    """A table of one part's figures, a row a source and variant, and how they are to be read."""
    names = list(dict.fromkeys(figure.name for one in some for figure in one.figures))
    counts = list(dict.fromkeys(name for one in some for name in one.counts))
    varied = any(one.variant for one in some)
    rows = []
    for one in some:
        figures = {figure.name: figure for figure in one.figures}
        cells = [with_interval(figures[name]) if name in figures else "–" for name in names]
        source = encoder if one.source == ENCODER else one.source
        rows.append([source, *([one.variant] if varied else []), *cells, *(f"{one.counts[name]:,}" for name in counts)])
    own = frozenset(i for i, one in enumerate(some) if one.source == ENCODER)
    head = [some[0].part.replace("_", " "), *(["detector"] if varied else []), *names, *counts]
    notes = dict.fromkeys(one.note for one in some)
    percent = "In %. " if all(figure.unit for one in some for figure in one.figures) else ""
    lines = (f"{percent}{note[:1].upper()}{note[1:]}." for note in notes)
    return [Table(head, rows, slice(1 + varied, None), strong=own), *lines]


def with_interval(figure: Figure) -> str:
    if figure.interval is None:
        return number(figure)
    low, high = figure.interval
    return f"{number(figure)} ({digits(low, figure.unit)} … {digits(high, figure.unit)})"
