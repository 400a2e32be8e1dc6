"""A table's result as Markdown and LaTeX."""
import re
from dataclasses import dataclass

from experiments.provenance import machine_names
from experiments.results import ResultRow, TableResult


@dataclass(frozen=True)
class Entry:
    text: str
    best: bool = False


def grid(result: TableResult) -> tuple[list[str], list[list[Entry]]]:
    """Titles and rows. A column with published figures has them in a column beside it."""
    head, rows = [""], [[Entry(row.name)] for row in result.rows]
    for name, column in result.columns.items():
        head.append(column.title)
        best = _best(result, name)
        for entries, row in zip(rows, result.rows, strict=True):
            entries.append(Entry(_measured(row, name, column.digits), row.name in best))
        if any(name in row.published for row in result.rows):
            head.append("published")
            for entries, row in zip(rows, result.rows, strict=True):
                entries.append(Entry(f"{row.published[name].value:g}" if name in row.published else ""))
    return head, rows


def _best(result: TableResult, name: str) -> set[str]:
    """Names of the rows of the best mean, as it is printed; none where no value is better or nothing competes."""
    column = result.columns[name]
    means = {row.name: round(row.mean[name], column.digits) for row in result.rows if name in row.mean and not row.reference}
    if not column.best or len(means) < 2:
        return set()
    top = (max if column.best == "high" else min)(means.values())
    return {row for row, mean in means.items() if mean == top}


def _measured(row: ResultRow, column: str, digits: int) -> str:
    """"86.1 ± 0.2", "86.1", "" without a value, or how many seeds are done."""
    if column not in row.values:
        return ""
    if column not in row.mean:
        done = [value for value in row.values[column] if value is not None]
        return f"… ({len(done)} of {len(row.values[column])})"
    std = f" ± {row.std[column]:.{digits}f}" if column in row.std else ""
    return f"{row.mean[column]:.{digits}f}{std}"


def markdown(result: TableResult) -> str:
    head, rows = grid(result)
    lines = [f"# {result.title}", "", result.about, "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(f"**{e.text}**" if e.best and e.text else e.text for e in row) + " |" for row in rows]
    return "\n".join([*lines, "", *_notes(result)]) + "\n"


def latex(result: TableResult) -> str:
    """A tabular of booktabs."""
    head, rows = grid(result)
    lines = [f"% {result.title}", rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule"]
    lines += [" & ".join(map(_escaped, head)) + r" \\", r"\midrule"]
    for row in rows:
        texts = (rf"\textbf{{{_escaped(e.text)}}}" if e.best and e.text else _escaped(e.text) for e in row)
        lines.append(" & ".join(texts) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *(f"% {line}" for line in _notes(result))]) + "\n"


def _notes(result: TableResult) -> list[str]:
    many = len(result.seeds)
    lines = [f"Mean ± standard deviation of {many} seeds." if many > 1 else f"Seed {result.seeds[0]} alone."]
    if sources := {claim.source for row in result.rows for claim in row.published.values()}:
        lines.append(f"Published: {'; '.join(sorted(sources))}.")
    lines += [f"{row.name}: {row.note}" for row in result.rows if row.note]
    lines += [line for row in result.rows if (line := _outside(row))]
    if machines := machine_names(result.cells.values()):
        lines.append(f"Measured on {'; '.join(machines)}.")
    return lines


def _outside(row: ResultRow) -> str:
    """Names the published figures from which the row is farther than the tolerance."""
    outside = [
        f"{claim.value:g} by more than {claim.tolerance:g}" for column, claim in row.published.items()
        if claim.tolerance is not None and column in row.mean and abs(row.mean[column] - claim.value) > claim.tolerance + 1e-9
    ]
    return f"{row.name} differs from the published {', '.join(outside)}." if outside else ""


def _escaped(text: str) -> str:
    text = re.sub(r"([&%$#_{}])", r"\\\1", text)
    for plain, tex in (("±", r"$\pm$"), ("×", r"$\times$"), ("…", r"\dots")):
        text = text.replace(plain, tex)
    return text
