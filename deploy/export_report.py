"""The report of an export: accuracy and speed of every version, which to use, and why others are missing. No torch here."""
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from core import measured
from core.figures import COLOURS, canvas, charted, logarithmic
from core.image_size import parse, size_text
from core.page import Chart, Page, Section, Table, Tile
from deploy.timing import unsteady
from vision.geometry import CROP, LETTERBOX, SQUASH

VERSIONS, FILES, REFUSED = "Versions", "Files", "Not exported"  # headings
PRINTED = (VERSIONS, FILES, REFUSED)  # sections that a terminal shows
QUESTIONS = {VERSIONS: "which to use", FILES: "files", REFUSED: "not exported", measured.HEADING: "how it was measured"}
MOBILE = "ExecuTorch"  # the version for phones; its INT8 has it in its name
REFERENCE = "against: "  # what the names of the other model's versions begin with, here and in card.json


@dataclass(frozen=True)
class VersionRow:
    """A version's measurements: accuracy in per cent, milliseconds of one image, images a second of a batch.

    file: its name where the export has one; reference: is it a version of the model compared with?
    """

    accuracy: float
    p50: float
    p95: float
    images_per_second: float
    megabytes: float
    file: str | None
    reference: bool = False

    def unsteady(self, name: str) -> str | None:
        """Why its time is not compared (deploy/timing.py); None where it may be."""
        return unsteady(name, self.p50, self.p95)

    @property
    def for_phones(self) -> bool:
        """Is it a file for another device than the one that it was timed on?"""
        return (self.file or "").endswith(".pte")


@dataclass(frozen=True)
class ModelCost:
    """Millions of parameters and of multiply-adds.  encoder: the file"""

    encoder: str
    parameters: float
    macs: float


