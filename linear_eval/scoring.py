"""EvaluationInputs → rows of results.json, and the report: pieces in an order of its own, first answers first, each kept."""
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from core.run import log_line
from linear_eval.estimate import Estimate, estimate
from linear_eval.evaluation import build_evaluation
from linear_eval.inputs import MEASURED, SCRATCH, EvaluationInputs, is_trained
from linear_eval.kept import Kept, KeptParts
from linear_eval.label_curve import CurveConfig, label_curve
from linear_eval.measures.report import measure_line
from linear_eval.multilabel.protocols import NO_CURVE, few_label_multilabel, multilabel_result
from linear_eval.multilabel.results import average_multilabel_draws, multilabel_row
from linear_eval.probe_data import Labeled
from linear_eval.protocols import Method, few_label_result, methods, protocol_result
from linear_eval.results import (
    ENCODER,
    CurvePoint,
    Evaluation,
    LabelCurve,
    Measure,
    MultilabelRow,
    ProtocolResult,
    ResultRow,
    Row,
    percent,
)
from linear_eval.rows import average_draws, best_on_validation, method_title, result_row
from linear_eval.settings import MEASURES, EvaluateSettings, asked_measures
from vision.multilabel import class_counts

PROBE = 1e-3  # seconds an image of the linear probe, for an estimate where it was not asked for


@dataclass(frozen=True)
class Piece:
    """What is computed at once and kept.  stage: pieces of lower ones are computed first"""

    source: str
    labels: float
    method: str
    stage: int
    compute: Callable[[], Kept]

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.source} {self.labels:g} {self.method}".replace(" ", "-")


def score(settings: EvaluateSettings, inputs: EvaluationInputs, changes: dict) -> Evaluation:
    """Every protocol of `parts` on every source; writes results.json and the report.

    changes: numbers that are not the protocol's. Scores are printed as they come: kNN and linear probe of the encoder, the same
    of the untrained encoder and of pixels, their other protocols, classical baselines, fine-tuning. results.json has an order
    of its own. An evaluation that was stopped resumes: finished pieces are in the run folder. What only a few pieces need is
    imported with them, so that the first scores do not wait for it.
    """
    kept = KeptParts(inputs.run.folder, inputs.seconds)
    rows, curves = [*row_pieces(settings, inputs)], [*curve_pieces(settings, inputs)]
    measured = [*measure_pieces(settings, inputs)]
    pieces = [*rows, *curves, *measured]
    if kept.parts:
        log_line(f"resuming: {len(kept.parts)} of {len(pieces)} parts are finished")
    compute_pieces(pieces, inputs, kept)
    evaluation = build_evaluation(
        settings,
        inputs.encoder,
        inputs.dataset,
        [row_of(kept.parts[piece.name]) for piece in rows],
        protocol=settings.protocol["name"],
        protocol_changes=changes,
        notes=notes(settings, inputs),
        curve=[curve_of(kept.parts[piece.name]) for piece in curves],
        measures=[Measure.from_json(one) for piece in measured for one in kept.parts[piece.name].record],
        seconds=round(kept.elapsed, 1),
    )
    inputs.run.write("results.json", json.dumps(evaluation.to_json(), indent=1) + "\n")
    from linear_eval import report
    from linear_eval.report_data import report_data

    data = None
    if settings.picture:
        best = rows[best_on_validation(evaluation.rows)] if rows else None
        data = report_data(inputs, evaluation, best and kept.parts[best.name].scores)
    if report.write(inputs.run.folder, evaluation, data):  # else the same command tries again
        kept.clear()
    return evaluation


def compute_pieces(pieces: list[Piece], inputs: EvaluationInputs, kept: KeptParts) -> None:
    """Those that are not kept yet, stage by stage; after stage 0 a line estimates the others."""
    ordered = sorted((piece for piece in pieces if piece.name not in kept.parts), key=lambda piece: piece.stage)
    for number, piece in enumerate(ordered):
        if piece.stage > 0 and (number == 0 or ordered[number - 1].stage == 0):
            log_line(str(estimate_of(ordered[number:], inputs, kept)))
        kept.write(piece.name, piece.compute())


def estimate_of(pieces: list[Piece], inputs: EvaluationInputs, kept: KeptParts) -> Estimate:
    frozen = [f"{'few ' if one.labels < 1 else ''}{one.method}" for one in pieces if one.method != "finetune"]
    left = {(one.source, one.labels) for one in pieces if one.method == "finetune" and inputs.world.size == 1}
    probe = kept.parts.get(f"{ENCODER}-1-linear")
    seconds = probe.record["seconds"] if probe else len(inputs.dataset.train) * PROBE
    return estimate(inputs, frozen, [one for one in inputs.finetunings if (one.source, one.labels) in left], seconds)


# ------------------------------------------------------------------------------------------------------------------- rows


def row_pieces(settings: EvaluateSettings, inputs: EvaluationInputs) -> Iterator[Piece]:
    """A row each, in the order of results.json."""
    for one in inputs.finetunings:
        yield Piece(one.source, one.labels, "finetune", 5, partial(finetuned_row, inputs, one.source, one.labels))
    shares = settings.protocol.labels.shares if "labels" in settings.parts else []
    for source in inputs.sources:
        for labels in (1.0, *shares):
            for method in methods(settings, source, labels):
                name = f"classical {method.name}" if method.classical else method.name
                compute = partial(frozen_row, settings, inputs, source, labels, method)
                yield Piece(source, labels, name, stage(source, labels, method), compute)


