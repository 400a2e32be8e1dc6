"""The sections of an evaluation's page where an image may have several labels."""
import numpy as np

from core.page import Chart, Picture, Section, Table
from linear_eval import pictures
from linear_eval.average_precision import average_precisions, f1_scores
from linear_eval.report_data import ReportData
from linear_eval.results import Evaluation, MultilabelRow, percent
from linear_eval.rows import baselines_ahead, best_on_validation, method_title, sorted_rows
from linear_eval.tables import figure, report_table

FOLDED = 30  # classes from which the table by class is folded away


def multilabel_overview(evaluation: Evaluation) -> Section:
    """All rows, and how they are to be read."""
    ahead, rows = baselines_ahead(evaluation.rows), sorted_rows(evaluation.rows)
    drawn = pictures.forest(rows, evaluation.encoder.name, "mean average precision")
    return "Mean average precision", [
        *([ahead] if ahead else []),
        report_table(evaluation),
        "In %, on test images; an image may have several labels. mAP: average precision of each class, the mean over classes "
        "that test images have. Interval: bootstrap over test images. F1: of the predictions from the threshold on, one for "
        "all classes, which was chosen on validation images for micro F1. “validation” is the mAP there; settings were chosen "
        "on what “selected on” names; the test split chose nothing.",
        Chart("accuracy.svg", drawn, "Test mean average precision with 95 % intervals"),
    ]


def multilabel_details(evaluation: Evaluation, data: ReportData) -> list[Section]:
    """Each class by the row that is best on validation, and the nearest neighbors."""
    sections: list[Section] = []
    row = evaluation.rows[best_on_validation(evaluation.rows)]
    if data.scores is not None and isinstance(row, MultilabelRow):
        sections.append(("By class", _by_class(evaluation, row, data.labels, data.scores)))
    if data.neighbors and data.images:
        about = "A test image (grey frame) and the training images nearest to it. Blue: a class in common; orange: none"
        sections.append(neighbors_section(data, evaluation.data.classes, about))
    return sections


def _by_class(evaluation: Evaluation, row: MultilabelRow, labels: np.ndarray, scores: np.ndarray) -> list:
    names = evaluation.data.classes
    each = [None if np.isnan(one) else float(100 * one) for one in average_precisions(labels, scores)]
    f1 = f1_scores(labels, scores, row.threshold)[2]
    counts, predicted = labels.sum(0, dtype=int), (scores >= row.threshold).sum(0)
    rows = [[name, figure(one), f"{100 * part:.1f}", f"{count:,}", f"{found:,}"]
            for name, one, part, count, found in zip(names, each, f1, counts, predicted, strict=True)]
    source = evaluation.encoder.name if row.is_encoders else row.source
    best = f"Of the row that is best on validation: {source}, {method_title(row)}, {percent(row.labels)} of the labels."
    head = ["class", "average precision", "F1", "test images", "predicted"]
    folded = f"All {len(names)} classes" if len(names) >= FOLDED else ""
    return [best, Table(head, rows, slice(1, None), folded)]


def neighbors_section(data: ReportData, names: list[str], about: str) -> Section:
    """Test images and the training images nearest to them."""
    n = data.neighbors
    assert n is not None
    assert data.images is not None
    flat = n.images(n.nearest.ravel())
    rows = pictures.NeighborRows(
        data.images(n.queries), data.labels[n.queries], flat.reshape(*n.nearest.shape, *flat.shape[1:]), n.labels[n.nearest]
    )
    return "Nearest neighbours", [Picture("neighbours.png", pictures.neighbors(rows, names), about)]
