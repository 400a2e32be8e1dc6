"""The report of deploy.prune: what an encoder costs before and after. No torch here."""
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import measured
from core.page import Code, Page, Table, Tile, as_text
from deploy.timing import unsteady


@dataclass(frozen=True)
class PruneResult:
    """The pruned file, and the encoder's costs before and after: millions, and milliseconds of one image."""

    file: Path
    before: dict[str, float]
    after: dict[str, float]

    @property
    def text(self) -> str:
        """For a terminal."""
        return as_text(self.blocks)

    @property
    def blocks(self) -> list:
        rows = []
        for name, value in self.before.items():
            unit, share = "ms" if "latency" in name else "M", f"{self.after[name] / value:.0%}" if value else "-"
            share = "not compared" if unit == "ms" and self.noise else share
            rows.append([f"{name}, {unit}", f"{value:.3g}", f"{self.after[name]:.3g}", share])
        note = [f"Times varied too much to compare: {'; '.join(self.noise)}."] if self.noise else []
        return [Table(["", "before", "after", "share"], rows, slice(1, None)), *note]

    @property
    def noise(self) -> list[str]:
        """Why the times before and after are not compared; empty where they may be."""
        times = {"before": self.before, "after": self.after}
        whys = [unsteady(name, costs["latency p50"], costs["latency p95"]) for name, costs in times.items()]
        return [why for why in whys if why]

    def page(self, made: Mapping[str, Any], configured: measured.Configured) -> Page:
        """made: provenance"""
        names = {"parameters": "M", "macs": "M", "latency p50": "ms an image"}
        tiles = [Tile(name, f"{self.after[name]:.3g}", [f"before {self.before[name]:.3g}"], unit)
                 for name, unit in names.items()]
        left = f"{self.after['macs'] / self.before['macs']:.0%} of the multiply-adds"
        weights = f"{self.after['weights that are not zero'] / self.before['weights that are not zero']:.0%} of the weights"
        verdict = [f"{left} and {weights} are left. Accuracy was lost and is not measured here: train the file further."]
        file, teacher = shlex.quote(str(self.file)), shlex.quote(configured.settings.encoder)
        following = ["With --data naming the images that it was trained on, either of:",
                     Code(f"uv run python -m linear_eval.finetune --encoder {file}"),
                     Code(f"uv run python -m distill.train --teacher {teacher} --student {file}")]
        sections = [("Costs", self.blocks), ("What next", following), measured.section(made, configured.table)]
        questions = {heading: heading.lower() for heading, _ in sections}
        return Page(f"{Path(configured.settings.encoder).name}, pruned", str(self.file), tiles, sections, verdict, questions)
