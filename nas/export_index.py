"""The index of an exported front: what is expected of each encoder, what its files cost, and a picture of both."""
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from core.figures import COLOURS, canvas, charted, logarithmic
from core.page import Chart, Page, Section, Table
from deploy.export_report import ExportResult
from nas.posterior import Posterior, expectation
from nas.results import describe
from nas.settings import OBJECTIVES
from nas.trial_record import TrialRecord


@dataclass(frozen=True)
class FrontRow:
    """A trial of the front. own: the objective after its training; expected ± interval: of fresh seeds, None of few trials;
    macs, parameters: millions; latency: ms of one image by onnxruntime; accuracy: per cent of test images; size: MB of a file;
    int8: the kind that passed deploy.export's gate, "" where none did, and `refused` says why
    """

    trial: int
    encoder: str
    own: float
    expected: float | None
    interval: float | None
    macs: float
    parameters: float
    latency: float | None = None
    accuracy: float | None = None
    size: float | None = None
    int8: str = ""
    int8_latency: float | None = None
    int8_accuracy: float | None = None
    int8_size: float | None = None
    refused: str = ""


def row_of(
    record: TrialRecord, objective: str, found: Posterior | None, exported: ExportResult | None = None, failure: str = ""
) -> FrontRow:
    """failure: why there is no export"""
    row = FrontRow(
        record.number, describe(record.candidate), record.figures[objective], *expectation(record, found),
        record.costs["macs"], record.costs["parameters"], refused=failure,
    )
    if exported is None:
        return row
    refused = "; ".join(f"{name}: {why}" for name, why in exported.refused.items())
    row, rows = replace(row, refused=refused), exported.rows
    if float32 := rows.get("onnxruntime"):
        row = replace(row, latency=float32.p50, accuracy=float32.accuracy, size=float32.megabytes)
    kind = next((name for name in rows if name.startswith("INT8 ")), None)
    if kind:
        int8 = rows[kind]
        row = replace(row, int8=kind.removeprefix("INT8 "), int8_latency=int8.p50, int8_accuracy=int8.accuracy,
                      int8_size=int8.megabytes)
    return row


HEAD = {  # of the table: name of a field → heading
    "trial": "trial", "own": "of its training", "expected": "expected", "macs": "multiply-adds, M",
    "parameters": "parameters, M", "latency": "latency, ms", "accuracy": "test accuracy, %", "size": "size, MB", "int8": "INT8",
    "int8_latency": "INT8 latency, ms", "int8_accuracy": "INT8 test accuracy, %", "int8_size": "INT8 size, MB",
    "encoder": "encoder",
}


@dataclass(frozen=True)
class FrontIndex:
    """objective: what training was for; missing: trials of the front whose encoder is on another machine"""

    study: str
    folder: Path
    objective: str
    rows: list[FrontRow]
    missing: tuple[int, ...] = ()

    @property
    def about(self) -> str:
        unit = OBJECTIVES[self.objective][1]
        what = f"{self.objective} ({unit})" if unit else self.objective
        return (f"Of its training: {what} on validation images; expected: of fresh seeds, with the 95 % interval. Accuracy by "
                "deploy.export's measure on test images, which chose nothing; latency of one image by onnxruntime, where it "
                "was exported. Each trial's folder has its files and its report, card.md.")

    def sections(self, chart: bool) -> list[Section]:
        rows = [[_text(row, name) for name in HEAD] for row in self.rows]
        blocks: list = [Table([*HEAD.values()], rows, slice(1, len(HEAD) - 1))]
        if chart:
            blocks.append(Chart("front.svg", front_chart(self), "The front: expected accuracy and multiply-adds"))
        blocks += [f"Trial {row.trial}: not exported so: {row.refused}" for row in self.rows if row.refused]
        if self.missing:
            blocks.append(f"On another machine: the encoders of trials {', '.join(map(str, self.missing))}.")
        return [("The front", blocks)]

    def page(self, chart: bool) -> Page:
        return Page(f"The front of {self.study}", self.about.removesuffix("."), [], self.sections(chart))

    @property
    def markdown(self) -> str:
        return self.page(chart=False).markdown

    @property
    def files(self) -> dict[str, str]:
        """name → content"""
        document = {"study": self.study, "objective": self.objective, "rows": [asdict(row) for row in self.rows],
                    "missing": list(self.missing)}
        return {"index.md": self.markdown, "index.html": self.page(chart=True).html,
                "index.json": json.dumps(document, indent=1) + "\n"}


def _text(row: FrontRow, name: str) -> str:
    if name == "expected":
        return "" if row.expected is None else f"{row.expected:.4g} ± {row.interval:.2g}"
    value = getattr(row, name)
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


@charted
def front_chart(index: FrontIndex):
    """What is expected over multiply-adds, with 95 % intervals; hollow: the figure of its own training."""
    figure, ((axis,),) = canvas(6, 4)
    known = [row for row in index.rows if row.expected is not None]
    axis.scatter([row.macs for row in index.rows], [row.own for row in index.rows], facecolors="none", edgecolors=COLOURS[1],
                 s=24, label="of its training")
    if known:
        axis.errorbar([row.macs for row in known], [row.expected for row in known], yerr=[row.interval for row in known],
                      fmt="o", ms=4, capsize=2, color=COLOURS[0], label="expected of fresh seeds")
    for row in index.rows:
        axis.annotate(str(row.trial), (row.macs, row.own if row.expected is None else row.expected), textcoords="offset points",
                      xytext=(5, 5), fontsize=8)
    logarithmic(axis, "x")
    axis.set(xlabel="multiply-adds, M", ylabel=OBJECTIVES[index.objective][2])
    axis.legend(fontsize=8)
    return figure
