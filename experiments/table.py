"""A table: its rows and columns, and the cells whose files hold its figures. table_file.py reads it from yaml."""
from collections.abc import Sequence
from dataclasses import dataclass, field

from experiments.cells import Cell
from experiments.provenance import of_cells
from experiments.results import Column, Published, ResultRow, TableResult, Values, lookup, read


@dataclass(frozen=True)
class Value:
    """One figure of one seed: a path in a file of a cell."""

    cell: Cell
    file: str
    path: str

    def read(self) -> Values:
        """The figure, several where the file has a list; [None] where the cell is not done.  Raises ValueError where a
        finished cell has no such figure.
        """
        return [*lookup(read(self.cell.file(self.file)), self.path)] if self.cell.done else [None]


@dataclass(frozen=True)
class Row:
    name: str
    values: dict[str, list[Value]]  # column → a value a seed
    published: dict[str, Published]
    note: str = ""
    reference: bool = False


@dataclass
class Table:
    """figures: name → what paper_figures reads, with paths in place of cells' files; figure_cells: those that they need."""

    name: str
    title: str
    about: str
    columns: dict[str, Column]
    rows: list[Row] = field(default_factory=list)
    seeds: Sequence[int] = (0,)
    figures: dict[str, dict] = field(default_factory=dict)
    figure_cells: list[Cell] = field(default_factory=list)

    @property
    def cells(self) -> list[Cell]:
        return [value.cell for row in self.rows for values in row.values.values() for value in values] + self.figure_cells

    def keep(self, names: Sequence[str]) -> None:
        """Drop the other rows and all figures.  Raises ValueError."""
        if unknown := set(names) - {row.name for row in self.rows}:
            there = "; ".join(row.name for row in self.rows)
            raise ValueError(f"only={', '.join(sorted(unknown))}: {self.name} has the rows {there}")
        self.rows = [row for row in self.rows if row.name in names]
        self.figures, self.figure_cells = {}, []

    def result(self, command: str = "") -> TableResult:
        """What its cells have measured so far.  command: the one that made it"""
        missing: list[str] = []
        rows = [self._row(row, missing) for row in self.rows]
        records = {cell.id: cell.record for cell in self.cells if cell.done}
        provenance = of_cells(command, records.values())
        return TableResult(self.name, self.title, self.about, [*self.seeds], self.columns, rows, records, provenance, missing,
                           self.figures)

    def _row(self, row: Row, missing: list[str]) -> ResultRow:
        figures: dict[str, Values] = {}
        for column, values in row.values.items():
            figures[column] = []
            for value in values:
                try:
                    figures[column] += [None if v is None else v * self.columns[column].scale for v in value.read()]
                except ValueError as error:
                    figures[column].append(None)
                    missing.append(f"{row.name}, {column}: {value.cell.file(value.file)}: {error}")
        cells = {column: [value.cell.id for value in values] for column, values in row.values.items()}
        return ResultRow(row.name, figures, row.published, row.note, row.reference, cells)
