"""results.json → what a person reads: a table on the terminal, report.md, and report.html, one file that needs nothing else."""
import json
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core import checkpoint
from linear_eval import metrics, pictures
from linear_eval.page import Code, Picture, Section, Table, as_html, as_markdown, markdown_block, plain
from linear_eval.pictures import METHODS, SOURCES, order

WIDTH = 120  # columns of a terminal
PERCENT = ("top5", "balanced_accuracy", "macro_f1", "ece", "validation")
HEAD = (
    "source", "method", "labels", "accuracy", "95 % interval", "top-5", "balanced", "macro F1", "ECE", "validation",
    "selected on", "settings", "note",
)
NUMBERS = slice(3, 10)  # columns of HEAD that are figures
BRIEF = (0, 1, 2, 3, 4, 9, 10, 11)  # columns of HEAD that the terminal shows, the last as far as there is room
FOLDED = 30  # classes from which the table by class is folded away


@dataclass(frozen=True)
class Overlays:
    """What Grad-CAM shows.  images: B,C,S,S uint8; heat: B,S,S in [0, 1]; labels and predicted: B"""

    images: np.ndarray
    heat: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class Evidence:
    """What the figures show beside results.json; a part that is None has no section.

    labels: M of the test images. scores: M,C of the row that `headline` names; probabilities: whether they are.
    images, train_images: positions → B,C,S,S uint8, of test and training images.
    queries: Q positions of test images; nearest: Q,k positions of the training images nearest to each, nearest first.
    features: M,D of the test images, for the map.
    """

    labels: np.ndarray
    scores: np.ndarray | None = None
    probabilities: bool = True
    images: Callable[[np.ndarray], np.ndarray] | None = None
    train_images: Callable[[np.ndarray], np.ndarray] | None = None
    train_labels: np.ndarray | None = None
    queries: np.ndarray | None = None
    nearest: np.ndarray | None = None
    features: np.ndarray | None = None
    overlays: Overlays | None = None


def write(folder: Path, results: dict, evidence: Evidence | None) -> list[Path]:
    """report.md, report.html, the figures and figures.json, the numbers that some are drawn from; each whole or not there.

    → what was written
    """
    numbers = _numbers(results, evidence) if evidence else {}
    page = [*_overview(results), *(_evidence(results, evidence, numbers) if evidence else []), *_birth(results)]
    figures = {block.name: block.png for _, blocks in page for block in blocks if isinstance(block, Picture)}
    about = title(results), facts(results)
    files = {"report.md": as_markdown(*about, page), "report.html": as_html(*about, _tiles(results), page), **figures}
    if numbers:
        files["figures.json"] = json.dumps(numbers, default=lambda a: np.round(a, 3).tolist()) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        checkpoint.write(folder / name, content)
    return [folder / name for name in files]


def headline(results: dict) -> int:
    """Index of the row that is looked at closely: the encoder's with all labels that is best on *validation*, never on test.

    Where no row is the encoder's with all labels, of the encoder's, and where none is, of all.
    """
    rows = results["rows"]
    ours = [i for i, row in enumerate(rows) if row["source"] == "encoder"] or list(range(len(rows)))
    candidates = [i for i in ours if rows[i]["labels"] == "100 %"] or ours
    return _best(rows, candidates)


def _best(rows: list[dict], candidates: list[int]) -> int:
    return max(candidates, key=lambda i: -1 if rows[i]["validation"] is None else rows[i]["validation"])


