"""The protocols that fit a classifier on features of frozen encoders, where an image has one label."""
from dataclasses import dataclass, replace

from linear_eval import knn
from linear_eval.heads import HeadsConfig, linear_heads
from linear_eval.inputs import UNTRAINED, EvaluationInputs, FeatureSet
from linear_eval.logistic import logistic
from linear_eval.oversample import smote
from linear_eval.results import ENCODER, ProtocolResult
from linear_eval.ridge import ridge
from linear_eval.settings import EvaluateSettings

FIXED = "nothing: fixed"


@dataclass(frozen=True)
class Method:
    """A way to fit a classifier.  classical: one of `baselines.CLASSIFIERS`, whose "logistic" is scikit-learn's own"""

    name: str
    classical: bool = False


def methods(settings: EvaluateSettings, source: str, labels: float) -> list[Method]:
    """The methods of `parts` on a source with a share of the labels, in the order of results.json."""
    names = ["knn", "logistic"] if labels < 1 else ["knn", "linear", "logistic", "ridge"]
    if labels == 1 and source not in (ENCODER, UNTRAINED):
        names.remove("logistic")
    found = [Method(name) for name in names if name in settings.parts]
    if labels == 1 and "baselines" in settings.parts and source != UNTRAINED:  # the encoder's are as its rivals'
        found += [Method(name, classical=True) for name in settings.protocol.baselines.classifiers]
    return found


def protocol_result(
    settings: EvaluateSettings, inputs: EvaluationInputs, features: FeatureSet, method: Method
) -> ProtocolResult:
    """One protocol with all labels, its settings chosen on the validation images."""
    protocol, device = settings.protocol, inputs.device
    data = features.probe_data(inputs.classes)
    if method.classical:
        from linear_eval import baselines  # imports half of scikit-learn

        return baselines.classify(method.name, data, settings.seed, limit=protocol.baselines.images)
    if method.name == "knn":
        return knn.knn_grid(data, protocol.knn.k, protocol.knn.temperature)
    if method.name == "linear":
        config = HeadsConfig(protocol.linear.rates, protocol.linear.epochs, protocol.linear.batch_size, seed=settings.seed)
        return linear_heads(features.probe_data(inputs.classes, all_columns=True), features.train.parts, config, device)
    if method.name == "logistic":
        if settings.smote:
            data = replace(data, train=smote(data.train, settings.seed))
        return logistic(data, protocol.logistic.C, protocol.logistic.iterations, device)
    return ridge(data, protocol.ridge.penalties, device)


def few_label_result(
    settings: EvaluateSettings, inputs: EvaluationInputs, features: FeatureSet, method: Method
) -> ProtocolResult:
    """kNN or logistic regression on a share of the labels: too few to choose settings, so these are fixed."""
    protocol, fixed = settings.protocol, settings.protocol.labels
    data = features.probe_data(inputs.classes)
    if method.name == "knn":
        return replace(knn.knn_grid(data, [fixed.k], protocol.knn.temperature), selected_on=FIXED)
    return replace(logistic(data, [fixed.C], protocol.logistic.iterations, inputs.device), selected_on=FIXED)
