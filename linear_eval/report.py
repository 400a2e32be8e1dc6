"""An evaluation as report.md and report.html, one file that needs nothing else, with its figures."""
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core import checkpoint
from core.page import Chart, Page, Picture, Section, Table, Tile, noting, signed
from linear_eval import metrics, pictures, provenance
from linear_eval.measures.report import measure_sections
from linear_eval.multilabel.report import multilabel_details, multilabel_overview, neighbors_section
from linear_eval.report_data import ReportData
from linear_eval.results import Evaluation, Row, percent
from linear_eval.rows import baselines_ahead, best_on_validation, method_title, sorted_rows
from linear_eval.tables import facts, figure, report_table, title

QUESTIONS = {  # heading → what it answers: the links above
    "Accuracy": "whole images", "Mean average precision": "whole images", "Label efficiency": "few labels",
    "Whole images": "whole images", "Few labels": "few labels", "Open set": "open set", "Structure": "structure",
    "Confusion": "mistakes", "By class": "mistakes", "Calibration": "calibration", "Most confused": "mistakes",
    "Nearest neighbours": "structure", "Map of the features": "structure", "Where it looks": "where it looks",
    "How it was measured": "how it was measured",
}  # fmt: skip
UNTRAINED = ("untrained", "from scratch")  # sources that are the encoder without its weights
FOLDED = 30  # classes from which the table by class is folded away


@noting("no report")
def write(folder: Path, evaluation: Evaluation, data: ReportData | None) -> list[Path] | None:
    """report.md, report.html, the figures and figures.json, the numbers that some are drawn from; each whole or not there.

    → what was written; None where that failed, which is noted
    """
    numbers = _numbers(evaluation, data) if data and not evaluation.multilabel else {}
    details = []
    if data:
        details = multilabel_details(evaluation, data) if evaluation.multilabel else _details(evaluation, data, numbers)
    measured = measure_sections(evaluation, data)
    sections = [*_overview(evaluation), *measured, *details, provenance.section(evaluation, evaluated=facts(evaluation))]
    tiles = summary(evaluation.rows) if evaluation.rows else []
    files = Page(title(evaluation), facts(evaluation), tiles, sections, questions=QUESTIONS).files
    if numbers:
        files["figures.json"] = json.dumps(numbers, default=lambda a: np.round(a, 3).tolist()) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        checkpoint.write(folder / name, content)
    return [folder / name for name in files]


def _overview(evaluation: Evaluation) -> list[Section]:
    rows, curves, encoder = sorted_rows(evaluation.rows), evaluation.curve, evaluation.encoder.name
    ahead = baselines_ahead(evaluation.rows)
    if evaluation.multilabel:
        return [multilabel_overview(evaluation)]
    sections: list[Section] = [
        ("Accuracy", [
            *([ahead] if ahead else []),
            report_table(evaluation),
            "All in %, on test images. Interval: Wilson's, over test images like these; of several draws of the labelled "
            "images, of their mean. Balanced: mean recall of the classes. ECE: expected calibration error over 15 bins, where "
            "scores are probabilities. Settings were chosen on what “selected on” names; the test split chose nothing.",
            Chart("accuracy.svg", pictures.forest(rows, encoder), "Test accuracy with 95 % intervals"),
        ]),
    ] if rows else []
    if curves:
        picture = Chart("curve.svg", pictures.curve(curves, encoder), "Test accuracy by labelled images a class")
        sections.append(("Label efficiency", [picture]))
    return sections


def _numbers(evaluation: Evaluation, data: ReportData) -> dict:
    """What figures are drawn from.

    confusion: C,C numbers of test images, rows true classes, of the row that `best_on_validation` names; map: title → M,2;
    labels: M
    """
    numbers = {"classes": evaluation.data.classes}
    if data.scores is not None:
        numbers |= {"of": _detailed_row(evaluation), "confusion": metrics.confusion(data.scores, data.labels)}
    wide = data.features is not None and len(data.features) >= 10 and data.features.shape[1] > 1
    if data.maps and wide and data.labels.ndim == 1:
        some = pictures.mapped(len(data.features))
        points = pictures.plane(np.asarray(data.features[some], np.float32), evaluation.seed, data.maps)
        numbers |= {"map": points, "labels": data.labels[some]}
    return numbers


