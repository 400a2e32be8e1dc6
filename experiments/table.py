"""A table as its yaml tells it, and as Markdown, LaTeX and JSON once its cells are done.

    title: …                      about: what it shows, in a line
    variables: {data: digits, epochs: 5, seeds: [0, 1, 2]}     # {data} in words; seeds: of which means and deviations are taken
    smoke: {epochs: 0.1, seeds: [0]}                           # what --smoke says in their place
    cells:
      pretrained:
        tool: ssl.pretrain
        words: {method: "{method}", data: "{data}", epochs: "{epochs}", seed: "{seed}", out: "{out}"}
        files: {encoder: "{out}/encoder.safetensors", scores: "{out}/test.json"}
        minutes: 6                # of two cores, for --dry_run; codes: [0, 1] where another exit code is none of failure
    columns:
      knn: {title: "kNN, %", digits: 1, best: high}            # scale: 100 where figures are shares
    values: {knn: "{pretrained.scores}#pretrained.knn"}        # of every row; a row may have others
    rows:
      - {name: SimCLR, with: {method: simclr}, published: {knn: [86.1, "arXiv 2002.05709, table 8"]}}

    figures:
      pretraining: {kind: curves, runs: {SimCLR: "{pretrained.metrics}"}}   # paper_figures/draw.py has the kinds

A value is a JSON file of a cell and a path in it: keys by dots (start* is the one that starts so), of a list a number or
[key=value,…]. A variable that is null leaves its word out.
"""
import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from experiments.cells import Cell
from linear_eval.names import renamed

FOLDER = Path(__file__).resolve().parent / "tables"
KEYS = {"title", "about", "variables", "smoke", "cells", "columns", "values", "rows", "figures"}
ROW_KEYS, CELL_KEYS = {"name", "with", "values", "published", "note"}, {"tool", "words", "files", "minutes", "codes"}
REFERENCE = r"\{(\w+)\.(\w+)\}"


@dataclass(frozen=True)
class Value:
    """One figure of one seed."""

    cell: Cell
    file: str
    path: str

    @property
    def read(self) -> list[float | None]:
        """What is there, several figures where a list is; [None] where the cell is not done.  Raises ValueError where a cell
        that is done says nothing there.
        """
        return found(renamed(json.loads(self.cell.file(self.file).read_text())), self.path) if self.cell.done else [None]


@dataclass(frozen=True)
class Row:
    name: str
    values: dict[str, list[Value]]  # column → a value a seed
    published: dict[str, tuple[float, str]]
    note: str = ""


@dataclass
class Table:
    name: str
    title: str
    about: str
    columns: dict[str, dict]
    rows: list[Row] = field(default_factory=list)
    seeds: Sequence[int] = (0,)
    drawings: dict[str, dict] = field(default_factory=dict)  # figure → what paper_figures must know, paths in place of cells
    drawn: list[Cell] = field(default_factory=list)  # cells that figures alone need

    @property
    def cells(self) -> list[Cell]:
        """Those whose figures it shows."""
        return [value.cell for row in self.rows for values in row.values.values() for value in values] + self.drawn

    @staticmethod
    def load(name: str, smoke: bool = False, changes: dict | None = None) -> "Table":
        """By its name in experiments/tables, or the path of a yaml.  changes: of its variables.

        Raises ValueError, one line.
        """
        path = Path(name) if name.endswith(".yaml") else FOLDER / f"{name}.yaml"
        if not path.is_file():
            there = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
            raise ValueError(f"table={name}: there are {there}, or a path of a yaml")
        try:
            said = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is no yaml: {' '.join(str(error).split())[:160]}") from error
        return _Reader(path, said, smoke, changes or {}).table()

    def keep(self, names: Sequence[str]) -> None:
        """These rows alone, and no figures.  Raises ValueError."""
        if unknown := set(names) - {row.name for row in self.rows}:
            there = "; ".join(row.name for row in self.rows)
            raise ValueError(f"only={', '.join(sorted(unknown))}: {self.name} has the rows {there}")
        self.rows = [row for row in self.rows if row.name in names]
        self.drawings, self.drawn = {}, []

    def figures(self) -> dict:
        """Everything it shows, as JSON has it; null where a cell is not done; under "missing", what done cells do not say."""
        rows, missing = [], []
        for row in self.rows:
            values = {}
            for column, asked in row.values.items():
                scale = self.columns[column].get("scale", 1)
                values[column] = []
                for value in asked:
                    try:
                        values[column] += [None if v is None else v * scale for v in value.read]
                    except ValueError as error:
                        values[column].append(None)
                        missing.append(f"{row.name}, {column}: {value.cell.file(value.file)}: {error}")
            rows.append({
                "name": row.name, "note": row.note, "values": values, "published": row.published,
                "mean": {c: statistics.mean(v) for c, v in values.items() if None not in v},
                "std": {c: statistics.stdev(v) for c, v in values.items() if None not in v and len(v) > 1},
                "cells": {c: [v.cell.id for v in row.values[c]] for c in row.values},
            })
        records = {cell.id: cell.ended for cell in self.cells if cell.done}
        return {"table": self.name, "title": self.title, "about": self.about, "seeds": list(self.seeds),
                "columns": self.columns, "rows": rows, "cells": records, "missing": missing,
                "figures": self.drawings}