def candour(results: dict) -> str:
    """Say it where the encoder does not pay: what is ahead of it by the same method and labels.

    A method that the encoder was not judged by is held against its best on validation. Empty with nothing to compare.
    """
    rows, ahead, compared = results["rows"], [], 0
    for row in sorted(rows, key=_place):
        ours = [i for i, r in enumerate(rows) if r["source"] == "encoder" and r["labels"] == row["labels"]]
        if row["source"] == "encoder" or not ours:
            continue
        same = [i for i in ours if rows[i]["method"] == row["method"]]
        own = rows[same[0] if same else _best(rows, ours)]
        compared += 1
        if row["accuracy"] > own["accuracy"]:
            against = "" if same else f" by {_method(own)}"
            share = "" if row["labels"] == "100 %" else f" with {row['labels']} of the labels"
            ahead.append(f"{row['source']} by {_method(row)}{share} ({row['accuracy']:.1f}, it {own['accuracy']:.1f}{against})")
    if ahead:
        return f"Ahead of the encoder: {'; '.join(ahead)}."
    return "Nothing it was compared with is ahead of the encoder." if compared else ""


# ----------------------------------------------------------------------------------------------------------------- tables


def table(results: dict) -> list[list[str]]:
    """Every row of results as words, in HEAD's columns: most labels first, then by source and method."""
    return [_cells(row, results["encoder"]["name"]) for row in sorted(results["rows"], key=_place)]


def _place(row: dict) -> tuple:
    sources, methods = order(SOURCES, [*SOURCES, row["source"]]), order(list(METHODS), [*METHODS, row["method"]])
    return -row["train_images"], sources.index(row["source"]), methods.index(row["method"])


def _cells(row: dict, encoder: str) -> list[str]:
    spread = f" ± {row['std']:.1f}" if row["std"] is not None else ""
    low, high = row["interval"]
    figures = [_figure(row[name]) for name in PERCENT]
    note = [row["note"]] if row["note"] else []
    note += [f"mean ± std of {row['draws']} draws"] if row["draws"] > 1 else []
    source = encoder if row["source"] == "encoder" else row["source"]
    return [
        source, _method(row), row["labels"], f"{row['accuracy']:.1f}{spread}", f"{low:.1f} … {high:.1f}", *figures,
        row["selected_on"], ", ".join(f"{key} {_value(value)}" for key, value in row["chosen"].items()), "; ".join(note),
    ]


def _method(row: dict) -> str:
    return METHODS.get(row["method"], row["method"])


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _value(value) -> str:
    """A setting; of several draws, each one's."""
    if isinstance(value, list):
        return "/".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def title(results: dict) -> str:
    return f"{results['encoder']['name']} on {results['data']['name']}"


def facts(results: dict) -> str:
    """Which encoder, which data and which protocol, in a line."""
    e, d = results["encoder"], results["data"]
    changes = [f"{name} {_value(value)}" for name, value in results["protocol_changes"].items()]
    changed = f", changed: {', '.join(changes)}" if changes else ""
    return (
        f"{e['source']} ({e['parameters'] / 1e6:.2f} M parameters, {e['dim']:,} features, {e['image_size']} px); "
        f"{d['train']:,} training, {d['validation']:,} validation, {d['test']:,} test images of {len(d['classes'])} classes; "
        f"protocol {results['protocol']}{changed}"
    )


def text_table(results: dict) -> str:
    """The table for a terminal of WIDTH columns, with what it is of above and what is ahead of the encoder below."""
    every = [list(HEAD), *table(results)]
    lines = [[row[i].removesuffix(" regression").removesuffix(" probe") for i in BRIEF] for row in every]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [NUMBERS.start <= i < NUMBERS.stop for i in BRIEF]
    said = [
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right, strict=True)).rstrip()
        for line in lines
    ]
    head, *body = [pictures.short(line, WIDTH) for line in said]
    about, ahead = textwrap.wrap(f"{title(results)}: {facts(results)}", WIDTH), textwrap.wrap(candour(results), WIDTH)
    return "\n".join([*about, "", head, "─" * max(map(len, body)), *body, "", *ahead]).rstrip()


def markdown_table(results: dict) -> str:
    """The whole table in Markdown, without the columns that are empty."""
    return markdown_block(_headline_table(results))


