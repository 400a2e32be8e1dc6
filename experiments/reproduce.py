"""Makes a table of a paper by one command: every cell by the tools' own command lines, then Markdown, LaTeX, JSON and figures.

    uv run python -m experiments.reproduce --table fashion_mnist_story --dry_run
    uv run python -m experiments.reproduce --table fashion_mnist_story --parallel 2
    uv run python -m experiments.reproduce --table cifar10_family --launcher slurm --slurm slurm_partition=gpu gpus_per_node=1

A finished cell is never run again, by this runner or another. A failed one is shown with its log and tried again. Stopped or
killed at any moment, the same command resumes. The table is written to runs/tables/<table>/ (<table>-smoke; <table>-some with
--only), with its figures, by paper_figures.make. --keep copies JSON, Markdown, pictures and the files that these are drawn from
to experiments/tables/measured/: `paper_figures.make --table experiments/tables/measured/<table>.json --out …` draws them again.
"""
import argparse
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from core import checkpoint, signals, training
from core.errors import Stopped
from experiments.cells import Cell, State, ordered, python_path
from experiments.code_version import ROOT
from experiments.launchers import LocalLauncher, SlurmLauncher
from experiments.render import latex, markdown
from experiments.runner import run_cells, shell_script
from experiments.table import Table
from experiments.table_file import FOLDER, load

MEASURED = FOLDER / "measured"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", required=True, help="its name in experiments/tables, or a yaml's path")
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="list cells, commands and expected cost")
    parser.add_argument("--only", nargs="*", default=[], metavar="ROW", help="some rows, by their names, without figures")
    parser.add_argument("--smoke", action="store_true", help="everything at the smallest size")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other values of the table's variables")
    parser.add_argument("--launcher", choices=["local", "slurm", "print"], default="local")
    parser.add_argument("--parallel", type=int, default=0, help="cells at once here; 0: one a GPU, or one")
    parser.add_argument("--slurm", nargs="*", default=[], metavar="NAME=VALUE", help="submitit's parameters")
    parser.add_argument("--keep", action="store_true", help="copy the table to experiments/tables/measured")
    options = parser.parse_args(argv)
    with signals.installed("experiments.reproduce"):
        try:
            return reproduce(options)
        except ValueError as error:
            signals.say(f"error: {' '.join(str(error).split())}")
            return 2
        except signals.StopRequest as stop:
            signals.say(stop)
            return Stopped.code
        except KeyboardInterrupt:
            return 130


def reproduce(options: argparse.Namespace) -> int:
    if options.keep and (options.smoke or options.only):
        raise ValueError("keep: a smoke table and some rows of a table are not kept")
    table = load(options.table, options.smoke, _pairs(options.set, "set"))
    if options.only:
        table.keep(options.only)
    cells = ordered(table.cells)
    if options.dry_run:
        print(listing(cells))
        return 0
    if options.launcher == "print":
        print(shell_script(cells), end="")
        return 0
    if options.parallel < 0:
        raise ValueError(f"parallel={options.parallel}: must be 0 or more")
    slurm = _pairs(options.slurm, "slurm")
    launcher = SlurmLauncher(slurm) if options.launcher == "slurm" else LocalLauncher(options.parallel, training.gpus())
    states = run_cells(cells, launcher, report)
    name = table.name + ("-smoke" if options.smoke else "") + ("-some" if options.only else "")
    out = Path("runs") / "tables" / name
    keep = options.keep and set(states.values()) == {State.DONE}  # whole tables only
    missing = write(table, out, _command(options), keep)
    drawn = draw(table, out, keep)
    failed = [cell for cell in cells if states[cell.id] is State.FAILED]
    for cell in failed:
        print(f"failed: {cell.name}: {cell.last_line}\n  {cell.log}", file=sys.stderr)
    for reason in missing:
        print(f"no figure: {reason}", file=sys.stderr)
    if State.STOPPED in states.values():
        print("stopped: the same command resumes", file=sys.stderr)
        return Stopped.code
    return 0 if drawn and not failed and not missing else 1


