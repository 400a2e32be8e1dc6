"""A dense evaluation as report.md and report.html: the summary first, then classes, pictures and provenance."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from core import checkpoint
from core.page import Page, Picture, Section, Tile, write_report
from linear_eval import provenance
from linear_eval.dense import pictures as drawing
from linear_eval.dense.inputs import DenseInputs
from linear_eval.dense.patch_features import whole_images
from linear_eval.dense.results import DenseEvaluation, DenseRow
from linear_eval.dense.scoring import ScoredSource
from linear_eval.dense.tables import TITLES, ahead, class_table, facts, interval, report_table, title
from linear_eval.features import images_of
from linear_eval.tables import figure
from vision.raster import shown

ABOUT = (
    "All in %, on test images. mIoU: intersection over union of all pixels together, mean over the classes; per image: of each "
    "image, then the mean. Interval: 95 %, by bootstrap over images. Boundary F: boundaries that match within 0.75 % of the "
    "diagonal. Retrieval: nearest patches of training images vote; linear: logistic regression on patches. Scores are "
    "upsampled to the label's own size. Settings were chosen by mIoU on validation images; the test split chose nothing."
)


def write(folder: Path, evaluation: DenseEvaluation, pictures: Sequence[Picture]) -> None:
    """report.md, report.html and the pictures; each whole or not there."""
    write_report(lambda name, content: checkpoint.write(folder / name, content), lambda: page(evaluation, pictures))


def page(evaluation: DenseEvaluation, pictures: Sequence[Picture]) -> Page:
    best = best_row(evaluation.rows)
    sections: list[Section] = [
        ("Summary", [ahead(evaluation.rows), report_table(evaluation), ABOUT]),
        ("By class", [f"By {TITLES[best.method]}, the encoder's best on validation.", class_table(best)]),
    ]
    sections += [("Pictures", list(pictures))] if pictures else []
    sections.append(provenance.section(evaluation, evaluated=facts(evaluation)))
    return Page(title(evaluation), facts(evaluation), tiles(evaluation.rows), sections)


def pictures_of(inputs: DenseInputs, scored: ScoredSource) -> list[Picture]:
    """Some test images with the encoder's best prediction, and its patches as colors."""
    best, test = scored.rows.index(best_row(scored.rows)), inputs.splits["test"]
    if not scored.shown:
        return []
    geometry = whole_images(test.images, inputs.encoder.spec)
    images = shown(images_of(test.images, torch.tensor([one.index for one in scored.shown]), geometry, None).numpy())
    sheet = [
        drawing.SegmentedImage(image, one.truth, one.candidates[best]) for image, one in zip(images, scored.shown, strict=True)
    ]
    patches = np.stack([one.patches for one in scored.shown]).reshape(len(sheet), *inputs.grid, -1)
    method = TITLES[scored.rows[best].method]
    return [
        Picture("predictions.png", drawing.segmentation_sheet(sheet, test.classes, test.colors),
                f"Test images, evenly spaced, by {method}. Orange: wrong; gray: ignored"),
        Picture("patches.png", drawing.pca_sheet(images, patches),
                "The first three principal components of the encoder's patches as red, green and blue"),
    ]


def best_row(rows: Sequence[DenseRow]) -> DenseRow:
    """The encoder's that is best on validation."""
    return max((row for row in rows if row.is_encoders), key=lambda row: row.validation)


def tiles(rows: Sequence[DenseRow]) -> list[Tile]:
    """Three numbers of the encoder at most, each beside what it has to beat: mIoU by each way, and its best boundary F."""
    own = [row for row in rows if row.is_encoders]
    others = [row for row in rows if not row.is_encoders]
    found = []
    for row in own:
        beside = [f"{other.source} {other.miou:.1f}" for other in others if other.method in (row.method, "constant")]
        found.append(Tile(f"mIoU, {TITLES[row.method]}", figure(row.miou), [interval(row.figures.miou), *beside]))
    best = best_row(rows)
    beside = [f"{o.source} {figure(o.figures.boundary_f.value)}" for o in others if o.method == best.method]
    edge = best.figures.boundary_f
    found.append(Tile(f"boundary F, {TITLES[best.method]}", figure(edge.value), [interval(edge), *beside]))
    return found
