"""The page of a student's run: verdict, table, loss, views, what its features hold, what next, and how it was measured."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from core import measured
from core.loss_chart import loss_chart
from core.page import Code, Page, Picture, Section, Table, Tile, optional, signed
from core.run import Run
from distill.teacher import Member
from linear_eval.feature_sections import QUESTIONS, SCORES, SHOWN, feature_sections
from linear_eval.features import evaluating
from linear_eval.knn import TEMPERATURE, K
from linear_eval.probe import ITERATIONS
from linear_eval.samples import Sample
from vision import augment
from vision.pixels import normalize_images
from vision.splits import Dataset

COLUMNS = {"knn": "kNN", "logistic": "logistic", "five_labels": "5 labels a class", "classifier": "classifier"}
COSTS = {"parameters": "M parameters", "macs": "M MACs", "milliseconds": "ms an image"}
ABOUT = (
    f"Test accuracy in %, last weights. kNN: k = {K}, cosine, weights exp(s/{TEMPERATURE}). logistic: logistic regression on "
    f"standardised features, at most {ITERATIONS} iterations. 5 labels a class: mean ± std of 5 draws. classifier: as trained."
)


@dataclass(frozen=True)
class Distilled:
    """A finished run.

    title: method and data; rows: of the table, name → scores in % and costs; names begin with "teacher: ", "student: ",
    "beside: " or "untrained: ". made: provenance. next: the command that trains the student alone, and the setting that puts
    it into the table; none where that is done.
    """

    run: Run
    title: str
    configured: measured.Configured
    dataset: Dataset
    student: Member
    untrained: Member
    recipe: augment.Augmentation
    device: torch.device
    rows: Mapping[str, Mapping[str, float]]
    made: Mapping[str, Any]
    next: Sequence[str]

    def row(self, kind: str, key: str = "") -> Mapping[str, float]:
        """The best row of a kind: teacher, student or untrained."""
        rows = [row for name, row in self.rows.items() if name.startswith(f"{kind}: ")]
        return max(rows, key=lambda row: row.get(key, 0.0))


def page(found: Distilled) -> Page:
    settings = found.configured.settings
    about = (f"{found.student.name} ({found.row('student')['parameters']:.2f} M parameters), {found.run.step:,} steps of "
             f"{settings.batch_size} images")
    key = next((key for key in COLUMNS if key in found.row("student")), None)
    sections: list[Section] = [
        (SCORES, [table(found.rows), *([ABOUT] if key else [])]),
        *optional("curves", lambda: [("Curves", [loss_chart(found.run.metrics())])]),
        *optional("views", partial(_views, found)),
        *optional("what the features hold", partial(_structure, found)),
        *([("What next", ["The same encoder without the teacher, and then this command again with it in the table:",
                          *map(Code, found.next)])] if found.next else []),
        measured.section(found.made, found.configured.table),
    ]  # fmt: skip
    return Page(found.title, about, _tiles(found, key), sections, [_verdict(found, key)], QUESTIONS)


def _verdict(found: Distilled, key: str | None) -> str:
    student, teacher = found.row("student"), found.row("teacher", key or "")
    cost = (f"It has {student['parameters'] / teacher['parameters']:.0%} of the teacher's parameters and "
            f"{student['macs'] / teacher['macs']:.0%} of its multiply-adds.")
    if key is None:
        return f"No labels, so no accuracy. {cost}"
    own, untrained = student[key], found.row("untrained")[key]
    where = "ahead of" if own > untrained else "not ahead of"
    return (f"The student is {where} itself untrained: {COLUMNS[key]} {own:.1f} against {untrained:.1f} % of "
            f"{len(found.dataset.test):,} test images; its teacher has {teacher[key]:.1f} %. {cost}")


def _tiles(found: Distilled, key: str | None) -> list[Tile]:
    """The student's score, and how far it is ahead of itself untrained and of the teacher; its costs without labels."""
    student, teacher = found.row("student"), found.row("teacher", key or "")
    if key is None:
        return [Tile(title, f"{student[cost]:.3g}", [f"teacher {teacher[cost]:.3g}"], unit="")
                for cost, title in COSTS.items()]
    tiles = [Tile(f"test {COLUMNS[key]}, student", f"{student[key]:.1f}", [])]
    for title, kind in (("ahead of it untrained", "untrained"), ("ahead of the teacher", "teacher")):
        rival = found.row(kind, key)[key]
        tiles.append(Tile(title, signed(student[key] - rival), [f"{kind} {rival:.1f}"], unit="points"))
    return tiles


def table(rows: Mapping[str, Mapping[str, float]]) -> Table:
    columns = {key: title for key, title in (COLUMNS | COSTS).items() if any(key in f for f in rows.values())}
    lines = []
    for name, f in rows.items():
        cells = []
        for key in columns:
            digits = 2 if key in ("parameters", "milliseconds") else 1
            spread = f" ± {f[key + '_std']:.1f}" if key + "_std" in f else ""
            cells.append(f"{f[key]:.{digits}f}{spread}" if key in f else "")
        lines.append([name, *cells])
    own = frozenset(i for i, name in enumerate(rows) if name.startswith("student: "))
    return Table(["", *columns.values()], lines, slice(1, None), strong=own)


def _views(found: Distilled) -> list[Section]:
    dataset, recipe = found.dataset, found.recipe
    images = dataset.pretrain.resized(torch.arange(min(8, len(dataset.pretrain))), recipe.size)
    png = augment.picture(images, recipe, found.configured.settings.seed)
    return [("Views", [Picture("views.png", png, augment.ABOUT_PICTURE)])]


def _structure(found: Distilled) -> list[Section]:
    sample = Sample(found.dataset.pretrain, SHOWN, found.student.encoder.spec)
    networks = {"student": found.student, "untrained": found.untrained}
    describe = {name: partial(_features, member, found.device) for name, member in networks.items()}
    return feature_sections(sample, describe, found.dataset.classes or ())


def _features(member: Member, device: torch.device, images: Tensor, positions: Tensor) -> Tensor:
    encoder = member.encoder.to(device)
    with evaluating(encoder):
        return encoder(normalize_images(images.to(device), member.mean, member.std)).float().cpu()
