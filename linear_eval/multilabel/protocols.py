"""The protocols of an evaluation where an image may have several labels: the same constants, one class against the rest."""
from dataclasses import replace

from linear_eval.heads import HeadsConfig
from linear_eval.inputs import EvaluationInputs, FeatureSet
from linear_eval.multilabel.heads import heads_multilabel
from linear_eval.multilabel.logistic import logistic_multilabel
from linear_eval.multilabel.neighbors import knn_multilabel
from linear_eval.multilabel.ridge import ridge_multilabel
from linear_eval.protocols import FIXED, Method
from linear_eval.results import ProtocolResult
from linear_eval.settings import EvaluateSettings

NO_CURVE = "the curve of label efficiency is left out: so many labels a class cannot be drawn where an image has several"


def multilabel_result(
    settings: EvaluateSettings, inputs: EvaluationInputs, features: FeatureSet, method: Method
) -> ProtocolResult:
    """One protocol with all labels, its settings chosen on the validation images."""
    protocol, device = settings.protocol, inputs.device
    data = features.probe_data(inputs.classes)
    if method.classical:
        from linear_eval.multilabel.classical import classify_multilabel  # imports half of scikit-learn

        return classify_multilabel(method.name, data, settings.seed, limit=protocol.baselines.images)
    if method.name == "knn":
        return knn_multilabel(data, protocol.knn.k, protocol.knn.temperature)
    if method.name == "linear":
        config = HeadsConfig(protocol.linear.rates, protocol.linear.epochs, protocol.linear.batch_size, seed=settings.seed)
        return heads_multilabel(features.probe_data(inputs.classes, all_columns=True), features.train.parts, config, device)
    if method.name == "logistic":
        return logistic_multilabel(data, protocol.logistic.C, protocol.logistic.iterations, device)
    return ridge_multilabel(data, protocol.ridge.penalties, device)


def few_label_multilabel(
    settings: EvaluateSettings, inputs: EvaluationInputs, features: FeatureSet, method: Method
) -> ProtocolResult:
    """kNN or logistic regression on a share of the labels: settings are fixed, the threshold is validation's."""
    protocol, fixed = settings.protocol, settings.protocol.labels
    data = features.probe_data(inputs.classes)
    if method.name == "knn":
        return replace(knn_multilabel(data, [fixed.k], protocol.knn.temperature), selected_on=FIXED)
    return replace(logistic_multilabel(data, [fixed.C], protocol.logistic.iterations, inputs.device), selected_on=FIXED)
