"""Reads a table from yaml.

    title: …                      about: what it shows, in a line
    variables: {data: digits, epochs: 5, seeds: [0, 1, 2]}     # {data} in settings; means and deviations are over the seeds
    smoke: {epochs: 0.1, seeds: [0]}                           # other values of the variables, for --smoke
    cells:
      pretrained:
        tool: ssl.pretrain
        settings: {method: "{method}", data: "{data}", epochs: "{epochs}", seed: "{seed}", out: "{out}"}
        files: {encoder: "{out}/encoder.safetensors", scores: "{out}/test.json"}
        minutes: 6                # of two cores, for --dry_run; codes: [0, 1] where another exit code is no failure
    columns:
      knn: {title: "kNN, %", digits: 1, best: high}            # scale: 100 where figures are shares
    values: {knn: "{pretrained.scores}#pretrained.knn"}        # of every row; a row may have others
    rows:
      - {name: SimCLR, with: {method: simclr}, published: {knn: [86.1, "arXiv 2002.05709, table 8"]}}

    figures:
      pretraining: {kind: curves, runs: {SimCLR: "{pretrained.metrics}"}}   # paper_figures/draw.py has the kinds

A value is a JSON file of a cell and a path in it: keys by dots (start* is the only one that begins so), of a list a number or
[key=value,…]. {<cell>.record} is the cell's own record, with its `seconds`. A setting whose variable is null is left out. A row
may have `reference: true` (a baseline, never marked as the best) and a published figure a third entry, its tolerance.
"""
import re
from pathlib import Path
from string import Formatter
from typing import Any

import yaml

from core import signals
from experiments.cells import Cell
from experiments.results import Column, Published
from experiments.table import Row, Table, Value

FOLDER = Path(__file__).resolve().parent / "tables"
KEYS = {"title", "about", "variables", "smoke", "cells", "columns", "values", "rows", "figures"}
ROW_KEYS = {"name", "with", "values", "published", "note", "reference"}
CELL_KEYS = {"tool", "settings", "files", "minutes", "codes"}
REFERENCE = r"\{(\w+)\.(\w+)\}"


def load(name: str, smoke: bool = False, changes: dict | None = None) -> Table:
    """By its name in experiments/tables, or the path of a yaml.  changes: of its variables.  Raises ValueError, one line."""
    path = Path(name) if name.endswith(".yaml") else FOLDER / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
        raise ValueError(f"table={name}: there are {there}, or a path of a yaml")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no yaml: {' '.join(str(error).split())[:160]}") from error
    return _Reader(path, content, smoke, changes or {}).table()