def suite_table(results: list[dict]) -> str:
    """One encoder on several data sets, in Markdown: its test accuracies in %, and those it must beat."""
    asked = [("encoder", method) for method in ("knn", "linear", "logistic", "finetune")]
    asked += [(source, method) for source in ("raw pixels", "untrained") for method in ("knn", "linear")]
    head = ["data", *(f"{'' if source == 'encoder' else source + ': '}{METHODS[method]}" for source, method in asked)]
    body = []
    for one in results:
        found = {(r["source"], r["method"]): r["accuracy"] for r in one["rows"] if r["labels"] == "100 %"}
        body.append([one["data"]["name"], *(_figure(found.get(key)) for key in asked)])
    names = ", ".join(dict.fromkeys(f"{one['encoder']['name']} ({one['encoder']['source']})" for one in results))
    said = f"Test accuracy in %, all labels, of {plain(names)}; protocol {results[0]['protocol']}."
    return said + "\n\n" + markdown_block(Table(head, body, slice(1, None))) + "\n"


# --------------------------------------------------------------------------------------------------------------- sections


def _headline_table(results: dict) -> Table:
    rows = table(results)
    kept = [i for i in range(len(HEAD)) if any(row[i] not in ("", "–") for row in rows)]
    numbers = slice(NUMBERS.start, sum(i < NUMBERS.stop for i in kept))
    ours = frozenset(i for i, row in enumerate(sorted(results["rows"], key=_place)) if row["source"] == "encoder")
    return Table([HEAD[i] for i in kept], [[row[i] for i in kept] for row in rows], numbers, strong=ours)


def _overview(results: dict) -> list[Section]:
    rows, curve = sorted(results["rows"], key=_place), results["curve"]
    draw = pictures.forest(rows, results["encoder"]["name"])
    sections = [
        ("Accuracy", [
            *([said] if (said := candour(results)) else []),
            _headline_table(results),
            "All in %, on test images. Interval: Wilson's, over test images like these; of several draws of the labelled "
            "images, of their mean. Balanced: mean recall of the classes. ECE: expected calibration error over 15 bins, where "
            "scores are probabilities. Settings were chosen on what “selected on” names; the test split chose nothing.",
            Picture("accuracy.png", draw, "Test accuracy with 95 % intervals"),
        ]),
    ]
    if curve:
        draw = pictures.curve(curve, results["encoder"]["name"])
        sections.append(("Label efficiency", [Picture("curve.png", draw, "Test accuracy by labelled images a class")]))
    return sections


def _numbers(results: dict, e: Evidence) -> dict:
    """What figures are drawn from.

    confusion: C,C numbers of test images, rows true classes, of the row that `headline` names; map: title → M,2; labels: M
    """
    found = {"classes": results["data"]["classes"]}
    if e.scores is not None:
        found |= {"of": _which(results), "confusion": metrics.confusion(e.scores, e.labels)}
    if e.features is not None and len(e.features) >= 10 and e.features.shape[1] > 1:
        some = pictures.mapped(len(e.features))
        points = pictures.plane(np.asarray(e.features[some], np.float32), results["seed"])
        found |= {"map": points, "labels": e.labels[some]}
    return found


def _which(results: dict) -> str:
    row = results["rows"][headline(results)]
    source = results["encoder"]["name"] if row["source"] == "encoder" else row["source"]
    return f"{source}, {_method(row)}, {row['labels']} of the labels"


def _evidence(results: dict, e: Evidence, numbers: dict) -> list[Section]:
    names = results["data"]["classes"]
    sections = _of_scores(e, names, numbers) if e.scores is not None else []
    if e.nearest is not None and e.images and e.train_images:
        flat = e.train_images(e.nearest.ravel())
        near = flat.reshape(*e.nearest.shape, *flat.shape[1:])
        draw = pictures.neighbours(e.images(e.queries), e.labels[e.queries], near, e.train_labels[e.nearest], names)
        about = "A test image (grey frame) and the training images nearest to it. Blue: of its class; orange: of another"
        sections.append(("Nearest neighbours", [Picture("neighbours.png", draw, about)]))
    if "map" in numbers:
        draw = pictures.maps(numbers["map"], numbers["labels"], names)
        shown = f"{len(numbers['labels']):,} test images by their features"
        sections.append(("Map of the features", [Picture("maps.png", draw, f"{shown}; labels colour them and place nothing")]))
    if e.overlays:
        o = e.overlays
        draw = pictures.overlays(o.images, o.heat, o.labels, o.predicted, names)
        about = "Bright: what speaks for the predicted class (Grad-CAM). Orange: true class → mistaken prediction"
        sections.append(("Where it looks", [Picture("gradcam.png", draw, about)]))
    return sections


