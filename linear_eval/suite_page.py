"""The table of a suite: every data set by its own metric."""
from collections.abc import Sequence

from core.page import Table, markdown_block, plain
from linear_eval.results import Evaluation, MultilabelRow, Row
from linear_eval.rows import METHODS, in_order
from linear_eval.suites import MAP, MAP11, PER_CLASS, TOP1, Suite
from linear_eval.tables import figure

SOURCES = ("encoder", "untrained", "raw pixels")  # of the table's columns


def score_by(row: Row, metric: str) -> float | None:
    """A row's figure in %; None where its labels have no such figure."""
    if isinstance(row, MultilabelRow):
        return {MAP: row.mean_average_precision, MAP11: row.eleven_point_map}.get(metric)
    return {TOP1: row.accuracy, PER_CLASS: row.balanced_accuracy}.get(metric)


def suite_page(suite: Suite, root: str | None, evaluations: Sequence[Evaluation]) -> str:
    """Markdown: each set by its own metric, the mean over those that are there, and what is not, with the reason.

    evaluations: of `suite.present(root)`, in its order.
    """
    present = suite.present(root)
    metrics = {one.name: one.metric for one in suite.sets}
    scores = {
        its.name: {(row.source, row.method): score_by(row, its.metric) for row in one.rows if row.labels == 1}
        for its, one in zip(present, evaluations, strict=True)
    }
    found = {column for by in scores.values() for column in by if column[0] in SOURCES}
    methods = in_order(list(METHODS), [method for _, method in found])
    columns = [(source, method) for source in SOURCES for method in methods if (source, method) in found]
    head = ["data", "metric", *(f"{'' if source == 'encoder' else source + ': '}{METHODS.get(method, method)}"
                                for source, method in columns)]
    body = [[name, metrics[name], *(figure(by.get(column)) for column in columns)] for name, by in scores.items()]
    means = [_mean([by.get(column) for by in scores.values()]) for column in columns]
    body.append([f"mean of {len(scores)}", "", *map(figure, means)])
    encoders = ", ".join(dict.fromkeys(f"{one.encoder.name} ({one.encoder.source})" for one in evaluations))
    protocol = evaluations[0].protocol
    parts = [f"{plain(suite.about)}: test figures in %, all labels, of {plain(encoders)}; protocol {protocol}.",
             markdown_block(Table(head, body, slice(2, None)))]
    gone = suite.absent(root) | suite.missing
    if gone:
        total = len(suite.sets) + len(suite.missing)
        parts.append(f"{len(scores)} of {total} data sets; the others are not part of the mean:")
        parts.append("\n".join(f"- {name}: {plain(why)}" for name, why in gone.items()))
    return "\n\n".join(parts) + "\n"


def _mean(values: Sequence[float | None]) -> float | None:
    """None where a set has no figure: a mean over others would be no mean of the suite."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