class _Reader:
    """A yaml's content → a Table; every error names the file and the place."""

    def __init__(self, path: Path, content: Any, smoke: bool, changes: dict):
        self.path = path
        if not isinstance(content, dict) or not {"title", "columns", "rows", "cells"} <= set(content):
            raise self.error("a table has title, cells, columns and rows")
        self.check_keys(content, KEYS, "the table")
        self.content = content | {"cells": {name: self.renamed(cell) for name, cell in content["cells"].items()}}
        self.variables = content.get("variables", {}) | (content.get("smoke", {}) if smoke else {})
        if unknown := set(changes) - set(self.variables):
            raise ValueError(f"{path.name} has no variable {', '.join(sorted(unknown))}; it has {', '.join(self.variables)}")
        self.variables |= changes
        self.seeds = self.variables.pop("seeds", [0])
        if not isinstance(self.seeds, list) or not self.seeds:
            raise self.error(f"seeds={self.seeds}: must be a list, such as [0,1,2]")

    def error(self, reason: str) -> ValueError:
        return ValueError(f"{self.path}: {reason}")

    def renamed(self, cell: Any) -> Any:
        """A cell's settings were once called words."""
        if not isinstance(cell, dict) or "words" not in cell:
            return cell
        signals.say(f"note: {self.path}: a cell's words are its settings now")
        return {"settings" if key == "words" else key: value for key, value in cell.items()}

    def check_keys(self, part: Any, keys: set[str], where: str, required: frozenset[str] = frozenset()) -> None:
        if not isinstance(part, dict) or not required <= set(part):
            raise self.error(f"{where} must have {', '.join(sorted(required))}")
        if unknown := set(part) - keys:
            raise self.error(f"{where} has {', '.join(sorted(unknown))}; it may have {', '.join(sorted(keys))}")

    def table(self) -> Table:
        content = self.content
        columns = {name: Column.from_json(name, column) for name, column in content["columns"].items()}
        table = Table(self.path.stem, content["title"], content.get("about", ""), columns, seeds=self.seeds)
        table.rows += [self.row(row, columns) for row in content["rows"]]
        table.figures = {name: self.figure(part, table.figure_cells) for name, part in content.get("figures", {}).items()}
        return table

    def row(self, row: Any, columns: dict[str, Column]) -> Row:
        self.check_keys(row, ROW_KEYS, f"row {str(row)[:60]}", frozenset({"name"}))
        values = {}
        for column, text in (self.content.get("values", {}) | row.get("values", {})).items():
            if text is None:
                continue
            if column not in columns:
                raise self.error(f"row {row['name']} has a value for {column}, which is no column")
            variables = self.variables | row.get("with", {})
            values[column] = [self.value(str(text), variables | {"seed": seed}) for seed in self.seeds]
        published = {column: Published(*claim) for column, claim in row.get("published", {}).items()}
        return Row(row["name"], values, published, row.get("note", ""), row.get("reference", False))

    def figure(self, part: Any, cells: list[Cell]) -> Any:
        """A figure's settings with the paths of cells' files, in a list where seeds have paths of their own."""
        if isinstance(part, dict):
            return {key: self.figure(value, cells) for key, value in part.items()}
        if not isinstance(part, str) or not (match := re.fullmatch(REFERENCE, part)):
            return part
        own = [self.cell(match[1], self.variables | {"seed": seed}) for seed in self.seeds]
        cells += own
        paths = list(dict.fromkeys(str(cell.file(match[2])) for cell in own))
        return paths[0] if len(paths) == 1 else paths

    def value(self, text: str, variables: dict) -> Value:
        match = re.fullmatch(REFERENCE + "#(.+)", text)
        if not match:
            raise self.error(f"a value is written {{cell.file}}#path, not {text}")
        cell = self.cell(match[1], variables)
        cell.file(match[2])  # raises where there is none
        return Value(cell, match[2], _Placeholders(self, variables).format(match[3]))

    def cell(self, name: str, variables: dict, needed_by: tuple[str, ...] = ()) -> Cell:
        if name not in self.content["cells"]:
            raise self.error(f"there is no cell {name}; there are {', '.join(self.content['cells'])}")
        if name in needed_by:
            raise self.error(f"cell {name} needs itself: {' → '.join((*needed_by, name))}")
        part = self.content["cells"][name]
        self.check_keys(part, CELL_KEYS, f"cell {name}", frozenset({"tool", "settings", "files"}))
        placeholders, flags = _Placeholders(self, variables), part["tool"].startswith("experiments.")
        settings = [argument(key, value, placeholders, flags) for key, value in part["settings"].items()]
        arguments = tuple(text for text in settings if text)
        files = tuple((key, placeholders.format(str(value))) for key, value in part["files"].items())
        references = sorted({pair for text in arguments for pair in re.findall(REFERENCE, text)})
        needs = {other: self.cell(other, variables, (*needed_by, name)) for other, _ in references}
        for other, file in references:
            needs[other].file(file)
        used = ", ".join(f"{key}={value}" for key, value in sorted(placeholders.used.items()) if value != "None")
        codes = tuple(part.get("codes", [0]))
        minutes = float(part.get("minutes", 0))
        return Cell(f"{name} {used}".strip(), part["tool"], arguments, files, tuple(needs.items()), minutes, codes)


def argument(key: str, value: Any, placeholders: "_Placeholders", flags: bool) -> str | None:
    """("epochs", 3) → "--epochs=3"; None where the value is null.  flags: true is --name alone, as argparse has it"""
    text = placeholders.format(f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value))
    if text in ("True", "False") and flags:
        return f"--{key}" if text == "True" else None
    text = text.lower() if text in ("True", "False") else text
    return None if text == "None" else f"--{key}={text}"


class _Placeholders(Formatter):
    """Replaces {variable} by its value, which may have placeholders too, and leaves {out}, {id} and {cell.file} to the cell."""

    def __init__(self, reader: _Reader, variables: dict):
        self.reader, self.variables = reader, variables
        self.used: dict[str, str] = {}

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> tuple[str, str]:
        if field_name in ("out", "id") or "." in field_name:
            return f"{{{field_name}}}", field_name
        if field_name not in self.variables:
            raise self.reader.error(f"there is no variable {field_name}; there are {', '.join(self.variables)}")
        others = {name: value for name, value in self.variables.items() if name != field_name}
        value = _Placeholders(self.reader, others).format(str(self.variables[field_name]))
        self.used[field_name] = value
        return value, field_name

    def format(self, text: str) -> str:  # type: ignore[override]
        try:
            return self.vformat(text, (), {})
        except ValueError as error:
            known = str(error).startswith(str(self.reader.path))
            raise error if known else self.reader.error(f"{text}: {error}") from error