def _detailed_row(evaluation: Evaluation) -> str:
    row = evaluation.rows[best_on_validation(evaluation.rows)]
    source = evaluation.encoder.name if row.is_encoders else row.source
    return f"{source}, {method_title(row)}, {percent(row.labels)} of the labels"


def _details(evaluation: Evaluation, data: ReportData, numbers: dict) -> list[Section]:
    names = evaluation.data.classes
    sections = _score_sections(data, names, numbers) if data.scores is not None else []
    if data.neighbors and data.images:
        about = "A test image (grey frame) and the training images nearest to it. Blue: of its class; orange: of another"
        sections.append(neighbors_section(data, names, about))
    if "map" in numbers:
        about = f"{len(numbers['labels']):,} test images by their features; labels colour them and place nothing"
        picture = Chart("maps.svg", pictures.maps(numbers["map"], numbers["labels"], names), about)
        sections.append(("Map of the features", [picture]))
    if data.heatmaps:
        about = "Bright: evidence for the predicted class (Grad-CAM). Orange: true class → mistaken prediction"
        sections.append(("Where it looks", [Picture("gradcam.png", pictures.heatmaps(data.heatmaps, names), about)]))
    return sections


def _score_sections(data: ReportData, names: list[str], numbers: dict) -> list[Section]:
    """What one row gets right and wrong."""
    best = f"Of the row that is best on validation: {numbers['of']}."
    columns = ("precision", "recall", "f1")
    numbered = len(names) > pictures.NAMED  # as the confusion matrix's axes are
    titles = [f"{i} {name}" if numbered else name for i, name in enumerate(names)]
    classes = zip(titles, metrics.per_class(data.scores, data.labels, names), strict=True)
    rows = [[name, *(figure(values[key]) for key in columns), f"{values['images']:,}"] for name, values in classes]
    folded = f"All {len(names)} classes" if len(names) >= FOLDED else ""
    about = "Rows: true classes; columns: predictions" + ("; numbers as below" if numbered else "")
    sections = [
        ("Confusion", [best, Chart("confusion.svg", pictures.confusion(numbers["confusion"], names), about)]),
        ("By class", [Table(["class", "precision", "recall", "F1", "test images"], rows, slice(1, None), folded)]),
    ]
    if data.probabilities:
        drawn = pictures.reliability(metrics.reliability(data.scores, data.labels))
        about = f"Expected calibration error {metrics.ece(data.scores, data.labels):.1f} %"
        sections.append(("Calibration", [Chart("reliability.svg", drawn, about)]))
    if pairs := metrics.confused_pairs(data.scores, data.labels):
        rows = [[names[p.true], names[p.predicted], f"{p.count:,}", f"{p.share:.1f} %"] for p in pairs]
        blocks = [Table(["true", "taken for", "images", "of the true class"], rows, slice(2, None))]
        if data.images:
            drawn = pictures.pairs(pairs, [data.images(np.array(p.indices)) for p in pairs], names)
            blocks.append(Picture("confused.png", drawn, "The mistakes with the highest scores, highest first"))
        sections.append(("Most confused", blocks))
    return sections


def summary(rows: Sequence[Row]) -> list[Tile]:
    """The verdict in three numbers: the encoder's score by the row that is best on validation, and by how many points it is
    ahead of itself untrained, by the same method, and of the best that is no such encoder, by any; with the same labels.
    """
    own = rows[best_on_validation(rows)]
    if not own.is_encoders:
        return []
    low, high = own.interval
    of = "" if own.labels == 1 else f", {percent(own.labels)} of the labels"
    tiles = [Tile("test score, encoder", f"{own.score:.1f}", [f"{low:.1f} … {high:.1f}", method_title(own) + of])]
    others = [row for row in rows if row.labels == own.labels and not row.is_encoders]
    untrained = [row for row in others if row.source in UNTRAINED and row.method == own.method]
    baselines = [row for row in others if row.source not in UNTRAINED]
    for name, rivals in (("ahead of it untrained", untrained), ("ahead of the best baseline", baselines)):
        if rivals:
            best = max(rivals, key=lambda row: row.score)
            ahead = signed(own.score - best.score)
            tiles.append(Tile(name, ahead, [f"{best.source} {best.score:.1f}", method_title(best) + of], unit="points"))
    return tiles
