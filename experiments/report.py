"""One page of everything: tables beside what is published, their figures, the runs, and where each number comes from.

    uv run python -m experiments.report                # runs/report.html, a file that needs nothing else

Reads runs/tables, experiments/tables/measured and the runs under runs/; runs nothing.
"""
import argparse
import contextlib
import json
import sys
from pathlib import Path

from core import checkpoint
from experiments.reproduce import MEASURED
from experiments.table import grid
from linear_eval.names import renamed
from linear_eval.page import Picture, Section, Table, as_html

SHOWN = 60  # runs in the table, the newest first
SCORES = {"knn": "kNN, %", "logistic": "logistic regression, %"}


def tables(folders: list[Path]) -> list[dict]:
    """What experiments.reproduce left, one of each name, the newest, with the folder of its figures under "folder"."""
    found: dict[str, tuple[float, dict]] = {}
    for path in (p for folder in folders for p in sorted(folder.rglob("*.json"))):
        with contextlib.suppress(OSError, ValueError):
            table = json.loads(path.read_text())
            if not isinstance(table, dict) or not {"table", "rows", "columns"} <= set(table):
                continue
            key, time = table["table"], path.stat().st_mtime
            if key not in found or time > found[key][0]:
                found[key] = time, table | {"folder": str(path.parent)}
    return [table for _, (_, table) in sorted(found.items())]


def of_table(table: dict) -> Section:
    head, rows = grid(table)
    strong = frozenset(i for i, row in enumerate(rows) if any(best for _, best in row))
    blocks: list = [table["about"], Table(head, [[text for text, _ in row] for row in rows], slice(1, None), strong=strong)]
    for name in table.get("figures", {}):
        folder = Path(table["folder"])
        path = next((p for p in (folder / f"{name}.png", folder / f"{table['table']}-{name}.png") if p.exists()), None)
        if path is not None:
            blocks.append(Picture(path.name, path.read_bytes(), name))
    machine, done = table["hardware"], [cell for cell in table["cells"].values() if cell]
    certificate = [
        ["command", f"uv run {table['command']}"],
        ["code", ", ".join(table["code"])], ["seeds", ", ".join(map(str, table["seeds"]))],
        ["hardware", machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"],
        ["versions", ", ".join(f"{name} {version}" for name, version in table["versions"].items())],
        ["cells", f"{len(done)} done in {sum(cell['seconds'] for cell in done) / 3600:.1f} hours of processes"],
    ]
    blocks.append(Table(["", ""], certificate, slice(2, 2), folded="where these figures come from"))
    return table["title"], blocks


def runs(root: Path) -> list[list[str]]:
    """The folders of pretraining runs below it, the newest first: what was trained, how far, and what it is worth on test."""
    found = []
    for path in root.rglob("metrics.jsonl"):
        folder = path.parent
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            test = renamed(json.loads((folder / "test.json").read_text()))["pretrained"]
            last = next(row for row in reversed(rows) if "loss" in row)
            scores = [f"{test[name]:.1f}" if name in test else "" for name in SCORES]
            row = [str(folder.relative_to(root)), f"{last['epoch']:.3g}", f"{last['step']:,}", f"{last['loss']:.3f}", *scores]
            found.append((path.stat().st_mtime, row))
    return [row for _, row in sorted(found, reverse=True)]


def page(root: Path) -> str:
    made = tables([MEASURED, root / "tables"])
    sections = [of_table(table) for table in made]
    trained = runs(root)
    head = ["run", "epochs", "steps", "loss", *SCORES.values()]
    if trained:
        more = [f"{len(trained) - SHOWN} older ones are left out."] if len(trained) > SHOWN else []
        sections.append(("Runs", [Table(head, trained[:SHOWN], slice(1, None)), *more]))
    about = f"{len(made)} tables and {len(trained)} pretraining runs"
    return as_html("nolabel: tables, figures, runs", about, "", sections)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of runs")
    parser.add_argument("--out", type=Path, help="default: report.html in it")
    given = parser.parse_args(argv)
    if not given.runs.is_dir():
        print(f"error: runs={given.runs}: no such folder", file=sys.stderr)
        return 2
    out = given.out or given.runs / "report.html"
    checkpoint.write(out, page(given.runs))
    print(f"report: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
