"""How good an exported version is on a split: a classifier's own accuracy, or kNN's on an encoder's features.

Of images that may have several labels it is mean average precision; of images without labels, the share of images whose
nearest other image is the one that torch finds.
"""
import numpy as np
import torch
from torch import Tensor

from deploy.export_module import ExportModule
from deploy.runtime import Runner, eager
from linear_eval.average_precision import mean_average_precision
from linear_eval.features import evenly
from linear_eval.knn import knn_accuracy, knn_map, neighbors
from vision.splits import Dataset, Images

BATCH = 250  # images at a time
NEIGHBORS = 10_000  # training images that kNN searches, at most


def run_split(runner: Runner, module: ExportModule, split: Images, indices: Tensor | None = None) -> np.ndarray:
    """The first output for a split's images, or for some of them.  → N,K or N,D.  Raises ValueError where it is not finite."""
    indices = torch.arange(len(split)) if indices is None else indices
    outputs = np.concatenate([runner(module.preprocess(split, part)) for part in indices.split(BATCH)])
    if not np.isfinite(outputs).all():
        raise ValueError(f"encoder={module.header.spec.name}: its outputs are not finite")
    return outputs


def accuracy(runner: Runner, module: ExportModule, data: Dataset, split: Images) -> float:
    """In per cent, by what `metric` names."""
    outputs = run_split(runner, module, split)
    if data.classes is None:
        return same_neighbor(outputs, run_split(eager(module), module, split))
    if module.header.multilabel:
        return 100 * mean_average_precision(split.labels.numpy(), outputs)
    if module.header.classes is not None:
        return float((outputs.argmax(1) == split.labels.numpy()).mean() * 100)
    reference = data.train.select(evenly(len(data.train), NEIGHBORS))
    features = torch.from_numpy(run_split(runner, module, reference))
    if data.multilabel:
        return knn_map(features, reference.labels, torch.from_numpy(outputs), split.labels)
    return knn_accuracy(features, reference.labels, torch.from_numpy(outputs), split.labels, len(data.classes))


def metric(module: ExportModule, data: Dataset) -> str:
    """What `accuracy` measures."""
    if data.classes is None:
        return "same nearest image as torch"
    what = "mean average precision" if data.multilabel else "accuracy"
    return what if module.header.classes is not None else f"kNN {what}"


def same_neighbor(features: np.ndarray, of_torch: np.ndarray) -> float:
    """Per cent of the images whose most similar other image is the same.  N,D and N,D"""
    first, second = (_nearest_other(x) for x in (features, of_torch))
    return float((first == second).mean() * 100)


def _nearest_other(x: np.ndarray) -> np.ndarray:
    _, index = neighbors(x, x, 2)
    own = np.arange(len(x))
    return np.where(index[:, 0] == own, index[:, -1], index[:, 0])
