"""EvaluationInputs → rows of results.json, and the report. On one process, from features: the encoder is not run again."""
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from core.run import log_line
from linear_eval import baselines, knn, report
from linear_eval.evaluation import build_evaluation
from linear_eval.heads import HeadsConfig, linear_heads
from linear_eval.inputs import PIXELS, UNTRAINED, EvaluationInputs, FeatureSet, is_trained
from linear_eval.label_curve import CurveConfig, label_curve
from linear_eval.logistic import logistic
from linear_eval.multilabel.protocols import NO_CURVE, few_label_multilabel, multilabel_protocols
from linear_eval.multilabel.results import average_multilabel_draws, multilabel_row
from linear_eval.oversample import smote
from linear_eval.probe_data import Labeled
from linear_eval.report_data import report_data
from linear_eval.results import ENCODER, Evaluation, LabelCurve, ProtocolResult, Row
from linear_eval.ridge import ridge
from linear_eval.rows import average_draws, result_row
from linear_eval.settings import EvaluateSettings
from vision.multilabel import class_counts

ENCODERS = (ENCODER, UNTRAINED)
FIXED = "nothing: fixed"


@dataclass(frozen=True)
class ScoredRow:
    """A row and its scores of the test images, M,C (of several draws, the first one's)."""

    row: Row
    scores: np.ndarray


def score(settings: EvaluateSettings, inputs: EvaluationInputs, changes: dict, seconds: float = 0.0) -> Evaluation:
    """Every protocol of `parts` on every source; writes results.json and the report.

    changes: numbers that are not the protocol's; seconds: spent on the inputs.
    """
    start = time.monotonic()
    scored = [*finetuned_rows(inputs), *frozen_rows(settings, inputs)]
    evaluation = build_evaluation(
        settings,
        inputs.encoder,
        inputs.dataset,
        [one.row for one in scored],
        protocol=settings.protocol["name"],
        protocol_changes=changes,
        notes=notes(settings, inputs),
        curve=list(curves(settings, inputs)) if "curve" in settings.parts and not inputs.dataset.multilabel else [],
    )
    evaluation = replace(evaluation, seconds=round(seconds + time.monotonic() - start, 1))
    inputs.run.write("results.json", json.dumps(evaluation.to_json(), indent=1) + "\n")
    data = report_data(inputs, evaluation, [one.scores for one in scored]) if settings.picture else None
    report.write(inputs.run.folder, evaluation, data)
    return evaluation


def finetuned_rows(inputs: EvaluationInputs) -> Iterator[ScoredRow]:
    make = multilabel_row if inputs.dataset.multilabel else result_row
    for one in inputs.finetuned:
        classifier = one.classifier
        labels = inputs.dataset.test.labels.numpy()[classifier.test]
        row = make(classifier.result, one.source, classifier.images, labels, one.labels)
        yield ScoredRow(row, classifier.result.scores)


def frozen_rows(settings: EvaluateSettings, inputs: EvaluationInputs) -> Iterator[ScoredRow]:
    """A row for each protocol on each source at each share of the labels: the mean of its draws, where there are several."""
    shares = settings.protocol.labels.shares if "labels" in settings.parts else []
    several = inputs.dataset.multilabel
    few, every = (few_label_multilabel, multilabel_protocols) if several else (few_label_protocols, protocols_of)
    make, average = (multilabel_row, average_multilabel_draws) if several else (result_row, average_draws)
    for source, features in inputs.feature_sets.items():
        for labels in (1.0, *shares):
            log_line(f"scoring {source}, {100 * labels:g} % of the labels")
            draws = range(settings.protocol.labels.draws if labels < 1 else 1)
            drawn = [features.share(labels, settings.seed, draw) for draw in draws]
            protocols = few if labels < 1 else every
            for results in zip(*(protocols(settings, inputs, source, some) for some in drawn), strict=True):
                images = len(drawn[0].train.x)
                rows = [make(result, source, images, features.test.labels, labels) for result in results]
                yield ScoredRow(average(rows) if len(rows) > 1 else rows[0], results[0].scores)


def protocols_of(
    settings: EvaluateSettings, inputs: EvaluationInputs, source: str, features: FeatureSet
) -> Iterator[ProtocolResult]:
    """Each protocol of `parts` with all labels, its settings chosen on the validation images."""
    protocol, parts, seed, device = settings.protocol, settings.parts, settings.seed, inputs.device
    data = features.probe_data(inputs.classes)
    if "knn" in parts:
        yield knn.knn_grid(data, protocol.knn.k, protocol.knn.temperature)
    if "linear" in parts:
        config = HeadsConfig(protocol.linear.rates, protocol.linear.epochs, protocol.linear.batch_size, seed=seed)
        yield linear_heads(features.probe_data(inputs.classes, all_columns=True), features.train.parts, config, device)
    if "logistic" in parts and source in ENCODERS:
        train = smote(data.train, seed) if settings.smote else data.train
        yield logistic(replace(data, train=train), protocol.logistic.C, protocol.logistic.iterations, device)
    if "ridge" in parts:
        yield ridge(data, protocol.ridge.penalties, device)
    if "baselines" in parts and source != UNTRAINED:  # the encoder has the same classifiers as its rivals
        for name in protocol.baselines.classifiers:
            yield baselines.classify(name, data, seed, limit=protocol.baselines.images)


def few_label_protocols(
    settings: EvaluateSettings, inputs: EvaluationInputs, source: str, features: FeatureSet
) -> Iterator[ProtocolResult]:
    """kNN and logistic regression of `parts` on a share of the labels: too few to choose settings, so these are fixed."""
    protocol, fixed = settings.protocol, settings.protocol.labels
    data = features.probe_data(inputs.classes)
    if "knn" in settings.parts:
        yield replace(knn.knn_grid(data, [fixed.k], protocol.knn.temperature), selected_on=FIXED)
    if "logistic" in settings.parts:
        yield replace(logistic(data, [fixed.C], protocol.logistic.iterations, inputs.device), selected_on=FIXED)


def curves(settings: EvaluateSettings, inputs: EvaluationInputs) -> Iterator[LabelCurve]:
    """Label efficiency of the encoder and of what it must beat."""
    p = settings.protocol.curve
    config = CurveConfig(p.per_class, p.draws, p.C, settings.seed)
    for source in (*ENCODERS, PIXELS):
        if source in inputs.feature_sets:
            features = inputs.feature_sets[source]
            train, test = (Labeled(part.pooled, part.labels) for part in (features.train, features.test))
            yield LabelCurve(source, label_curve(train, test, config, inputs.device))


def notes(settings: EvaluateSettings, inputs: EvaluationInputs) -> list[str]:
    dataset = inputs.dataset
    lines = [] if is_trained(settings) else ["the encoder has random weights"]
    if dataset.multilabel and "curve" in settings.parts:
        lines.append(NO_CURVE)
    counts = class_counts(dataset.validation.labels, len(dataset.classes))
    absent = [c for i, c in enumerate(dataset.classes) if not counts[i]]
    if absent:
        lines.append(f"no validation image of {', '.join(absent[:5])}{', …' if len(absent) > 5 else ''}: they choose nothing")
    if dataset.skipped:
        lines.append(f"{len(dataset.skipped)} unreadable files are left out")
    return lines
