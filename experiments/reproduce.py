"""A table of a paper from one command: every cell by the tools' own command lines, then Markdown, LaTeX, JSON and figures.

    uv run python -m experiments.reproduce --table fashion_mnist_story --dry_run
    uv run python -m experiments.reproduce --table fashion_mnist_story --parallel 2
    uv run python -m experiments.reproduce --table cifar10_family --launcher slurm --slurm slurm_partition=gpu gpus_per_node=1

What is done is not done again, by this runner or another; what failed is shown with its log and tried again; stopped or killed
at any moment, the same command goes on. The table is left in runs/tables/<table>/ (<table>-smoke; <table>-some with --only),
its figures beside it, by paper_figures.make. --keep copies JSON, Markdown, pictures and the files that these are drawn from to
experiments/tables/measured/: `paper_figures.make --table experiments/tables/measured/<table>.json --out …` draws them again.
"""
import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from core import checkpoint, signals, training
from core.errors import Stopped
from core.machine import code, hardware, versions
from experiments import launch
from experiments.cells import ROOT, Cell, ordered, paths
from experiments.table import FOLDER, Table, latex, markdown

MEASURED = FOLDER / "measured"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", required=True, help="its name in experiments/tables, or a yaml's path")
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="list cells, commands and expected cost")
    parser.add_argument("--only", nargs="*", default=[], metavar="ROW", help="some rows, by their names; figures are left out")
    parser.add_argument("--smoke", action="store_true", help="the whole way at the smallest size")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other values of the table's variables")
    parser.add_argument("--launcher", choices=["local", "slurm", "print"], default="local")
    parser.add_argument("--parallel", type=int, default=0, help="cells at once here; 0: one a GPU, or one")
    parser.add_argument("--slurm", nargs="*", default=[], metavar="NAME=VALUE", help="submitit's parameters")
    parser.add_argument("--keep", action="store_true", help="copy the table to experiments/tables/measured")
    given = parser.parse_args(argv)
    with signals.installed("experiments.reproduce"):
        try:
            return reproduce(given)
        except ValueError as error:
            signals.say(f"error: {' '.join(str(error).split())}")
            return 2
        except signals.StopRequest as stop:
            signals.say(stop)
            return Stopped.code
        except KeyboardInterrupt:
            return 130


def reproduce(given) -> int:
    if given.keep and (given.smoke or given.only):
        raise ValueError("keep: a smoke table, or some rows of one, is not what is measured")
    table = Table.load(given.table, given.smoke, _pairs(given.set, "set"))
    if given.only:
        table.keep(given.only)
    cells = ordered(table.cells)
    if given.dry_run:
        print(listing(cells))
        return 0
    if given.launcher == "print":
        print(launch.printed(cells), end="")
        return 0
    if given.parallel < 0:
        raise ValueError(f"parallel={given.parallel}: must be 0 or more")
    settings = _pairs(given.slurm, "slurm")
    launcher = launch.Cluster(settings) if given.launcher == "slurm" else launch.Here(given.parallel, training.gpus())
    ended = launch.run(cells, launcher, say)
    said = " ".join(["python -m experiments.reproduce", *_said(given)])
    place = table.name + ("-smoke" if given.smoke else "") + ("-some" if given.only else "")
    out = Path("runs") / "tables" / place
    keep = given.keep and set(ended.values()) == {"done"}  # no half of a table
    missing = write(table, out, said, keep)
    drawn = draw(table, out, keep)
    failed = [cell for cell in cells if ended[cell.id] == "failed"]
    for cell in failed:
        print(f"failed: {cell.name}: {cell.why}\n  {cell.log}", file=sys.stderr)
    for why in missing:
        print(f"no figure: {why}", file=sys.stderr)
    if "stopped" in ended.values():
        print("stopped: the same command goes on", file=sys.stderr)
        return Stopped.code
    return 0 if drawn and not failed and not missing else 1


