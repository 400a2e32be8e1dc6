"""Heads on frozen features: fitted on clean training images, chosen on clean validation images, asked for any images."""
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from core.settings import Group
from linear_eval.features import Features
from linear_eval.heads import HeadsConfig, fit_heads
from linear_eval.knn import knn_grid, neighbors, votes
from linear_eval.logistic import LogisticFit
from linear_eval.probe_data import Labeled, ProbeData


@dataclass(frozen=True)
class CleanFeatures:
    """A source's features of images without corruption."""

    train: Features
    validation: Features
    test: Features


@dataclass(frozen=True)
class Head:
    """predict: rows of the source's features, N,D → N predicted classes. validation: accuracy in %, on clean images"""

    source: str
    method: str  # knn | linear | logistic
    chosen: dict[str, Any]
    selected_on: str
    validation: float
    predict: Callable[[np.ndarray], np.ndarray]


def knn_head(source: str, features: CleanFeatures, classes: int, protocol: Group) -> Head:
    """The k and temperature that are best on validation."""
    train, validation, pooled = features.train, features.validation, features.train.parts["pooled"][0]
    data = ProbeData(
        Labeled(train.pooled, train.labels), Labeled(validation.pooled, validation.labels), validation.pooled[:1], classes
    )
    chosen = knn_grid(data, protocol.knn.k, protocol.knn.temperature)
    k, temperature = chosen.chosen["k"], chosen.chosen["T"]

    def predict(rows: np.ndarray) -> np.ndarray:
        similarity, index = neighbors(train.pooled, rows[:, pooled], k)
        return votes(similarity, train.labels[index], classes, k, temperature).argmax(1)

    return Head(source, "knn", chosen.chosen, chosen.selected_on, chosen.validation, predict)


def linear_head(
    source: str, features: CleanFeatures, classes: int, protocol: Group, seed: int, device: torch.device
) -> Head:
    """The linear head that is best on validation, of all rates and choices of features.  Raises ValueError if all diverged."""
    train, validation = (Labeled(part.x, part.labels) for part in (features.train, features.validation))
    p, variants = protocol.linear, features.train.parts
    heads = fit_heads(train, classes, variants, HeadsConfig(p.rates, p.epochs, p.batch_size, seed=seed), device)
    hits = heads.hits(validation)
    if hits.max() < 0:
        raise ValueError(f"protocol.linear.rates={list(p.rates)}: every linear head diverged; give smaller ones")
    v, r = np.unravel_index(hits.argmax(), hits.shape)
    variant, rate = list(variants)[v], heads.rates[r]

    def predict(rows: np.ndarray) -> np.ndarray:
        return heads.probabilities(rows, variant, rate).argmax(1)

    chosen = {"features": variant, "rate": rate, "epochs": p.epochs, "batch_size": p.batch_size}
    return Head(source, "linear", chosen, selected_on(validation), float(100 * hits[v, r] / len(validation)), predict)


def logistic_head(source: str, features: CleanFeatures, protocol: Group, device: torch.device) -> Head:
    """Logistic regression with the C that is best on validation, the smallest of equals."""
    train, validation = (Labeled(part.pooled, part.labels) for part in (features.train, features.validation))
    model = LogisticFit(train, device)
    weight, fits = None, []
    for C in sorted(protocol.logistic.C):
        weight, _ = model.fit(C, protocol.logistic.iterations, weight)
        fits.append((model.hits(validation, weight), C, weight))
    hits, C, best = max(fits, key=lambda fit: (fit[0], -fit[1]))

    def predict(rows: np.ndarray) -> np.ndarray:
        return model.present[np.concatenate([z.argmax(1).cpu().numpy() for z in model.logits(rows, best)])]

    return Head(source, "logistic", {"C": C}, selected_on(validation), 100 * hits / len(validation), predict)


def selected_on(validation: Labeled) -> str:
    return f"{len(validation):,} validation images"
