"""The protocols of an evaluation where an image may have several labels: the same constants, one class against the rest."""
from collections.abc import Iterator
from dataclasses import replace

from linear_eval.heads import HeadsConfig
from linear_eval.inputs import UNTRAINED, EvaluationInputs, FeatureSet
from linear_eval.multilabel.classical import classify_multilabel
from linear_eval.multilabel.heads import heads_multilabel
from linear_eval.multilabel.logistic import logistic_multilabel
from linear_eval.multilabel.neighbors import knn_multilabel
from linear_eval.multilabel.ridge import ridge_multilabel
from linear_eval.results import ENCODER, ProtocolResult
from linear_eval.settings import EvaluateSettings

NO_CURVE = "the curve of label efficiency is left out: so many labels a class cannot be drawn where an image has several"


def multilabel_protocols(
    settings: EvaluateSettings, inputs: EvaluationInputs, source: str, features: FeatureSet
) -> Iterator[ProtocolResult]:
    """Each protocol of `parts` with all labels, its settings chosen on the validation images."""
    protocol, parts, seed, device = settings.protocol, settings.parts, settings.seed, inputs.device
    data = features.probe_data(inputs.classes)
    if "knn" in parts:
        yield knn_multilabel(data, protocol.knn.k, protocol.knn.temperature)
    if "linear" in parts:
        config = HeadsConfig(protocol.linear.rates, protocol.linear.epochs, protocol.linear.batch_size, seed=seed)
        yield heads_multilabel(features.probe_data(inputs.classes, all_columns=True), features.train.parts, config, device)
    if "logistic" in parts and source in (ENCODER, UNTRAINED):
        yield logistic_multilabel(data, protocol.logistic.C, protocol.logistic.iterations, device)
    if "ridge" in parts:
        yield ridge_multilabel(data, protocol.ridge.penalties, device)
    if "baselines" in parts and source != UNTRAINED:
        for name in protocol.baselines.classifiers:
            yield classify_multilabel(name, data, seed, limit=protocol.baselines.images)


def few_label_multilabel(
    settings: EvaluateSettings, inputs: EvaluationInputs, source: str, features: FeatureSet
) -> Iterator[ProtocolResult]:
    """kNN and logistic regression of `parts` on a share of the labels: settings are fixed, the threshold is validation's."""
    protocol, fixed = settings.protocol, settings.protocol.labels
    data, chosen = features.probe_data(inputs.classes), "nothing: fixed"
    if "knn" in settings.parts:
        yield replace(knn_multilabel(data, [fixed.k], protocol.knn.temperature), selected_on=chosen)
    if "logistic" in settings.parts:
        result = logistic_multilabel(data, [fixed.C], protocol.logistic.iterations, inputs.device)
        yield replace(result, selected_on=chosen)