def write(table: Table, out: Path, command: str, keep: bool) -> list[str]:
    """JSON, Markdown and LaTeX; the Markdown on the terminal too.  → figures that finished cells lack"""
    result = table.result(command)
    out.mkdir(parents=True, exist_ok=True)
    text = markdown(result)
    checkpoint.write(out / "table.json", result.to_json())
    checkpoint.write(out / "table.md", text)
    checkpoint.write(out / "table.tex", latex(result))
    if keep:
        MEASURED.mkdir(parents=True, exist_ok=True)
        kept = replace(result, figures=copied(result.figures, MEASURED / table.name))
        checkpoint.write(MEASURED / f"{table.name}.json", kept.to_json())
        checkpoint.write(MEASURED / f"{table.name}.md", text)
    print(text)
    print(f"table: {out}")
    return result.missing


def draw(table: Table, out: Path, keep: bool) -> bool:
    """Draws the figures in another process, because paper_figures imports none of this.  → are all drawn?"""
    if not table.figures:
        return True
    command = [sys.executable, "-m", "paper_figures.make", f"--table={out / 'table.json'}"]
    process = subprocess.run(command, env=os.environ | {"PYTHONPATH": python_path()})
    for name in table.figures if keep else ():
        if (picture := out / f"{name}.png").exists():
            shutil.copyfile(picture, MEASURED / f"{table.name}-{name}.png")
    return process.returncode == 0


def copied(figure: Any, folder: Path) -> Any:
    """A figure's settings with the files of runs copied into a folder, and their paths there."""
    if isinstance(figure, dict):
        return {key: copied(value, folder) for key, value in figure.items()}
    if isinstance(figure, list):
        return [copied(value, folder) for value in figure]
    if not isinstance(figure, str) or Path(figure).parts[:1] != ("runs",) or not Path(figure).is_file():
        return figure
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / f"{Path(figure).parent.name}-{Path(figure).name}"
    shutil.copyfile(figure, copy)
    return str(copy.relative_to(ROOT)) if copy.is_relative_to(ROOT) else str(copy)


def report(message: str, cell: Cell, finished: int, total: int) -> None:
    print(f"[{finished}/{total}] {message}: {cell.name}", file=sys.stderr, flush=True)


def listing(cells: list[Cell]) -> str:
    """Cells, their states and commands, and the minutes that the unfinished ones are expected to take."""
    lines = []
    for cell in cells:
        expected = f"{cell.minutes:g} min" if cell.minutes else "not measured"
        state = "done" if cell.done else f"failed: {cell.last_line}" if cell.record and cell.record.code else expected
        lines += [f"{cell.name}  ({state})", f"  {cell.text}"]
    left = [cell.minutes for cell in cells if not cell.done]
    cost = f"{sum(left):g} minutes of two cores to go, as expected" if all(left) else "the cost of the others is not measured"
    return "\n".join([*lines, "", f"{len(cells)} cells, {len(cells) - len(left)} done; {cost}"])


def _command(options: argparse.Namespace) -> str:
    """The options that decide the table's figures."""
    lists = {"--set": options.set, "--only": options.only}
    words = ["--table", options.table, *(["--smoke"] if options.smoke else [])]
    words += [word for flag, values in lists.items() if values for word in (flag, *values)]
    return shlex.join(["python", "-m", "experiments.reproduce", *words])


def _pairs(texts: list[str], name: str) -> dict:
    """["epochs=3", "seeds=[0,1]"] → {"epochs": 3, "seeds": [0, 1]}.  Raises ValueError."""
    import yaml

    if wrong := [text for text in texts if "=" not in text]:
        raise ValueError(f"{name}={wrong[0]}: written NAME=VALUE")
    try:
        return {key: yaml.safe_load(value) for key, value in (text.split("=", 1) for text in texts)}
    except yaml.YAMLError as error:
        raise ValueError(f"{name}={' '.join(texts)}: a value is no yaml: {' '.join(str(error).split())[:120]}") from error


if __name__ == "__main__":
    sys.exit(main())
