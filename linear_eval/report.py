"""An evaluation as report.md and report.html, one file that needs nothing else, with its figures."""
import json
from pathlib import Path

import numpy as np

from core import checkpoint
from linear_eval import metrics, pictures
from linear_eval.measures.report import measure_sections
from linear_eval.multilabel.report import multilabel_details, multilabel_overview, neighbors_section
from linear_eval.page import Code, Picture, Section, Table, Tile, as_html, as_markdown
from linear_eval.report_data import ReportData
from linear_eval.results import ENCODER, Evaluation, percent
from linear_eval.rows import METHODS, baselines_ahead, best_on_validation, method_title, sorted_rows
from linear_eval.tables import facts, figure, report_table, title

FOLDED = 30  # classes from which the table by class is folded away


def write(folder: Path, evaluation: Evaluation, data: ReportData | None) -> list[Path]:
    """report.md, report.html, the figures and figures.json, the numbers that some are drawn from; each whole or not there.

    → what was written
    """
    numbers = _numbers(evaluation, data) if data and not evaluation.multilabel else {}
    details = []
    if data:
        details = multilabel_details(evaluation, data) if evaluation.multilabel else _details(evaluation, data, numbers)
    measured = measure_sections(evaluation, data)
    sections = [*_overview(evaluation), *measured, *details, _provenance(evaluation)]
    figures = {block.name: block.png for _, blocks in sections for block in blocks if isinstance(block, Picture)}
    about = title(evaluation), facts(evaluation)
    html = as_html(*about, _tiles(evaluation), sections)
    files = {"report.md": as_markdown(*about, sections), "report.html": html, **figures}
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
            Picture("accuracy.png", pictures.forest(rows, encoder), "Test accuracy with 95 % intervals"),
        ]),
    ] if rows else []
    if curves:
        picture = Picture("curve.png", pictures.curve(curves, encoder), "Test accuracy by labelled images a class")
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
    if data.labels.ndim == 1 and data.features is not None and len(data.features) >= 10 and data.features.shape[1] > 1:
        some = pictures.mapped(len(data.features))
        points = pictures.plane(np.asarray(data.features[some], np.float32), evaluation.seed)
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
        picture = Picture("maps.png", pictures.maps(numbers["map"], numbers["labels"], names), about)
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
        ("Confusion", [best, Picture("confusion.png", pictures.confusion(numbers["confusion"], names), about)]),
        ("By class", [Table(["class", "precision", "recall", "F1", "test images"], rows, slice(1, None), folded)]),
    ]
    if data.probabilities:
        drawn = pictures.reliability(metrics.reliability(data.scores, data.labels))
        about = f"Expected calibration error {metrics.ece(data.scores, data.labels):.1f} %"
        sections.append(("Calibration", [Picture("reliability.png", drawn, about)]))
    if pairs := metrics.confused_pairs(data.scores, data.labels):
        rows = [[names[p.true], names[p.predicted], f"{p.count:,}", f"{p.share:.1f} %"] for p in pairs]
        blocks = [Table(["true", "taken for", "images", "of the true class"], rows, slice(2, None))]
        if data.images:
            drawn = pictures.pairs(pairs, [data.images(np.array(p.indices)) for p in pairs], names)
            blocks.append(Picture("confused.png", drawn, "The mistakes with the highest scores, highest first"))
        sections.append(("Most confused", blocks))
    return sections


def _provenance(evaluation: Evaluation) -> Section:
    """Where these figures come from."""
    h, seconds = evaluation.hardware, evaluation.seconds
    lines = {
        "evaluated": facts(evaluation),
        "machine": ", ".join(filter(None, [h["gpu"], h["cpu"], f"{h['cores']} cores", f"{h['threads']} threads"])),
        "seed": str(evaluation.seed),
        "time": f"{seconds / 60:.1f} minutes" if seconds else "",
        "versions": ", ".join(f"{name} {version}" for name, version in evaluation.versions.items()),
    }
    table = Table(["", ""], [[name, value] for name, value in lines.items() if value], slice(0))
    return "How it was measured", [Code(evaluation.command), table, *(f"Note: {note}." for note in evaluation.notes)]


def _tiles(evaluation: Evaluation) -> list[Tile]:
    """The encoder's accuracy by each method with all labels, and what it must beat beneath."""
    rows = {(row.source, row.method): row for row in evaluation.rows if row.labels == 1}
    tiles = []
    for method, name in METHODS.items():
        if row := rows.get((ENCODER, method)):
            rivals = [(source, rows.get((source, method))) for source in ("untrained", "from scratch", "raw pixels")]
            beneath = [f"{source} {rival.score:.1f}" for source, rival in rivals if rival]
            low, high = row.interval
            tiles.append(Tile(name, f"{row.score:.1f}", [f"{low:.1f} … {high:.1f}", *beneath]))
    return tiles
