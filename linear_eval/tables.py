"""The rows of an evaluation as text: on a terminal, and the cells of the report's tables."""
import textwrap
from collections.abc import Collection, Sequence

from core.image_size import size_text
from core.page import Table, markdown_block, plain
from linear_eval.pictures import short
from linear_eval.results import ENCODER, Evaluation, MultilabelRow, ResultRow, Row, percent
from linear_eval.rows import METHODS, baselines_ahead, method_title, sorted_rows

WIDTH = 120  # columns of a terminal
PERCENT = ("top5", "balanced_accuracy", "macro_f1", "ece", "validation")
HEAD = (
    "source", "method", "labels", "accuracy", "95 % interval", "top-5", "balanced", "macro F1", "ECE", "validation",
    "selected on", "settings", "note",
)
NUMBERS = slice(3, 10)  # columns of HEAD that are figures
BRIEF = (0, 1, 2, 3, 4, 9, 10, 11)  # columns of HEAD that the terminal shows, the last as far as there is room
OUTSIDE, FIXED = "settings as given", "fixed beforehand"  # "protocol none" and "nothing: fixed", to people
MULTILABEL = (
    "source", "method", "labels", "mAP", "95 % interval", "micro F1", "macro F1", "threshold", "validation", "selected on",
    "settings", "note",
)  # the columns where an image may have several labels


def head(evaluation: Evaluation) -> tuple[str, ...]:
    return MULTILABEL if evaluation.multilabel else HEAD


def numbers(evaluation: Evaluation) -> slice:
    """Columns that are figures."""
    return slice(NUMBERS.start, head(evaluation).index("selected on"))


def table(evaluation: Evaluation) -> list[list[str]]:
    """Every row as text, in `head`'s columns: most labels first, then by source and method."""
    return [_cells(row, evaluation.encoder.name) for row in sorted_rows(evaluation.rows)]


def _cells(row: Row, encoder: str) -> list[str]:
    spread = f" ± {row.std:.1f}" if row.std is not None else ""
    low, high = row.interval
    note = [row.note] if row.note else []
    note += [f"mean ± std of {row.draws} draws"] if row.draws > 1 else []
    return [
        encoder if row.is_encoders else row.source, method_title(row), percent(row.labels), f"{row.score:.1f}{spread}",
        f"{low:.1f} … {high:.1f}", *_figures(row), row.selected_on.replace("nothing: fixed", FIXED),
        ", ".join(f"{key} {setting(value)}" for key, value in row.chosen.items()), "; ".join(note),
    ]


def _figures(row: ResultRow | MultilabelRow) -> list[str]:
    if isinstance(row, ResultRow):
        return [figure(getattr(row, name)) for name in PERCENT]
    return [figure(row.micro_f1), figure(row.macro_f1), f"{row.threshold:.3g}", figure(row.validation)]


def figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def setting(value) -> str:
    """A setting; of several draws, each one's."""
    if isinstance(value, list):
        return "/".join(map(setting, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def title(evaluation: Evaluation) -> str:
    return f"{evaluation.encoder.name} on {evaluation.data.name}"


def facts(evaluation: Evaluation) -> str:
    """Which encoder, which data and which protocol, in a line."""
    e, d = evaluation.encoder, evaluation.data
    changes = [f"{name} {setting(value)}" for name, value in evaluation.protocol_changes.items()]
    changed = f", changed: {', '.join(changes)}" if changes else ""
    return (
        f"{e.source} ({e.parameters / 1e6:.2f} M parameters, {e.dim:,} features, {size_text(e.image_size)} px); "
        f"{d.train:,} training, {d.validation:,} validation, {d.test:,} test images of {len(d.classes)} classes; "
        f"{OUTSIDE if evaluation.protocol.startswith('none') else f'protocol {evaluation.protocol}'}{changed}"
    )


def text_table(evaluation: Evaluation) -> str:
    """The table for a terminal of WIDTH columns, with what it is of above and what is ahead of the encoder below."""
    about = textwrap.wrap(f"{title(evaluation)}: {facts(evaluation)}", WIDTH)
    if not evaluation.rows:
        return "\n".join(about)
    every = [list(head(evaluation)), *table(evaluation)]
    figures = numbers(evaluation)
    brief = [every[0].index(HEAD[i]) if HEAD[i] in every[0] else i for i in BRIEF]
    cells = [[row[i].removesuffix(" regression").removesuffix(" probe") for i in brief] for row in every]
    lines = aligned(cells, [i for i, column in enumerate(brief) if figures.start <= column < figures.stop])
    first, *body = [short(line, WIDTH) for line in lines]
    ahead = textwrap.wrap(baselines_ahead(evaluation.rows), WIDTH)
    return "\n".join([*about, "", first, "─" * max(map(len, body)), *body, "", *ahead]).rstrip()


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Lines of a table on a terminal.  right: columns that are aligned there"""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(w) if i in right else cell.ljust(w)
                      for i, (cell, w) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows]


def report_table(evaluation: Evaluation) -> Table:
    """The whole table, without the columns that are empty."""
    rows = table(evaluation)
    names, figures = head(evaluation), numbers(evaluation)
    kept = [i for i in range(len(names)) if any(row[i] not in ("", "–") for row in rows)]
    figures = slice(figures.start, sum(i < figures.stop for i in kept))
    own = frozenset(i for i, row in enumerate(sorted_rows(evaluation.rows)) if row.is_encoders)
    return Table([names[i] for i in kept], [[row[i] for i in kept] for row in rows], figures, strong=own)


def suite_table(evaluations: list[Evaluation]) -> str:
    """One encoder on several data sets, in Markdown: its test accuracies in %, and those it must beat."""
    columns = [(ENCODER, method) for method in ("knn", "linear", "logistic", "finetune")]
    columns += [(source, method) for source in ("raw pixels", "untrained") for method in ("knn", "linear")]
    columns_head = ["data", *(f"{'' if source == ENCODER else source + ': '}{METHODS[method]}" for source, method in columns)]
    body = []
    for one in evaluations:
        accuracies = {(row.source, row.method): row.score for row in one.rows if row.labels == 1}
        body.append([one.data.name, *(figure(accuracies.get(column)) for column in columns)])
    names = ", ".join(dict.fromkeys(f"{one.encoder.name} ({one.encoder.source})" for one in evaluations))
    several = [one.data.name for one in evaluations if one.multilabel]
    metric = "Test accuracy" + (f" (of {', '.join(several)}: mean average precision)" if several else "")
    about = f"{metric} in %, all labels, of {plain(names)}; protocol {evaluations[0].protocol}."
    return about + "\n\n" + markdown_block(Table(columns_head, body, slice(1, None))) + "\n"