def stage(source: str, labels: float, method: Method) -> int:
    """0: first answers; 1: what they must beat; 2: the other protocols; 3: few labels; 4: classical baselines."""
    if method.classical or source not in MEASURED:
        return 4
    if labels < 1:
        return 3
    if method.name not in ("knn", "linear"):
        return 2
    return 0 if source == ENCODER else 1


def finetuned_row(inputs: EvaluationInputs, source: str, labels: float) -> Kept:
    classifier = inputs.classifier(source, labels)
    assert classifier is not None
    test_labels = inputs.dataset.test.labels.numpy()[classifier.test]
    make = multilabel_row if inputs.dataset.multilabel else result_row
    return as_kept(make(classifier.result, source, classifier.images, test_labels, labels), classifier.result.scores)


def frozen_row(settings: EvaluateSettings, inputs: EvaluationInputs, source: str, labels: float, method: Method) -> Kept:
    """A protocol on a source with a share of the labels: the mean of its draws, where there are several."""
    several, features = inputs.dataset.multilabel, inputs.features(source)
    make, average = (multilabel_row, average_multilabel_draws) if several else (result_row, average_draws)
    if labels < 1:
        protocol = few_label_multilabel if several else few_label_result
    else:
        protocol = multilabel_result if several else protocol_result
    draws = range(settings.protocol.labels.draws if labels < 1 else 1)
    drawn = [features.share(labels, settings.seed, draw) for draw in draws]
    results: list[ProtocolResult] = [protocol(settings, inputs, some, method) for some in drawn]
    rows = [make(result, source, len(drawn[0].train.x), features.test.labels, labels) for result in results]
    return as_kept(average(rows) if len(rows) > 1 else rows[0], results[0].scores)


def as_kept(row: Row, scores: np.ndarray) -> Kept:
    """With a line on it. Scores are kept of the rows that the report may detail: the encoder's, and those from scratch."""
    low, high = row.interval
    log_line(f"{row.source:<13}{method_title(row):<20}{percent(row.labels):>6}{row.score:8.1f}   {low:.1f} … {high:.1f}")
    return Kept(asdict(row), scores if row.source in (ENCODER, SCRATCH) else None)


def row_of(part: Kept) -> Row:
    several = "mean_average_precision" in part.record
    return MultilabelRow(**part.record) if several else ResultRow(**part.record)


# ------------------------------------------------------------------------------------------------------------------ curves


def curve_pieces(settings: EvaluateSettings, inputs: EvaluationInputs) -> Iterator[Piece]:
    """Label efficiency of the encoder and of what it must beat."""
    if "curve" not in settings.parts or inputs.dataset.multilabel:
        return
    for source in MEASURED:
        if source in inputs.sources:
            yield Piece(source, 1.0, "curve", 3, partial(curve, settings, inputs, source))


def curve(settings: EvaluateSettings, inputs: EvaluationInputs, source: str) -> Kept:
    p, features = settings.protocol.curve, inputs.features(source)
    config = CurveConfig(p.per_class, p.draws, p.C, settings.seed)
    train, test = (Labeled(part.pooled, part.labels) for part in (features.train, features.test))
    points = label_curve(train, test, config, inputs.device)
    log_line(f"{source}, labels a class: {', '.join(f'{p.per_class}: {p.mean:.1f}' for p in points)}")
    return Kept(asdict(LabelCurve(source, points)))


def curve_of(part: Kept) -> LabelCurve:
    return LabelCurve(part.record["source"], [CurvePoint(**point) for point in part.record["points"]])


# ---------------------------------------------------------------------------------------------------------------- measures


def measure_pieces(settings: EvaluateSettings, inputs: EvaluationInputs) -> Iterator[Piece]:
    """Retrieval and the like, of the encoder, the same untrained, and pixels."""
    for part in asked_measures(settings, inputs.dataset.multilabel):
        for source in MEASURED:
            if source in inputs.sources:
                yield Piece(source, 1.0, part, 3, partial(measure, settings, inputs, part, source))


def measure(settings: EvaluateSettings, inputs: EvaluationInputs, part: str, source: str) -> Kept:
    from linear_eval.measures.parts import measures  # imports scikit-learn's clusters

    found = measures(part, settings, inputs, source)
    for one in found:
        log_line(measure_line(one))
    return Kept([asdict(one) for one in found])


def notes(settings: EvaluateSettings, inputs: EvaluationInputs) -> list[str]:
    dataset = inputs.dataset
    lines = [] if is_trained(settings) else ["the encoder has random weights"]
    if dataset.multilabel and "curve" in settings.parts:
        lines.append(NO_CURVE)
    if left_out := sorted({*settings.parts} & {*MEASURES} - {*asked_measures(settings, dataset.multilabel)}):
        lines.append(f"{', '.join(left_out)}: left out, as an image may have several labels")
    counts = class_counts(dataset.validation.labels, len(dataset.classes))
    absent = [c for i, c in enumerate(dataset.classes) if not counts[i]]
    if absent:
        lines.append(f"no validation image of {', '.join(absent[:5])}{', …' if len(absent) > 5 else ''}: they choose nothing")
    if dataset.skipped:
        lines.append(f"{len(dataset.skipped)} unreadable files are left out")
    return lines
