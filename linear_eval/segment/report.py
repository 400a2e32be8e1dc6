"""A trained segmenter's results as text, and as report.md and report.html with its pictures."""
from pathlib import Path

from core import checkpoint
from core.page import Page, Picture, Section, Table, Tile, write_report
from linear_eval import provenance
from linear_eval.dense.metrics import Figure
from linear_eval.dense.pictures import SegmentedImage, segmentation_sheet
from linear_eval.segment.results import SegmentationResult
from linear_eval.tables import aligned
from vision.segmentation import Segmentation

COLUMNS = {
    "miou": "mIoU", "image_miou": "mIoU of images", "dice": "Dice", "pixel_accuracy": "pixels",
    "mean_accuracy": "mean accuracy", "boundary_f": "boundary F",
}
FOLDED = 30  # classes from which the table by class is folded away
ABOUT = (
    "All in %, on test images, at each mask's own size; in brackets the 95 % interval by bootstrap over test images, in which "
    "training again is not. mIoU, Dice and the accuracies are counted over all pixels of the split; mIoU of images and "
    "boundary F are of each image, then averaged. Validation images chose the weights; test images chose nothing."
)


def cell(figure: Figure, brief: bool = False) -> str:
    if figure.value is None:
        return "–"
    between = "" if brief or figure.interval is None else f" [{figure.interval[0]:.1f}, {figure.interval[1]:.1f}]"
    return f"{figure.value:.1f}{between}"


def text_table(result: SegmentationResult) -> str:
    """For the terminal."""
    head = ["source", "method", *COLUMNS.values()]
    rows = [[row.source, row.method, *(cell(getattr(row.figures, name), brief=name != "miou") for name in COLUMNS)]
            for row in result.rows]
    return "\n".join(aligned([head, *rows]))


def write(folder: Path, result: SegmentationResult, seen: list[SegmentedImage], test: Segmentation) -> None:
    """report.md, report.html and the picture; each whole or not there."""
    write_report(lambda name, content: checkpoint.write(folder / name, content), lambda: page(result, seen, test))


def page(result: SegmentationResult, seen: list[SegmentedImage], test: Segmentation) -> Page:
    rows = [[row.source, row.method, *(cell(getattr(row.figures, name)) for name in COLUMNS)] for row in result.rows]
    sections: list[Section] = [("Segmentation", [Table(["source", "method", *COLUMNS.values()], rows, slice(2, None)), ABOUT])]
    if seen:
        sheet = segmentation_sheet(seen, test.classes, test.colors)
        about = "Test images, evenly spaced: image, truth, prediction, and errors in orange; ignored pixels are gray"
        sections.append(("Predictions", [Picture("predictions.png", sheet, about)]))
    columns = ("iou", "dice", "precision", "recall", "share")
    classes = [[row.name, *("–" if (value := getattr(row, name)) is None else f"{value:.1f}" for name in columns),
                f"{row.images:,}"] for row in result.classes]
    head = ["class", "IoU", "Dice", "precision", "recall", "of the pixels", "test images"]
    folded = f"All {len(classes)} classes" if len(classes) >= FOLDED else ""
    sections.append(("By class", [Table(head, classes, slice(1, None), folded)]))
    facts = {
        "images": f"{result.train:,} to train on, {result.validation_images:,} for validation, {result.test:,} test",
        "weights": f"after step {result.chosen_at:,} of {result.steps:,}, by mIoU {result.validation:.1f} % on validation",
    }
    sections.append(provenance.section(result, **facts))
    title = f"{result.encoder.name} on {result.data}: segmentation"
    about = f"{result.rows[0].method}, {result.encoder.parameters:,} parameters of the encoder, {result.encoder.source}"
    return Page(title, about, _tiles(result), sections)


def _tiles(result: SegmentationResult) -> list[Tile]:
    """Three figures, with the interval and the most common class's beneath."""
    tiles, (row, trivial) = [], result.rows[:2]
    for name in ("miou", "dice", "boundary_f"):
        figure: Figure = getattr(row.figures, name)
        beneath = [f"{figure.interval[0]:.1f} … {figure.interval[1]:.1f}"] if figure.interval else []
        beneath.append(f"most common class {cell(getattr(trivial.figures, name), brief=True)}")
        tiles.append(Tile(COLUMNS[name], cell(figure, brief=True), beneath))
    return tiles
