"""Rows of results.json: made of protocols' results, averaged over draws, sorted, and compared with the encoder's."""
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from linear_eval.metrics import figures
from linear_eval.results import ENCODER, ProtocolResult, ResultRow, Row, percent

SOURCES = (ENCODER, "untrained", "HOG", "SIFT words", "LBP", "PCA", "raw pixels", "from scratch")  # in the order of colors
METHODS = {  # in the order they are shown in
    "knn": "kNN", "linear": "linear probe", "logistic": "logistic regression", "ridge": "ridge regression", "svm": "SVM",
    "random forest": "random forest", "augmented": "augmented probe", "finetune": "fine-tuning",
}
NAMED = 5  # baselines in a sentence, at most
MEANS = ("top5", "balanced_accuracy", "macro_f1", "ece", "validation")  # what is averaged over draws beside the accuracy


def result_row(
    result: ProtocolResult, source: str, train_images: int, test_labels: np.ndarray, labels: float = 1.0
) -> ResultRow:
    """One result on the test split.  labels: share of the training labels that it was fitted on"""
    return ResultRow(
        source=source,
        method=result.method,
        labels=labels,
        train_images=train_images,
        **figures(result.scores, test_labels, result.probabilities),
        std=None,
        draws=1,
        validation=result.validation,
        selected_on=result.selected_on,
        chosen=result.chosen,
        note=result.note,
        seconds=round(result.seconds, 2),
    )


def average_draws(rows: list[ResultRow]) -> ResultRow:
    """Several draws of the labeled images as one row: means, the accuracies' standard deviation, and the interval of the mean.

    The interval is that of the pooled predictions' accuracy, widened by the spread of the draws (the larger of both counts).
    """
    accuracies = [row.accuracy for row in rows]
    mean, std = float(np.mean(accuracies)), float(np.std(accuracies, ddof=1)) if len(rows) > 1 else 0.0
    half = max(*((row.interval[1] - row.interval[0]) / 2 for row in rows), 1.96 * std / len(rows) ** 0.5)
    values = {name: [getattr(row, name) for row in rows] for name in MEANS}
    return replace(
        rows[0],
        **{name: None if column[0] is None else float(np.mean(column)) for name, column in values.items()},
        accuracy=mean,
        interval=[float(mean - half), float(mean + half)],
        std=std,
        draws=len(rows),
        chosen={key: _common([row.chosen.get(key) for row in rows]) for key in rows[0].chosen},
        seconds=sum(row.seconds for row in rows),
    )


def _common(values: list):
    """The value that all draws chose, or each one's choice."""
    return values[0] if all(value == values[0] for value in values) else values


# ------------------------------------------------------------------------------------------------------------------- order


def position(names: Sequence[str], name: str) -> int:
    """Of a name among others; an unknown one comes last."""
    return names.index(name) if name in names else len(names)


def in_order(names: Sequence[str], some: Sequence[str]) -> list[str]:
    """Each of `some` once, in the order of `names`."""
    return sorted(dict.fromkeys(some), key=lambda name: position(names, name))


def sorted_rows(rows: Sequence[Row]) -> list[Row]:
    """Most labels first, then by source and method."""
    methods = list(METHODS)
    return sorted(rows, key=lambda row: (-row.train_images, position(SOURCES, row.source), position(methods, row.method)))


def method_title(row: Row) -> str:
    return METHODS.get(row.method, row.method)


# -------------------------------------------------------------------------------------------------------------- comparison


def best_on_validation(rows: Sequence[Row]) -> int:
    """Index of the row that the report details: the encoder's with all labels that is best on validation, never on test.

    Where no row is the encoder's with all labels, of the encoder's, and where none is, of all.
    """
    own = [i for i, row in enumerate(rows) if row.is_encoders] or list(range(len(rows)))
    return _best(rows, [i for i in own if rows[i].labels == 1] or own)


def _best(rows: Sequence[Row], candidates: list[int]) -> int:
    def accuracy(i: int) -> float:
        validation = rows[i].validation
        return -1 if validation is None else validation

    return max(candidates, key=accuracy)


def baselines_ahead(rows: Sequence[Row]) -> str:
    """A sentence that names the sources that beat the encoder by the same method and labels: of more than NAMED, those by most.

    A method without a row of the encoder's is compared with the encoder's best on validation. "" with nothing to compare.
    """
    ahead, compared = [], 0
    for row in sorted_rows(rows):
        own = [i for i, other in enumerate(rows) if other.is_encoders and other.labels == row.labels]
        if row.is_encoders or not own:
            continue
        same = [i for i in own if rows[i].method == row.method]
        encoders = rows[same[0] if same else _best(rows, own)]
        compared += 1
        if row.score > encoders.score:
            against = "" if same else f" by {method_title(encoders)}"
            share = "" if row.labels == 1 else f" with {percent(row.labels)} of the labels"
            scores = f"({row.score:.1f}, it {encoders.score:.1f}{against})"
            ahead.append((encoders.score - row.score, f"{row.source} by {method_title(row)}{share} {scores}"))
    if len(ahead) > NAMED:
        most = "; ".join(text for _, text in sorted(ahead, key=lambda one: one[0])[:NAMED])
        return f"Ahead of the encoder, in {len(ahead)} of {compared} comparisons: {most}; the others are in the table."
    if ahead:
        return f"Ahead of the encoder: {'; '.join(text for _, text in ahead)}."
    return "Nothing it was compared with is ahead of the encoder." if compared else ""
