"""The report of deploy.latency: its rows as CSV, Markdown and a chart. No torch here."""
import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from core import measured
from core.figures import canvas, charted, logarithmic
from core.image_size import size_text
from core.page import Chart, Page, Table, Tile, as_text
from deploy.timing import unsteady


@dataclass(frozen=True)
class LatencyRow:
    """A measurement.  image_size: pixels a side; batch: images at once; parameters, macs: millions; p50 …: milliseconds"""

    encoder: str
    image_size: int
    framework: str
    device: str
    threads: int
    batch: int
    parameters: float
    macs: float
    p50: float
    p95: float
    p99: float
    images_per_second: float


@dataclass(frozen=True)
class LatencyResult:
    """The folder of the files, and what was measured."""

    folder: Path
    rows: list[LatencyRow]
    missing: dict[str, str]  # a framework, or "framework of encoder" → why it was not measured
    provenance: dict  # settings ("words"), command, hardware, versions, code

    @property
    def json(self) -> dict:
        return {"rows": [asdict(row) for row in self.rows], "missing": self.missing} | self.provenance

    @property
    def csv(self) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(LatencyRow)], lineterminator="\n")
        writer.writeheader()
        rows = (asdict(row).items() for row in self.rows)
        writer.writerows({name: f"{v:.6g}" if isinstance(v, float) else v for name, v in row} for row in rows)
        return text.getvalue()

    @property
    def text(self) -> str:
        """For a terminal: the table, with the machine's name."""
        return as_text(self.blocks)

    @property
    def blocks(self) -> list:
        head = ["encoder", "px", "framework", "threads", "images", "p50, ms", "p95, ms", "p99, ms", "images/s"]
        machine = self.provenance["hardware"]["gpu" if self.rows[0].device == "cuda" else "cpu"]
        rows = [[f"{row.encoder} ({row.parameters:.2f} M, {row.macs:.0f} M multiply-adds)", size_text(row.image_size),
                 row.framework, str(row.threads), str(row.batch), f"{row.p50:.2f}", f"{row.p95:.2f}", f"{row.p99:.2f}",
                 f"{row.images_per_second:,.0f}"] for row in self.rows]
        return [f"{machine}; medians, 95th and 99th percentiles", Table(head, rows, slice(3, None)), *self.noise,
                *(f"not {name}: {why}" for name, why in self.missing.items())]

    @property
    def noise(self) -> list[str]:
        """A line where some times say little."""
        loud = [row for row in self.rows if unsteady("", row.p50, row.p95)]
        if not loud:
            return []
        which = ", ".join(dict.fromkeys(f"{row.framework} of {row.encoder}" for row in loud))
        return [f"Times of {which} varied too much to compare: measure again while nothing else runs."]

    def page(self, configured: measured.Configured) -> Page:
        first = min(self.rows, key=lambda row: (row.batch, row.p50))
        most = max(self.rows, key=lambda row: row.images_per_second)
        who = [f"{row.framework}, {row.encoder}" for row in (first, most)]
        tiles = [Tile(f"fastest, images at once: {first.batch}", f"{first.p50:.3g}", who[:1], "ms"),
                 Tile("its 95th percentile", f"{first.p95:.3g}", [f"threads: {first.threads}"], "ms"),
                 Tile("most images", f"{most.images_per_second:,.0f}", [who[1], f"{most.batch} at once"], "a second")]
        about = "Median latency by images at once; whiskers reach to the 95th percentile"
        sections = [("Latency", [*self.blocks, Chart("latency.svg", chart(self.rows), about)]),
                    measured.section(self.provenance, configured.table)]
        verdict = self.noise or [f"The fastest is {first.framework} of {first.encoder}: {first.p50:.3g} ms."]
        return Page("Latency", ", ".join(dict.fromkeys(row.encoder for row in self.rows)), tiles, sections, verdict)


@charted
def chart(rows: list[LatencyRow]):
    """Latency over the batch size, a panel for each encoder; whiskers reach to the 95th percentile."""
    names = list(dict.fromkeys(row.encoder for row in rows))
    figure, (axes,) = canvas(4.2 * len(names), 3.6, columns=len(names))
    for axis, name in zip(axes, names, strict=True):
        lines: dict[tuple[str, int], list[LatencyRow]] = {}
        for row in rows:
            if row.encoder == name:
                lines.setdefault((row.framework, row.threads), []).append(row)
        for (framework, threads), line in lines.items():
            errors = [[0] * len(line), [row.p95 - row.p50 for row in line]]
            label = f"{framework}, {threads} thread{'s' * (threads > 1)}"
            axis.errorbar([row.batch for row in line], [row.p50 for row in line], yerr=errors, marker="o", ms=3, capsize=2,
                          label=label)
        axis.set(title=Path(name).parent.name if "/" in name else name, xlabel="images at once", ylabel="median, ms")
        for which in "xy":
            logarithmic(axis, which)
        axis.legend(fontsize=7)
    return figure
