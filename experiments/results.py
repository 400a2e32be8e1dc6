"""A table's result: typed rows, and their JSON, which experiments/tables/measured keeps and paper_figures reads."""
import json
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.cells import CellRecord
from experiments.provenance import Provenance
from linear_eval.names import renamed

Values = list[float | None]  # one a seed; None where its cell is not done


@dataclass(frozen=True)
class Column:
    """digits: after the point; best: "high" or "low", where one is better; scale: factor of the figures in cells' files."""

    title: str
    digits: int = 2
    best: str = ""
    scale: float = 1

    @classmethod
    def from_json(cls, name: str, document: Mapping) -> "Column":
        return cls(**{"title": name, **document})

    def to_json(self) -> dict:
        """Without the defaults."""
        values = {"title": self.title, "digits": self.digits, "best": self.best, "scale": self.scale}
        return {name: value for name, value in values.items() if value != getattr(Column, name, None)}


@dataclass(frozen=True)
class Published:
    """tolerance: how far a right reproduction may lie from it."""

    value: float
    source: str
    tolerance: float | None = None

    def to_json(self) -> list:
        return [self.value, self.source, *([] if self.tolerance is None else [self.tolerance])]


@dataclass(frozen=True)
class ResultRow:
    """values, cells: column → one a seed.  reference: is it a baseline, which is never marked as the best?"""

    name: str
    values: dict[str, Values]
    published: dict[str, Published] = field(default_factory=dict)
    note: str = ""
    reference: bool = False
    cells: dict[str, list[str]] = field(default_factory=dict)

    @property
    def mean(self) -> dict[str, float]:
        return {column: statistics.mean(values) for column, values in self._complete.items()}

    @property
    def std(self) -> dict[str, float]:
        return {column: statistics.stdev(values) for column, values in self._complete.items() if len(values) > 1}

    @property
    def _complete(self) -> dict[str, list[float]]:
        return {c: [v for v in values if v is not None] for c, values in self.values.items() if None not in values}

    @classmethod
    def from_json(cls, document: Mapping) -> "ResultRow":
        published = {column: Published(*values) for column, values in document["published"].items()}
        reference = document.get("reference", False)
        return cls(document["name"], document["values"], published, document["note"], reference, document.get("cells", {}))

    def to_json(self) -> dict:
        published = {column: claim.to_json() for column, claim in self.published.items()}
        return {"name": self.name, "note": self.note, "reference": self.reference, "values": self.values,
                "published": published, "mean": self.mean, "std": self.std, "cells": self.cells}


@dataclass(frozen=True)
class TableResult:
    """cells: id → record of the finished ones; missing: figures that finished cells lack; figures: what paper_figures reads."""

    table: str
    title: str
    about: str
    seeds: list[int]
    columns: dict[str, Column]
    rows: list[ResultRow]
    cells: dict[str, CellRecord]
    provenance: Provenance
    missing: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, document: Mapping) -> "TableResult":
        """Raises KeyError where the document is no table."""
        return cls(
            document["table"], document["title"], document["about"], document["seeds"],
            {name: Column.from_json(name, column) for name, column in document["columns"].items()},
            [ResultRow.from_json(row) for row in document["rows"]],
            {id: CellRecord.from_json(record) for id, record in document["cells"].items() if record},
            Provenance.from_json(document), document.get("missing", []), document.get("figures", {}),
        )

    def to_json(self) -> str:
        document = {
            "table": self.table, "title": self.title, "about": self.about, "seeds": self.seeds,
            "columns": {name: column.to_json() for name, column in self.columns.items()},
            "rows": [row.to_json() for row in self.rows], "cells": {id: vars(record) for id, record in self.cells.items()},
            "missing": self.missing, "figures": self.figures, **self.provenance.to_json(),
        }
        return json.dumps(document, indent=1) + "\n"


# ----------------------------------------------------------------------------------------------- reading the files of cells


def read(path: Path) -> Any:
    """The content of a JSON file, with scores by today's names; of a .jsonl its last line."""
    text = path.read_text()
    return renamed(json.loads(text.splitlines()[-1] if path.suffix == ".jsonl" else text))


def lookup(document: Any, path: str) -> list[float]:
    """The number at this path, or the list of numbers: lookup({"rows": [{"k": "a", "v": 1}]}, "rows[k=a].v") → [1.0]

    Raises ValueError.
    """
    here, walked = document, ""
    for step in re.findall(r"\[[^\]]+\]|[^.\[\]]+", path):
        if step.startswith("["):
            conditions = dict(pair.split("=", 1) for pair in step[1:-1].split(","))
            matches = [item for item in here if all(_equals(item.get(key), text) for key, text in conditions.items())]
            if len(matches) != 1:
                raise ValueError(f"{path}: {len(matches)} entries are {step}")
            here = matches[0]
        else:
            try:
                here = here[int(step)] if isinstance(here, list) else here[_key(here, step)]
            except (KeyError, IndexError, ValueError, TypeError) as error:
                there = ", ".join(here) if isinstance(here, dict) else f"{type(here).__name__} {str(here)[:60]}"
                raise ValueError(f"{path}: there is no {step} after {walked or 'the start'}; there is {there}") from error
        walked = f"{walked}.{step}".lstrip(".")
    numbers = here if isinstance(here, list) and here else [here]
    if any(isinstance(n, bool) or not isinstance(n, (int, float)) for n in numbers):
        raise ValueError(f"{path} is no number: {str(here)[:80]}")
    return [float(n) for n in numbers]


def _key(here: Any, step: str) -> str:
    """The key that a step names: "start*" is the only one that begins so; "linear" may be the old name of "logistic"."""
    if step.endswith("*") and isinstance(here, dict):
        matches = [key for key in here if key.startswith(step[:-1])]
        return matches[0] if len(matches) == 1 else step
    old = step == "linear" and isinstance(here, dict) and "linear" not in here and "logistic" in here
    return "logistic" if old else step  # linear_eval/names.py


def _equals(value: Any, text: str) -> bool:
    """Shares are numbers: "10 %" in an older file is 0.1."""
    if isinstance(value, str) and value.endswith(" %"):
        value = float(value[:-2]) / 100
    return str(value) == text or (isinstance(value, float) and f"{value:g}" == text)