@dataclass(frozen=True)
class ExportResult:
    """The folder of the files, and what was measured. `json` keeps the keys that card.json has always had."""

    folder: Path
    model: ModelCost
    reference: ModelCost | None  # of settings.against
    data: str
    output_names: tuple[str, ...]
    metadata: dict  # what the files state of their input (ExportModule.metadata)
    rows: dict[str, VersionRow]  # by the version's name
    batch: int  # images, of the throughput
    threads: int
    most_lost: float  # points of accuracy that a recommended version may lose
    deviations: dict[str, float]  # each version's largest difference from torch's outputs
    refused: dict[str, str]  # name → why
    standalone: dict  # the ONNX files in a process without torch (versions.check_without_torch)
    onnx: dict[str, dict]  # what reads each ONNX file (runtime.onnx_requirements)
    provenance: dict  # settings ("words"), command, hardware, versions, code
    metric: str = "accuracy"  # what `rows` have as accuracy (deploy/accuracy.py)
    mobile: dict | None = None  # the ExecuTorch files in a process of their own (mobile.check_mobile); None without --mobile
    configured: measured.Configured | None = None  # what the export was given

    @property
    def verdict(self) -> str:
        return verdict(self.rows, self.most_lost)

    @property
    def recommended(self) -> str | None:
        name, noise = fastest(self.rows, self.most_lost)
        return None if noise else name

    @property
    def comparison(self) -> str | None:
        """The model beside the one it is compared with, by onnxruntime; None where one of them lacks that version."""
        if not self.reference or not {"onnxruntime", f"{REFERENCE}onnxruntime"} <= {*self.rows}:
            return None
        mine, other = self.rows["onnxruntime"], self.rows[f"{REFERENCE}onnxruntime"]
        throughput = mine.images_per_second / other.images_per_second
        speed = f"{other.p50 / mine.p50:.2f}× its speed at one image, {throughput:.2f}× at {self.batch}"
        if mine.unsteady("") or other.unsteady(""):
            speed = "a speed that was not compared, as times varied too much"
        return (
            f"Against {self.reference.encoder}: {self.model.macs / self.reference.macs:.0%} of its multiply-adds, "
            f"{self.model.parameters / self.reference.parameters:.0%} of its parameters, {speed}, "
            f"{mine.accuracy - other.accuracy:+.2f} points of accuracy (onnxruntime)."
        )

    @property
    def mobile_lines(self) -> list[str]:
        """A line on each ExecuTorch file: what reads it, and how near it is to torch."""
        lines = []
        for name, check in (self.mobile or {"files": {}})["files"].items():
            same = f", torch's class for {check['same class as torch']:.1%}" if "same class as torch" in check else ""
            lines.append(
                f"{name} ({self.rows[name].file}): one image at a time, by XNNPACK; written by ExecuTorch "
                f"{self.mobile['executorch']}. In a process of its own its outputs are within {check['off']:.1e} of torch's "
                f"largest for {self.mobile['images']} test images{same}. Its method `nolabel` states its input. Times are this "
                "machine's, not a phone's."
            )
        return lines

    @property
    def json(self) -> dict:
        return asdict(self.model) | self.provenance | {
            "against": self.reference and asdict(self.reference), "answers": self.output_names, "judged": self.metric,
            "data": self.data, "input": self.metadata, "rows": {name: asdict(row) for name, row in self.rows.items()},
            "batch": self.batch, "threads": self.threads, "off": self.deviations, "refused": self.refused,
            "alone": self.standalone, "onnx": self.onnx, "verdict": self.verdict,
        } | ({} if self.mobile is None else {"mobile": self.mobile})

    @cached_property
    def page(self) -> Page:
        """The report: report.html, card.md and card.svg."""
        same = [(name, row["same class as torch"]) for name, row in self.standalone["files"].items() if len(row) > 1]
        same_class = f"; the class is torch's for: {', '.join(f'{name} {share:.1%}' for name, share in same)}" if same else ""
        standalone = [f"In a process without torch, the ONNX files give the same outputs for {self.standalone['images']} test "
                      f"images{same_class}."] if self.standalone["files"] else []
        writer = self.provenance["versions"].get("onnxruntime")
        reads = [[name, requirements_text(row, writer)] for name, row in self.onnx.items()]
        files = [*standalone, *([Table(["file of", "what reads it"], reads, slice(0))] if reads else []), *self.mobile_lines]
        why = [[name, reason] for name, reason in self.refused.items()]
        sections: list[Section] = [
            (VERSIONS, self._versions()),
            (FILES, [*files, input_text(self.metadata)]),
            *([(REFUSED, [Table(["version", "why not"], why, slice(0))])] if why else []),
            measured.section(self.provenance, self.configured and self.configured.table),
        ]
        about = (f"{self.model.parameters:.2f} M parameters, {self.model.macs:.1f} M multiply-adds; "
                 f"{self.provenance['hardware']['cpu']}, {self.threads} thread{'s' * (self.threads > 1)}; latency of one "
                 f"image, throughput of {self.batch}")
        sentences = [self.verdict, *([self.comparison] if self.comparison else [])]
        title = f"{Path(self.model.encoder).name} on {self.data}"
        return Page(title, about, self._tiles(), sections, sentences, QUESTIONS)

    def _versions(self) -> list:
        head = ["version", f"{self.metric}, test, %", "p50, ms", "p95, ms", "images/s", "MB"]
        rows = [[name, f"{row.accuracy:.2f}", f"{row.p50:.2f}", f"{row.p95:.2f}", f"{row.images_per_second:,.0f}",
                 f"{row.megabytes:.2f}"] for name, row in self.rows.items()]
        best = frozenset(i for i, name in enumerate(self.rows) if name == self.recommended)
        about = f"{self.metric.capitalize()} over the median latency of one image; the larger, the more megabytes"
        return [Table(head, rows, slice(1, None), strong=best), Chart("card.svg", chart(self), about)]

    def _tiles(self) -> list[Tile]:
        """Of the version that is recommended, or of torch where none is."""
        name, exact = self.recommended or "torch", self.rows["torch"]
        row = self.rows[name]
        return [Tile(f"latency, {name}", f"{row.p50:.3g}", [f"torch {exact.p50:.3g}"], "ms an image"),
                Tile(f"{self.metric}, {name}", f"{row.accuracy:.2f}", [f"torch {exact.accuracy:.2f}"]),
                Tile(f"size, {name}", f"{row.megabytes:.3g}", [f"torch {exact.megabytes:.3g}"], "MB")]


