"""Results of protocols where an image may have several labels: a protocol's, and the row made of it."""
import math
import time
from dataclasses import replace
from typing import Any

import numpy as np

from linear_eval.average_precision import (
    average_precisions,
    best_threshold,
    bootstrap_interval,
    eleven_point_map,
    f1_scores,
    mean_average_precision,
)
from linear_eval.probe_data import ProbeData, Rows
from linear_eval.results import MultilabelRow, ProtocolResult


def protocol_result(
    method: str, data: ProbeData, scores: np.ndarray, of_validation: np.ndarray, chosen: dict[str, Any], began: float,
    **fields: Any,
) -> ProtocolResult:
    """scores, of_validation: M,K of test and validation images; began: time.perf_counter(); fields: further ones of the record

    The threshold of F1 and the validation figure, the mean average precision in %, come from the validation images.
    """
    labels = np.asarray(data.validation.labels)
    return ProtocolResult(
        method=method, scores=scores, chosen=chosen, validation=validation_map(labels, of_validation),
        threshold=best_threshold(labels, of_validation), seconds=time.perf_counter() - began,
        **{"selected_on": data.selected_on} | fields,
    )


def validation_map(labels: Rows, scores: np.ndarray) -> float:
    """In %; −1 where no class has an image, or a score is not finite: nothing is chosen by it."""
    if not np.isfinite(scores).all():
        return -1.0
    value = mean_average_precision(np.asarray(labels), scores)
    return -1.0 if math.isnan(value) else 100 * value


def multilabel_row(
    result: ProtocolResult, source: str, train_images: int, test_labels: np.ndarray, labels: float = 1.0
) -> MultilabelRow:
    """One result on the test split.  labels: share of the training labels that it was fitted on

    Raises ValueError where no test image has a label: there is no figure then.
    """
    if not len(test_labels) or not test_labels.any():
        raise ValueError("no test image shows one of the classes; give the data a test split that does")
    threshold = 0.5 if result.threshold is None else result.threshold
    each = average_precisions(test_labels, result.scores)
    low, high = bootstrap_interval(test_labels, result.scores)
    micro, macro, _ = f1_scores(test_labels, result.scores, threshold)
    return MultilabelRow(
        source=source,
        method=result.method,
        labels=labels,
        train_images=train_images,
        mean_average_precision=float(100 * np.nanmean(each)),
        interval=[100 * low, 100 * high],
        average_precisions=[None if math.isnan(one) else float(100 * one) for one in each],
        micro_f1=100 * micro,
        macro_f1=100 * macro,
        threshold=threshold,
        std=None,
        draws=1,
        validation=result.validation,
        selected_on=result.selected_on,
        chosen=result.chosen,
        note=result.note,
        seconds=round(result.seconds, 2),
        eleven_point_map=100 * eleven_point_map(test_labels, result.scores),
    )


def average_multilabel_draws(rows: list[MultilabelRow]) -> MultilabelRow:
    """Several draws of the labeled images as one row: means, their standard deviation, and the interval of the mean, which is
    a draw's over images or that of the draws, whichever is wider."""
    def mean(name: str) -> float:
        return float(np.mean([getattr(row, name) for row in rows]))

    scores = [row.score for row in rows]
    middle, std = mean("mean_average_precision"), float(np.std(scores, ddof=1)) if len(rows) > 1 else 0.0
    half = max(*((row.interval[1] - row.interval[0]) / 2 for row in rows), 1.96 * std / len(rows) ** 0.5)
    columns = zip(*(row.average_precisions for row in rows), strict=True)
    return replace(
        rows[0],
        mean_average_precision=middle,
        interval=[middle - half, middle + half],
        average_precisions=[None if column[0] is None else float(np.mean(column)) for column in columns],
        eleven_point_map=mean("eleven_point_map"),
        micro_f1=mean("micro_f1"),
        macro_f1=mean("macro_f1"),
        threshold=mean("threshold"),
        validation=None if rows[0].validation is None else mean("validation"),
        std=std,
        draws=len(rows),
        seconds=sum(row.seconds for row in rows),
    )