class _Reader:
    """A yaml's content → a Table; every mistake names the file and the place."""

    def __init__(self, path: Path, said, smoke: bool, changes: dict):
        self.path = path
        if not isinstance(said, dict) or not {"title", "columns", "rows", "cells"} <= set(said):
            raise self.wrong("a table has title, cells, columns and rows")
        self.known(said, KEYS, "the table")
        self.said = said
        self.variables = said.get("variables", {}) | (said.get("smoke", {}) if smoke else {})
        if unknown := set(changes) - set(self.variables):
            raise ValueError(f"{path.name} has no variable {', '.join(sorted(unknown))}; it has {', '.join(self.variables)}")
        self.variables |= changes
        self.seeds = self.variables.pop("seeds", [0])
        if not isinstance(self.seeds, list) or not self.seeds:
            raise self.wrong(f"seeds={self.seeds}: must be a list, such as [0,1,2]")

    def wrong(self, why: str) -> ValueError:
        return ValueError(f"{self.path}: {why}")

    def known(self, said: dict, keys: set[str], where: str, needed: set[str] = frozenset()) -> None:
        if not isinstance(said, dict) or not needed <= set(said):
            raise self.wrong(f"{where} must say {', '.join(sorted(needed))}")
        if unknown := set(said) - keys:
            raise self.wrong(f"{where} says {', '.join(sorted(unknown))}; it may say {', '.join(sorted(keys))}")

    def table(self) -> Table:
        table = Table(self.path.stem, self.said["title"], self.said.get("about", ""), self.said["columns"], seeds=self.seeds)
        for row in self.said["rows"]:
            self.known(row, ROW_KEYS, f"row {str(row)[:60]}", {"name"})
            values = {}
            for column, text in (self.said.get("values", {}) | row.get("values", {})).items():
                if text is None:
                    continue
                if column not in table.columns:
                    raise self.wrong(f"row {row['name']} has a value for {column}, which is no column")
                values[column] = [self.value(str(text), self.variables | row.get("with", {}) | {"seed": s}) for s in self.seeds]
            published = {column: tuple(pair) for column, pair in row.get("published", {}).items()}
            table.rows.append(Row(row["name"], values, published, row.get("note", "")))
        table.drawings = {name: self.drawing(said, table.drawn) for name, said in self.said.get("figures", {}).items()}
        return table

    def drawing(self, said, needed: list[Cell]):
        """A cell's file → its path, or a list of them where seeds have paths of their own."""
        if isinstance(said, dict):
            return {key: self.drawing(value, needed) for key, value in said.items()}
        if not isinstance(said, str) or not (match := re.fullmatch(REFERENCE, said)):
            return said
        cells = [self.cell(match[1], self.variables | {"seed": seed}) for seed in self.seeds]
        needed += cells
        paths = list(dict.fromkeys(str(cell.file(match[2])) for cell in cells))
        return paths[0] if len(paths) == 1 else paths

    def value(self, text: str, variables: dict) -> Value:
        match = re.fullmatch(REFERENCE + "#(.+)", text)
        if not match:
            raise self.wrong(f"a value is written {{cell.file}}#path; it says {text}")
        cell = self.cell(match[1], variables)
        cell.file(match[2])  # is there one?
        return Value(cell, match[2], self.filled(match[3], variables))

    def cell(self, name: str, variables: dict, under: tuple[str, ...] = ()) -> Cell:
        if name not in self.said["cells"]:
            raise self.wrong(f"there is no cell {name}; there are {', '.join(self.said['cells'])}")
        if name in under:
            raise self.wrong(f"cell {name} needs itself: {' → '.join((*under, name))}")
        said = self.said["cells"][name]
        self.known(said, CELL_KEYS, f"cell {name}", {"tool", "words", "files"})
        used: dict = {}
        flags = said["tool"].startswith("experiments.")
        words = tuple(w for key, value in said["words"].items() if (w := self.word(key, value, variables, used, flags)))
        files = tuple((key, self.filled(value, variables, used)) for key, value in said["files"].items())
        named = sorted({m[0] for word in words for m in re.findall(REFERENCE, word)})
        needs = tuple((other, self.cell(other, variables, (*under, name))) for other in named)
        told = ", ".join(f"{key}={value}" for key, value in sorted(used.items()) if value != "None")
        name = f"{name} {told}".strip()
        cell = Cell(name, said["tool"], words, files, needs, float(said.get("minutes", 0)), tuple(said.get("codes", [0])))
        for other, file in (pair for word in words for pair in re.findall(REFERENCE, word)):
            dict(needs)[other].file(file)
        return cell

    def word(self, key: str, value, variables: dict, used: dict, flags: bool) -> str | None:
        """flags: true is --name alone, as argparse has it."""
        text = f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
        text = self.filled(text, variables, used)
        if text in ("True", "False"):
            if flags:
                return f"--{key}" if text == "True" else None
            text = text.lower()
        return None if text == "None" else f"--{key}={text}"

    def filled(self, text: str, variables: dict, used: dict | None = None) -> str:
        """{variable} → its value; {out}, {id} and {cell.file} are left for later."""

        def put(match) -> str:
            name = match[1]
            if name in ("out", "id"):
                return match[0]
            if name not in variables:
                raise self.wrong(f"there is no variable {name}; there are {', '.join(variables)}")
            value = self.filled(str(variables[name]), {k: v for k, v in variables.items() if k != name})  # may name others
            if used is not None:
                used[name] = value
            return value

        return re.sub(r"\{(\w+)\}", put, str(text))