def _of_scores(e: Evidence, names: list[str], numbers: dict) -> list[Section]:
    """What one row gets right and wrong."""
    best = f"Of the row that is best on validation: {numbers['of']}."
    columns = ("precision", "recall", "f1")
    found = metrics.per_class(e.scores, e.labels, names)
    numbered = len(names) > pictures.NAMED  # as the confusion matrix's axes are
    called = [f"{i} {name}" if numbered else name for i, name in enumerate(names)]
    rows = [[c, *(_figure(r[k]) for k in columns), f"{r['images']:,}"] for c, r in zip(called, found, strict=True)]
    folded = f"All {len(names)} classes" if len(names) >= FOLDED else ""
    draw = pictures.confusion(numbers["confusion"], names)
    about = "Rows: true classes; columns: predictions" + ("; numbers as below" if numbered else "")
    sections = [
        ("Confusion", [best, Picture("confusion.png", draw, about)]),
        ("By class", [Table(["class", "precision", "recall", "F1", "test images"], rows, slice(1, None), folded)]),
    ]
    if e.probabilities:
        draw = pictures.reliability(metrics.reliability(e.scores, e.labels))
        about = f"Expected calibration error {metrics.ece(e.scores, e.labels):.1f} %"
        sections.append(("Calibration", [Picture("reliability.png", draw, about)]))
    if found := metrics.confused_pairs(e.scores, e.labels):
        rows = [[names[p["true"]], names[p["predicted"]], f"{p['count']:,}", f"{p['share']:.1f} %"] for p in found]
        blocks = [Table(["true", "taken for", "images", "of the true class"], rows, slice(2, None))]
        if e.images:
            draw = pictures.pairs(found, [e.images(np.array(p["indices"])) for p in found], names)
            blocks.append(Picture("confused.png", draw, "The mistakes it is surest of, surest first"))
        sections.append(("Most confused", blocks))
    return sections


def _birth(results: dict) -> list[Section]:
    """Where these figures come from."""
    h, minutes = results["hardware"], results["seconds"]
    machine = ", ".join(filter(None, [h["gpu"], h["cpu"], f"{h['cores']} cores", f"{h['threads']} threads"]))
    said = {
        "evaluated": facts(results),
        "machine": machine,
        "seed": str(results["seed"]),
        "time": f"{minutes / 60:.1f} minutes" if minutes else "",
        "versions": ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
    }
    table = Table(["", ""], [[name, value] for name, value in said.items() if value], slice(0))
    return [("How it was measured", [Code(results["command"]), table, *(f"Note: {note}." for note in results["notes"])])]


def _tiles(results: dict) -> str:
    """The encoder's accuracy by each method with all labels, large, and what it must beat beneath."""
    found = {(row["source"], row["method"]): row for row in results["rows"] if row["labels"] == "100 %"}
    tiles = []
    for method, said in METHODS.items():
        if ("encoder", method) in found:
            own = found["encoder", method]
            rivals = [(s, found[s, method]) for s in ("untrained", "from scratch", "raw pixels") if (s, method) in found]
            beneath = "".join(f"<br>{source} {row['accuracy']:.1f}" for source, row in rivals)
            low, high = own["interval"]
            tiles.append(
                f'<div class="tile">{said}<b>{own["accuracy"]:.1f}<small> %</small></b>'
                f'<span class="soft">{low:.1f} … {high:.1f}{beneath}</span></div>'
            )
    return f'<div class="tiles">{"".join(tiles)}</div>'
