"""Writes one page of tables beside published figures, their pictures, the runs, and the provenance of every number.

    uv run python -m experiments.report                # runs/report.html, a file that needs nothing else

Reads runs/tables, experiments/tables/measured and the runs under runs/; runs nothing.
"""
import argparse
import contextlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from core import checkpoint
from core.page import Link, Page, Picture, Section, Table
from experiments.render import grid
from experiments.reproduce import MEASURED
from experiments.results import TableResult, read

SHOWN = 60  # runs in the table, the newest first
SCORES = {"knn": "kNN, %", "logistic": "logistic regression, %"}


@dataclass(frozen=True)
class KeptTable:
    """folder: with its pictures."""

    result: TableResult
    folder: Path
    time: float


def tables(folders: list[Path]) -> list[KeptTable]:
    """The results of experiments.reproduce in these folders, of each table the newest, by name."""
    newest: dict[str, KeptTable] = {}
    for path in (p for folder in folders for p in sorted(folder.rglob("*.json"))):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = KeptTable(TableResult.from_json(json.loads(path.read_text())), path.parent, path.stat().st_mtime)
            if (name := kept.result.table) not in newest or kept.time > newest[name].time:
                newest[name] = kept
    return [table for _, table in sorted(newest.items())]


def section(kept: KeptTable) -> Section:
    result, provenance = kept.result, kept.result.provenance
    head, rows = grid(result)
    strong = frozenset(i for i, row in enumerate(rows) if any(entry.best for entry in row))
    blocks: list = [result.about, Table(head, [[entry.text for entry in row] for row in rows], slice(1, None), strong=strong)]
    for name in result.figures:
        paths = kept.folder / f"{name}.png", kept.folder / f"{result.table}-{name}.png"
        if (path := next((p for p in paths if p.exists()), None)) is not None:
            blocks.append(Picture(path.name, path.read_bytes(), name))
    hours = sum(record.seconds for record in result.cells.values()) / 3600
    lines = [
        ["command", f"uv run {provenance.command}"],
        ["code", ", ".join(provenance.code)], ["seeds", ", ".join(map(str, result.seeds))],
        ["hardware", provenance.machine],
        ["versions", ", ".join(f"{name} {version}" for name, version in provenance.versions.items())],
        ["cells", f"{len(result.cells)} done in {hours:.1f} hours of processes"],
    ]
    blocks.append(Table(["", ""], lines, slice(2, 2), folded="provenance of these figures"))
    return result.title, blocks


def runs(root: Path, out: Path) -> list[list[str]]:
    """The folders of pretraining runs below it, the newest first: what was trained, how far, and its test scores.

    out: the page's file, from which names lead to the runs' own reports, where they have one
    """
    rows = []
    for path in root.rglob("metrics.jsonl"):
        folder = path.parent
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
            log = [json.loads(line) for line in path.read_text().splitlines()]
            test = read(folder / "test.json")["pretrained"]
            last = next(row for row in reversed(log) if "loss" in row)
            scores = [f"{test[name]:.1f}" if name in test else "" for name in SCORES]
            name, its = str(folder.relative_to(root)), folder / "report.html"
            name = Link(name, quote(os.path.relpath(its, out.parent))) if its.exists() else name
            row = [name, f"{last['epoch']:.3g}", f"{last['step']:,}", f"{last['loss']:.3f}", *scores]
            rows.append((path.stat().st_mtime, row))
    return [row for _, row in sorted(rows, reverse=True)]


def page(root: Path, out: Path) -> str:
    kept = tables([MEASURED, root / "tables"])
    sections = [section(table) for table in kept]
    trained = runs(root, out)
    head = ["run", "epochs", "steps", "loss", *SCORES.values()]
    if trained:
        more = [f"{len(trained) - SHOWN} older ones are left out."] if len(trained) > SHOWN else []
        sections.append(("Runs", [Table(head, trained[:SHOWN], slice(1, None)), *more]))
    about = f"{len(kept)} tables and {len(trained)} pretraining runs"
    return Page("nolabel: tables, figures, runs", about, [], sections).html


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of runs")
    parser.add_argument("--out", type=Path, help="default: report.html in it")
    options = parser.parse_args(argv)
    if not options.runs.is_dir():
        print(f"error: runs={options.runs}: no such folder", file=sys.stderr)
        return 2
    out = options.out or options.runs / "report.html"
    checkpoint.write(out, page(options.runs, out))
    print(f"report: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