def found(tree, path: str) -> list[float]:
    """The number at this place, or the list of numbers.  Raises ValueError."""
    here, walked = tree, ""
    for part in re.findall(r"\[[^\]]+\]|[^.\[\]]+", path):
        if part.startswith("["):
            wanted = dict(pair.split("=", 1) for pair in part[1:-1].split(","))
            match = [item for item in here if all(str(item.get(k)) == v for k, v in wanted.items())]
            if len(match) != 1:
                raise ValueError(f"{path}: {len(match)} entries are {part}")
            here = match[0]
        else:
            if part.endswith("*") and isinstance(here, dict):
                match = [key for key in here if key.startswith(part[:-1])]
                part = match[0] if len(match) == 1 else part
            if part == "linear" and isinstance(here, dict) and "linear" not in here and "logistic" in here:
                part = "logistic"  # as a table may still call it: linear_eval/names.py
            try:
                here = here[int(part)] if isinstance(here, list) else here[part]
            except (KeyError, IndexError, ValueError, TypeError) as error:
                there = ", ".join(here) if isinstance(here, dict) else f"{type(here).__name__} {str(here)[:60]}"
                raise ValueError(f"{path}: there is no {part} after {walked or 'the start'}; there is {there}") from error
        walked = f"{walked}.{part}".lstrip(".")
    numbers = here if isinstance(here, list) and here else [here]
    if any(isinstance(n, bool) or not isinstance(n, (int, float)) for n in numbers):
        raise ValueError(f"{path} is no number: {str(here)[:80]}")
    return [float(n) for n in numbers]