def draw(table: Table, out: Path, keep: bool) -> bool:
    """Its figures, by a process: drawing knows nothing of us.  → are all there?"""
    if not table.drawings:
        return True
    environment = os.environ | {"PYTHONPATH": paths()}
    ended = subprocess.run([sys.executable, "-m", "paper_figures.make", f"--table={out / 'table.json'}"], env=environment)
    for name in table.drawings if keep else ():
        if (picture := out / f"{name}.png").exists():
            shutil.copyfile(picture, MEASURED / f"{table.name}-{name}.png")
    return ended.returncode == 0


def inputs(said, folder: Path):
    """What is said of figures, their files of runs copied into the folder and named there."""
    if isinstance(said, dict):
        return {key: inputs(value, folder) for key, value in said.items()}
    if isinstance(said, list):
        return [inputs(value, folder) for value in said]
    if not isinstance(said, str) or Path(said).parts[:1] != ("runs",) or not Path(said).is_file():
        return said
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / f"{Path(said).parent.name}-{Path(said).name}"
    shutil.copyfile(said, copy)
    return str(copy.relative_to(ROOT)) if copy.is_relative_to(ROOT) else str(copy)


def _said(given) -> list[str]:
    smoke, changes = ["--smoke"] if given.smoke else [], ["--set", *given.set] if given.set else []
    only = ["--only", *map(shlex.quote, given.only)] if given.only else []
    return [f"--table {given.table}", *smoke, *changes, *only]


def _pairs(said: list[str], name: str) -> dict:
    """["epochs=3", "seeds=[0,1]"] → {"epochs": 3, "seeds": [0, 1]}.  Raises ValueError."""
    import yaml

    if wrong := [text for text in said if "=" not in text]:
        raise ValueError(f"{name}={wrong[0]}: written NAME=VALUE")
    try:
        return {key: yaml.safe_load(value) for key, value in (text.split("=", 1) for text in said)}
    except yaml.YAMLError as error:
        raise ValueError(f"{name}={' '.join(said)}: a value is no yaml: {' '.join(str(error).split())[:120]}") from error


def say(what: str, cell: Cell, done: int, total: int) -> None:
    print(f"[{done}/{total}] {what}: {cell.name}", file=sys.stderr, flush=True)


def listing(cells: list[Cell]) -> str:
    lines = []
    for cell in cells:
        expected = f"{cell.minutes:g} min" if cell.minutes else "not measured"
        state = "done" if cell.done else f"failed: {cell.why}" if cell.ended.get("code") else expected
        lines += [f"{cell.name}  ({state})", f"  {cell.text}"]
    left = [cell.minutes for cell in cells if not cell.done]
    cost = f"{sum(left):g} minutes of two cores to go, as expected" if all(left) else "what is left costs nobody knows what yet"
    return "\n".join([*lines, "", f"{len(cells)} cells, {len(cells) - len(left)} done; {cost}"])


def births(table: Table) -> dict:
    """Where its cells were done; of several machines the first, beside the names of all.  This one, where nothing is done."""
    records = [cell.ended for cell in table.cells if cell.done]
    if not records:
        return {"hardware": hardware(), "versions": versions(), "code": [code()]}
    machines = sorted({record["hardware"]["gpu"] or record["hardware"]["cpu"] for record in records})
    return {"hardware": records[0]["hardware"], "versions": records[0]["versions"], "machines": machines,
            "code": sorted({record["commit"] for record in records})}


def write(table: Table, out: Path, said: str, keep: bool) -> list[str]:
    """JSON, Markdown and LaTeX; the Markdown on the terminal too.  → what done cells do not say"""
    figures = table.figures() | {"command": said, **births(table)}
    out.mkdir(parents=True, exist_ok=True)
    text = markdown(figures)
    checkpoint.write(out / "table.json", json.dumps(figures, indent=1) + "\n")
    checkpoint.write(out / "table.md", text)
    checkpoint.write(out / "table.tex", latex(figures))
    if keep:
        MEASURED.mkdir(parents=True, exist_ok=True)
        kept = figures | {"figures": inputs(figures["figures"], MEASURED / table.name)}
        checkpoint.write(MEASURED / f"{table.name}.json", json.dumps(kept, indent=1) + "\n")
        checkpoint.write(MEASURED / f"{table.name}.md", text)
    print(text)
    print(f"table: {out}")
    return figures["missing"]


if __name__ == "__main__":
    sys.exit(main())
