"""A classifier that begins as the logistic regression on frozen features, so that fine-tuning need not distort them.

LP-FT: Kumar, Raghunathan, Jones, Ma, Liang, "Fine-tuning can distort pretrained features and underperform
out-of-distribution", ICLR 2022, arXiv 2202.10054. The probe is solved, not trained: its convex problem has one minimum.
"""
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.processes import broadcast_object
from linear_eval.average_precision import best_threshold
from linear_eval.classifier import Classifier
from linear_eval.features import collect, of_encoder
from linear_eval.logistic import LogisticFit
from linear_eval.multilabel.logistic import OneVsRest
from linear_eval.multilabel.results import validation_map
from linear_eval.probe_data import Labeled
from linear_eval.results import ProtocolResult
from linear_eval.samples import at_most
from vision.splits import Dataset

MOST = 20_000  # training images that the probe is fitted on
CS = (0.01, 0.1, 1.0, 10.0)  # of which validation chooses
ITERATIONS = 200  # of L-BFGS for each
ABSENT = 10.0  # logits below the smallest bias: where a class without a training image begins


@dataclass(frozen=True)
class FrozenProbe:
    """What the frozen features reach. On the main process."""

    scores: Tensor  # M,K: probabilities on the test images that could be read
    validation: float | None  # accuracy in %, or mean average precision where images may have several labels
    selected_on: str
    C: float
    seconds: float
    threshold: float | None = None  # where images may have several labels: the probability from which on a class is predicted

    def state(self) -> dict[str, Any]:
        return dict(vars(self))

    def result(self) -> ProtocolResult:
        return ProtocolResult(
            "logistic", self.scores.numpy(), {"C": self.C}, self.selected_on, self.validation, seconds=self.seconds,
            threshold=self.threshold,
        )


@torch.no_grad()
def start_from_probe(method: Classifier, train, dataset: Dataset, recipe, device: torch.device) -> FrozenProbe | None:
    """Set the classifier's layer to the probe's, on every process.  train: the labeled images that are trained on.

    Returns what the probe reaches on the main process, None on others.
    """
    began = time.monotonic()
    source = of_encoder("encoder", method.encoder, recipe.mean, recipe.std, device, maps=False)
    splits = (at_most(train, MOST), dataset.validation, dataset.test)
    found = [collect(source, split, device, title="frozen features") if len(split) else None for split in splits]
    probe, layer = None, None
    if found[0] is not None:
        fitting, validation, test = (f and Labeled(f.x.astype(np.float32), f.labels) for f in found)
        model = OneVsRest(fitting, device) if method.multilabel else LogisticFit(fitting, device)
        fits, weight = [], None
        for C in CS if validation else (1.0,):
            weight, _ = model.fit(C, ITERATIONS, weight)
            fits.append((_figure(model, validation, weight) if validation else None, C, weight))
        figure, C, weight = max(fits, key=lambda fit: (fit[0] or 0.0, -fit[1]))
        threshold = None
        if isinstance(model, OneVsRest):
            scores = torch.from_numpy(model.probabilities(test.x, weight)).float()
            threshold = best_threshold(validation.labels, model.probabilities(validation.x, weight)) if validation else 0.5
        else:
            scores = torch.zeros(len(test), method.head.out_features)
            logits = [z.softmax(1).float().cpu() for z in model.logits(test.x, weight)]
            scores[:, torch.from_numpy(model.present)] = torch.cat(logits)
        selected = f"{len(validation):,} validation images" if validation else "nothing: C = 1"
        probe = FrozenProbe(scores, figure, selected, C, time.monotonic() - began, threshold)
        layer = _layer(model, weight, method.head.out_features)
    weight, bias = (t.to(method.head.weight) for t in broadcast_object(layer))
    method.head.weight.copy_(weight)
    method.head.bias.copy_(bias)
    return probe


def _figure(model: LogisticFit | OneVsRest, data: Labeled, weight: Tensor) -> float:
    """Accuracy, or mean average precision where images may have several labels, in %."""
    if isinstance(model, OneVsRest):
        return validation_map(data.labels, model.probabilities(data.x, weight))
    return 100 * model.hits(data, weight) / len(data)


def _layer(model: LogisticFit | OneVsRest, weight: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The fit on standardized features as a layer on the features themselves.  → K,D and K"""
    own = weight[:, :-1] * model.standardizer.inverse
    bias = weight[:, -1] - own @ model.standardizer.mean
    if isinstance(model, OneVsRest):
        fixed = ABSENT * (2 * model.constant - 1)  # of classes that all or no training images have
        return own.float().cpu(), torch.where(model.varied, bias, fixed.to(bias)).float().cpu()
    present = torch.from_numpy(model.present)
    whole = torch.zeros(classes, own.shape[1])
    biases = torch.full((classes,), float(bias.min()) - ABSENT)
    whole[present], biases[present] = own.float().cpu(), bias.float().cpu()
    return whole, biases