# ------------------------------------------------------------------------------------------------------------------ text


def _shown(row: dict, column: str, digits: int) -> str:
    """"86.1 ± 0.2", "86.1", or … where it is not measured."""
    if column not in row["values"]:
        return ""
    if column not in row["mean"]:
        done = [v for v in row["values"][column] if v is not None]
        return f"… ({len(done)} of {len(row['values'][column])})"
    std = f" ± {row['std'][column]:.{digits}f}" if column in row["std"] else ""
    return f"{row['mean'][column]:.{digits}f}{std}"


def _winners(figures: dict) -> dict[str, set[str]]:
    """Column → names of the rows of the best mean, where the column says which is better."""
    best = {}
    for column, how in figures["columns"].items():
        digits, rows = how.get("digits", 2), [row for row in figures["rows"] if column in row["mean"]]
        means = {row["name"]: round(row["mean"][column], digits) for row in rows}
        if how.get("best") and len(means) > 1:
            top = (max if how["best"] == "high" else min)(means.values())
            best[column] = {name for name, mean in means.items() if mean == top}
    return best


def grid(figures: dict) -> tuple[list[str], list[list[tuple[str, bool]]]]:
    """(head, rows of (text, is it the best?)), a column of published figures beside each that has some."""
    winners = _winners(figures)
    printed = {c for row in figures["rows"] for c in row["published"]}
    head, rows = [""], [[(row["name"], False)] for row in figures["rows"]]
    for column, how in figures["columns"].items():
        head.append(how.get("title", column))
        for line, row in zip(rows, figures["rows"], strict=True):
            line.append((_shown(row, column, how.get("digits", 2)), row["name"] in winners.get(column, ())))
        if column in printed:
            head.append("published")
            for line, row in zip(rows, figures["rows"], strict=True):
                line.append((f"{row['published'][column][0]:g}" if column in row["published"] else "", False))
    return head, rows


def markdown(figures: dict) -> str:
    head, rows = grid(figures)
    lines = [f"# {figures['title']}", "", figures["about"], "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        lines.append("| " + " | ".join(f"**{text}**" if best and text else text for text, best in row) + " |")
    lines += ["", *_foot(figures)]
    return "\n".join(lines) + "\n"


def _foot(figures: dict) -> list[str]:
    many = len(figures["seeds"])
    lines = [f"Mean ± standard deviation of {many} seeds." if many > 1 else f"Seed {figures['seeds'][0]} alone."]
    sources = {pair[1] for row in figures["rows"] for pair in row["published"].values()}
    if sources:
        lines.append(f"Published: {'; '.join(sorted(sources))}.")
    lines += [f"{row['name']}: {row['note']}" for row in figures["rows"] if row["note"]]
    machines = {cell["hardware"]["gpu"] or cell["hardware"]["cpu"] for cell in figures["cells"].values()}
    if machines:
        lines.append(f"Measured on {'; '.join(sorted(machines))}.")
    return lines


def latex(figures: dict) -> str:
    """A tabular of booktabs."""
    head, rows = grid(figures)
    lines = [f"% {figures['title']}", rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule"]
    lines += [" & ".join(_escaped(text) for text in head) + r" \\", r"\midrule"]
    for row in rows:
        lines.append(" & ".join(rf"\textbf{{{_escaped(t)}}}" if best and t else _escaped(t) for t, best in row) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", *(f"% {line}" for line in _foot(figures))]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    text = re.sub(r"([&%$#_{}])", r"\\\1", text)
    for plain, tex in (("±", r"$\pm$"), ("×", r"$\times$"), ("…", r"\dots")):
        text = text.replace(plain, tex)
    return text