def fastest(rows: dict[str, VersionRow], most_lost: float) -> tuple[str, list[str]]:
    """The version of the lowest latency among those that keep torch's accuracy, and why times say nothing of it."""
    here = {name: row for name, row in rows.items() if not (row.reference or row.for_phones)}
    good = [name for name, row in here.items() if rows["torch"].accuracy - row.accuracy <= most_lost]
    best = min(good, key=lambda name: rows[name].p50)
    return best, [why for name in dict.fromkeys(("torch", best)) if (why := rows[name].unsteady(name))]


def verdict(rows: dict[str, VersionRow], most_lost: float) -> str:
    """Which version to use; none where times varied too much."""
    name, noise = fastest(rows, most_lost)
    exact, best = rows["torch"], rows[name]
    if noise:
        return f"No version is recommended, as times varied too much: {'; '.join(noise)}. Export again while nothing else runs."
    if name == "torch":
        return "Use torch as it is: nothing here is faster."
    file = f" ({best.file})" if best.file else ""
    return (
        f"Use {name}{file}: {exact.p50 / best.p50:.1f}× torch's speed at one image, "
        f"{best.accuracy - exact.accuracy:+.2f} points of accuracy."
    )


def requirements_text(row: dict, onnxruntime: str | None) -> str:
    """What reads an ONNX file.  row: of `runtime.onnx_requirements`; onnxruntime: the version that wrote it"""
    opsets = ", ".join(f"{domain} {version}" for domain, version in row["opsets"].items())
    least = f"{row['onnxruntime']} or newer" if row["onnxruntime"] else f"{onnxruntime}, which wrote it"
    return f"IR version {row['ir']}, opset {opsets}; needs onnxruntime {least}."


def shape_text(how: dict) -> str:
    """How images get the input's shape.  how: `Preprocessing.json`"""
    if "fit" not in how:
        return f"{how['resize']} to {how['size']} px"
    size = size_text(parse(how["size"]))
    return {CROP: f"scaled to cover {size} px (height × width), the center kept",
            SQUASH: f"both sides scaled to {size} px (height × width)",
            LETTERBOX: f"scaled to fit into {size} px (height × width), centered, padded with the mean"}[how["fit"]]


def input_text(metadata: dict) -> str:
    """How images become the files' input."""
    how, colors = metadata["preprocessing"], "grey" if metadata["channels"] == 1 else "RGB"
    scale = "scaled to [0, 1]"
    if pixels := how.get("pixels"):
        colors, scale = f"{metadata['channels']}-band", f"scaled from {pixels['low']} … {pixels['high']} to [0, 1]"
    resize = f"{shape_text(how)} ({how['interpolation']}, antialiased)"
    if "fit" not in how:
        resize += f", the {how['crop']} square"
    if metadata["preprocess"]:
        return f"Input: upright {colors} images of any size, bytes 0 … 255; inside the files: {resize}, normalization."
    return f"Input: upright {colors} images, {resize}, {scale}, minus {how['mean']}, divided by {how['std']}."


@charted
def chart(report: ExportResult):
    """Accuracy over latency."""
    figure, ((axis,),) = canvas(6, 4)
    for name, row in report.rows.items():
        color = COLOURS[1 if row.reference else 0]
        axis.scatter(row.p50, row.accuracy, s=20 + 12 * row.megabytes, alpha=0.7, color=color)
        axis.annotate(name, (row.p50, row.accuracy), textcoords="offset points", xytext=(6, 6), fontsize=8)
    axis.set(xlabel="latency of one image, median, ms", ylabel=f"{report.metric} on test images, %")
    logarithmic(axis, "x")
    return figure
